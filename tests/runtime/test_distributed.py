"""Two processes of half a batch each against one of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan import Trainer, penalties

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, torch, fastgan
from fastgan.runtime import distributed
from tests_game import GAMES, trainer
with distributed.process_group("cpu") as world:
    torch.manual_seed(world.rank)
    results = {}
    for name in GAMES:
        game = trainer(name)
        metrics = game.step(4)
        results[name] = {"state": game.state_dict(), "metrics": metrics}
    torch.save(results, f"{sys.argv[1]}/{world.rank}.pt")
"""

GAMES = {
    "relativistic-average": dict(loss="relativistic-average", ema=0.9),
    "wgan-gp": dict(loss="wgan-gp", d_steps=2),
    "dragan": dict(loss="hinge", penalty=penalties.DRAGAN()),
}


def trainer(name: str) -> Trainer:
    data = torch.linspace(-1, 1, 60).sin().view(30, 2)
    networks = fastgan.Generator(4, image_size=2), fastgan.Discriminator(image_size=2)
    return Trainer(*networks, precision="fp64", device="cpu", seed=3, **GAMES[name]).attach(data, 8)


@pytest.fixture(scope="module")
def ranks(make_once: Callable[..., Path], run_two_processes: Callable[..., list]) -> list[dict]:
    """What each of two processes ends with, for every game."""
    folder = make_once("games_of_ranks", lambda folder: run_two_processes(folder, SCRIPT, tests_game=Path(__file__)))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", GAMES)
def test_two_processes_are_one(name, ranks):
    alone = trainer(name)
    metrics = alone.step(4)
    for rank in ranks:
        for network in ("generator", "discriminator"):
            for key, value in alone.state_dict()[network].items():
                torch.testing.assert_close(rank[name]["state"][network][key], value, rtol=1e-8, atol=1e-10)
        for key, value in metrics.items():
            torch.testing.assert_close(rank[name]["metrics"][key], value, rtol=1e-8, atol=1e-10)
