"""What training changes, gathered to be saved and taken over again; and whether a checkpoint is of the same run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import models, optim, penalties
from ..engines.cuda_graph import RANDOM, Eager
from ..engines.flat_network import FlatNetwork
from ..engines.game import Game
from ..penalties import Spec
from ..runtime.arguments import describe
from . import checkpoint
from .arguments import is_whole
from .checkpoint import Checkpoint, CheckpointError

log = logging.getLogger("fastgan")

# what a run is a function of
COMPARED = ("loss", "penalty", "g_optimizer", "d_optimizer", "d_steps", "ema", "precision", "engine", "seed", "data")
ASKED = ("engine", "capture", "steps_per_graph")  # as they were asked for; the first checkpoints of format 1 have none of them
INSTRUCTION_SET, NOT_SAID = "instruction_set", "not said"  # which makes the same run, but not to the last bit
MOST_DIMENSIONS = 32  # of a sample; torch has no tensors of more than 64
OPTIMIZERS = ("g_optimizer", "d_optimizer")
PARTS = dict.fromkeys(("generator", "discriminator", *OPTIMIZERS, "step"), Mapping) | {"step_count": int, "skipped": Tensor}


def network_states(game: Game) -> dict[str, Any]:
    """Both networks' state dicts, by their roles."""
    return {"generator": game.generator.module.state_dict(), "discriminator": game.discriminator.module.state_dict()}


def averaged(network: FlatNetwork) -> dict[str, Any]:
    """The network's state dict with the moving average in place of the weights that are trained."""
    network.ensure_views(frozen=True)
    ema = network.averages()
    return {name: ema.get(id(value), value) for name, value in network.module.state_dict(keep_vars=True).items()}


def progress(game: Game, player: Eager, step_count: int) -> dict[str, Any]:
    """All that training changes besides the networks, and the shape of samples: tensors and plain data."""
    shape = {} if game.sample_shape is None else {"sample_shape": game.sample_shape}
    return shape | {
        "step_count": step_count,
        "skipped": game.skipped,
        "g_optimizer": game.generator.state_dict(),
        "d_optimizer": game.discriminator.state_dict(),
        "step": player.state_dict(),
    }


def gathered(game: Game, player: Eager, step_count: int, config: dict[str, Any]) -> Checkpoint:
    """All of it, as a checkpoint has it."""
    average = {} if game.generator.ema is None else {"average": averaged(game.generator)}
    return Checkpoint(network_states(game) | average, progress(game, player, step_count), config)


def check_form(state: Any) -> None:
    """TypeError or CheckpointError for anything but what `Trainer.state_dict` returns; the message says what to write."""
    if isinstance(state, (str, os.PathLike)):
        raise TypeError(
            f"load_state_dict takes what state_dict() returned; for a checkpoint write restore({os.fspath(state)!r})"
        )
    if not isinstance(state, Mapping):
        raise TypeError(f"load_state_dict takes what state_dict() returned, got {describe(state)}")
    lacking = [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]
    if lacking:
        raise CheckpointError(
            f"a dict without {', '.join(lacking)} is no trainer's state: load_state_dict takes what state_dict() returned, and "
            "one network's weights go into trainer.generator.load_state_dict, or the discriminator's"
        )
    if not is_whole(state["step_count"], 0, 2**63 - 1):
        raise CheckpointError(f"the saved step_count must be a whole number >= 0, got {describe(state['step_count'])}")
    shape = state.get("sample_shape", ())
    is_shape = isinstance(shape, (tuple, list)) and len(shape) <= MOST_DIMENSIONS
    if not is_shape or not all(is_whole(extent, 1) for extent in shape):
        got = repr(shape) if is_shape and all(isinstance(extent, int) for extent in shape) else describe(shape)
        raise CheckpointError(f"the saved sample_shape must be a sample's shape, such as (1, 28, 28), got {got}")


def check_networks(game: Game, state: Mapping[str, Any]) -> None:
    """CheckpointError where a state does not fit the networks; the message names the parameter."""
    for role, network in (("generator", game.generator), ("discriminator", game.discriminator)):
        network.ensure_views(frozen=True)
        checkpoint.check_fit(role, network.module.state_dict(), state[role])


