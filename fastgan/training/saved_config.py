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
from . import checkpoint, run_state, setup
from .arguments import check
from .checkpoint import Checkpoint, CheckpointError
from .presets import preset

ROLES = ("generator", "discriminator")


def check_whole(saved: Checkpoint) -> None:
    """CheckpointError for a checkpoint that has its sums, and is none that a trainer has written."""
    for role in ROLES:
        if role not in saved.weights:
            raise CheckpointError(f"it has no weights of the {role}")
    run_state.check_form({**saved.weights, **saved.state})
    config = saved.config
    with _understood():
        _own_arguments(config)
        check(isinstance(config["data"], dict), f"data is {describe(config['data'])}")
        for entry in config["penalty"]:
            check(isinstance(entry["type"], str), f"a penalty's type is {describe(entry['type'])}")
        for role in ROLES:
            description = config["networks"][role]
            check(isinstance(description["type"], str), f"the {role}'s type is {describe(description['type'])}")
            if models.is_own(description):
                _check_size(role, description, saved.weights[role])


def _check_size(role: str, description: dict[str, Any], weights: dict[str, Any]) -> None:
    """A network of another size than its weights, which may be any, is not built."""
    with torch.device("meta"):
        network = models.build(description, role)
    for name, tensor in network.state_dict().items():
        shape = getattr(weights.get(name), "shape", None)
        check(tensor.shape == shape, f"the {role}'s {name} is {tuple(tensor.shape)}, of its weights {shape and tuple(shape)}")


@contextmanager
def _understood() -> Iterator[None]:
    """Inside, whatever cannot be made of a configuration is a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"its configuration is none that a trainer has: {said[:200]}") from error


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
