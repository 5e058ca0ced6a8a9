"""The configuration in a checkpoint: whether a trainer has written it, and the trainer's arguments that it makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .. import models, optim, penalties
from ..runtime.arguments import describe
from ..runtime.precision import PRECISIONS
from . import checkpoint, checkpoint_files, run_state, setup
from .arguments import check
from .checkpoint import Checkpoint, CheckpointError
from .presets import preset

ROLES = ("generator", "discriminator")


def check_whole(saved: Checkpoint) -> None:
    """CheckpointError for a checkpoint that has its sums, and is none that a trainer has written."""
    config, weights = saved.config, saved.weights
    for role in ROLES:
        if role not in weights:
            raise CheckpointError(f"it has no weights of the {role}")
    with understood("state"):
        run_state.check_form({**weights, **saved.state})
        average = weights.get("average", {})
        checkpoint.check_fit("average", {name: weights["generator"].get(name) for name in average}, average)
    with understood("configuration"):
        _own_arguments(config)
        averages = [config["ema"] is not None, "average" in weights, "average" in saved.state["g_optimizer"]]
        check(len(set(averages)) == 1, f"ema is {describe(config['ema'])}, and not all of the average is there")
        _check_data(config["data"])
        _check_penalties(config["penalty"])
        set_ = config.get(run_state.INSTRUCTION_SET)
        check(set_ is None or isinstance(set_, str), f"instruction_set is {describe(set_)}")
        for role in ROLES:
            description = config["networks"][role]
            check(isinstance(description["type"], str), f"the {role}'s type is {describe(description['type'])}")
            if models.is_own(description):
                _check_network(role, description, weights[role])


def _check_data(data: Any) -> None:
    """Of a run without data so far, it is empty."""
    check(isinstance(data, dict), f"data is {describe(data)}")
    kinds = {"name": str, "fingerprint": str, "batch_size": int}
    check(not data or {name: type(data.get(name)) for name in kinds} == kinds, f"data is {describe(data)}")


def _check_penalties(entries: Any) -> None:
    check(isinstance(entries, list), f"penalty is {describe(entries)}")
    for entry in entries:
        check(isinstance(entry["type"], str), f"a penalty's type is {describe(entry['type'])}")
    if all(map(penalties.config.is_own, entries)):
        penalties.as_specs(penalties.from_config(entries))


def _check_network(role: str, description: dict[str, Any], weights: dict[str, Any]) -> None:
    """A network of another size than its weights, which may be any, is not built."""
    with torch.device("meta"):
        network = models.build(description, role)
    check(models.describe(network) == description, f"the {role} is {describe(description)}")
    for name, tensor in network.state_dict().items():
        shape = getattr(weights.get(name), "shape", None)
        check(tensor.shape == shape, f"the {role}'s {name} is {tuple(tensor.shape)}, of its weights {shape and tuple(shape)}")


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Inside, whatever nothing can be made of in a checkpoint's configuration or state is a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else checkpoint_files.said(error)
        raise CheckpointError(f"its {what} is none that a trainer has: {said}") from error


def _own_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The trainer's arguments besides networks and penalties, each of its kind and in its range."""
    found = {name: config[name] for name in ("loss", "d_steps", "ema", "precision", "seed")}
    asked = {"engine": "auto", "capture": "auto", "steps_per_graph": 16}
    asked |= {name: config[name] for name in run_state.ASKED if name in config}
    preset(found["loss"])
    setup.check_ema(found["ema"])
    setup.check_choices(found["d_steps"], found["seed"], found["ema"], **asked)
    check(found["precision"] in PRECISIONS, f"unknown precision {found['precision']!r}")
    found |= {name: value for name, value in asked.items() if name in config}
    return found | {name: optim.from_config(config[name]) for name in run_state.OPTIMIZERS}


def arguments(saved: Checkpoint, generator: Any, discriminator: Any, penalty: Any) -> dict[str, Any]:
    """The arguments of the trainer that wrote a checkpoint, which `check_whole` has seen.

    Networks and penalties are built where none are given and they are fastgan's; CheckpointError where they are not, and for
    given networks that do not fit.
    """
    config = saved.config
    same = _own_arguments(config)
    try:
        for role, network in zip(ROLES, (generator, discriminator), strict=True):
            same[role] = models.build(config["networks"][role], role) if network is None else network
            if isinstance(network, nn.Module) and config["precision"] != "fp64":  # in which a trainer turns any network
                checkpoint.check_fit(role, network.state_dict(), saved.weights[role])
        same["penalty"] = penalties.from_config(config["penalty"]) if penalty is None else penalty
    except (TypeError, ValueError) as reason:
        raise CheckpointError(str(reason)) from None
    return same