def check_state(game: Game, player: Eager, state: Mapping[str, Any]) -> None:
    """CheckpointError where a state does not fit the networks, the average, the optimizers or the precision."""
    check_networks(game, state)
    saved, own = ("average" in state["g_optimizer"], game.generator.ema is not None)
    if saved != own:
        remedy = "with the ema= that it had" if saved else "without ema="
        raise CheckpointError(
            f"the saved state has {'an' if saved else 'no'} average of the generator's weights (ema), and this trainer "
            f"{'has one' if own else 'none'}: create the trainer {remedy}"
        )
    _check_tensors("", {"skipped": game.skipped}, state)
    for name, network in zip(OPTIMIZERS, (game.generator, game.discriminator), strict=True):
        _check_tensors(f"{name}'s ", network.state_dict(), state[name])
        try:
            network.check_state(state[name])
        except ValueError as reason:
            raise CheckpointError(f"the saved state is of another {name}: {reason}") from None
    player_state = player.state_dict()
    saved_step, own_step = (names - {RANDOM} for names in (state["step"].keys(), player_state.keys()))
    if saved_step != own_step:
        raise CheckpointError(
            f"the saved state is of another precision: it has {'a' if saved_step else 'no'} loss scale, which fp16 has alone, "
            f"and this trainer's precision is {game.precision}"
        )
    _check_tensors("step's ", player_state, state["step"])


def _check_tensors(where: str, own: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    """CheckpointError where something is no tensor of the own one's dtype, or is several numbers in place of one."""
    for name, tensor in own.items():
        value = saved.get(name, tensor)
        alike = isinstance(value, Tensor) and value.dtype == tensor.dtype and (value.dim() == 0 or tensor.dim() > 0)
        if not alike or value.is_meta or value.layout != tensor.layout:
            raise CheckpointError(f"the saved {where}{name} must be {describe(tensor)}, got {describe(value)}")


def take_over(game: Game, player: Eager, state: Mapping[str, Any]) -> int:
    """Makes a checked state the game's own, in place; returns its number of steps."""
    game.generator.module.load_state_dict(state["generator"])
    game.discriminator.module.load_state_dict(state["discriminator"])
    game.generator.load_state_dict(state["g_optimizer"])
    game.discriminator.load_state_dict(state["d_optimizer"])
    player.load_state_dict(state["step"])
    game.generator.skipped.copy_(state["skipped"])
    game.discriminator.skipped.zero_()
    return int(state["step_count"])


def configuration(game: Game, loss: str, specs: Iterable[Spec], data: dict[str, Any]) -> dict[str, Any]:
    """Everything that a run is a function of, besides the data's content, as plain data."""
    networks = {"generator": game.generator, "discriminator": game.discriminator}
    return {
        "loss": loss,
        "penalty": penalties.to_config(specs),
        "g_optimizer": optim.to_config(game.generator.spec),
        "d_optimizer": optim.to_config(game.discriminator.spec),
        "d_steps": game.d_steps,
        "ema": game.generator.ema_decay,
        "precision": game.precision,
        "seed": game.seed,
        "networks": {role: models.describe(network.module) for role, network in networks.items()},
        "data": data,
    }


def check_same_run(folder: str | Path, saved: Checkpoint, game: Game, config: dict[str, Any]) -> None:
    """CheckpointError for other networks, or a configuration that differs from this one; data may be unknown on one side."""
    check_networks(game, saved.weights)
    there, here = _comparable(saved.config), _comparable(json.loads(json.dumps(config)))
    for name in there:
        if there[name] != here.get(name, there[name]) and not (name == "data" and {} in (there[name], here[name])):
            raise CheckpointError(f"{folder} was trained with another {name}: {there[name]} there, {here[name]} here")
    before, now = (found.get(INSTRUCTION_SET, NOT_SAID) for found in (saved.config, config))
    if before not in (now, NOT_SAID):
        those = [repr(name) if name else "torch's" for name in (before, now)]
        log.warning("%s was trained with %s products and goes on with %s: bits may differ from here on", folder, *those)


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What is compared of a configuration, by names for messages; classes may have moved to other modules."""
    named = {name: config[name] for name in COMPARED if name in config}
    named["penalty"] = [{name: value for name, value in entry.items() if name != "module"} for entry in config["penalty"]]
    own = {role: description for role, description in config["networks"].items() if len(description) > 1}
    return named | own
