"""What training changes, gathered to be saved and taken over again; and whether a checkpoint is of the same run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from .. import models, optim, penalties
from ..engines.cuda_graph import Eager
from ..engines.game import Game
from ..penalties import Spec
from . import checkpoint
from .checkpoint import Checkpoint, CheckpointError

COMPARED = ("loss", "penalty", "g_optimizer", "d_optimizer", "d_steps", "ema", "seed", "data")  # what a run is a function of


def network_states(game: Game) -> dict[str, Any]:
    """Both networks' state dicts, by their roles."""
    return {"generator": game.generator.module.state_dict(), "discriminator": game.discriminator.module.state_dict()}


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


def check_state(game: Game, state: dict[str, Any]) -> None:
    """CheckpointError where a state does not fit the networks or the optimizers."""
    for role, network in (("generator", game.generator), ("discriminator", game.discriminator)):
        network.ensure_views()
        checkpoint.check_fit(role, network.module.state_dict(), state[role])
    for name, network in (("g_optimizer", game.generator), ("d_optimizer", game.discriminator)):
        network.check_state(state[name])


def take_over(game: Game, player: Eager, state: dict[str, Any]) -> int:
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


def check_same_run(folder: str | Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """CheckpointError for a configuration that differs from this trainer's; data may be unknown on one side."""
    mine = json.loads(json.dumps(now))
    for name in COMPARED:
        there, here = saved[name], mine[name]
        if there != here and not (name == "data" and {} in (there, here)):
            raise CheckpointError(f"{folder} was trained with another {name}: {there} there, {here} here")


def arguments(saved: Checkpoint, generator: nn.Module | None, discriminator: nn.Module | None) -> dict[str, Any]:
    """The arguments of the trainer that wrote a checkpoint, with networks built where none are given and they are fastgan's."""
    config = saved.config
    networks = {"generator": generator, "discriminator": discriminator}
    same: dict[str, Any] = {r: network or models.build(config["networks"][r], r) for r, network in networks.items()}
    same |= {name: config[name] for name in ("loss", "d_steps", "ema", "precision", "seed")}
    same |= {name: optim.from_config(config[name]) for name in ("g_optimizer", "d_optimizer")}
    return same | {"penalty": penalties.from_config(config["penalty"])}
