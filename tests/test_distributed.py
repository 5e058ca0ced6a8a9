"""Two processes of half a batch each against one of the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan import Trainer, penalties

SCRIPT = """
import sys, torch, fastgan
from fastgan import distributed, penalties
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
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes ends with, for every game."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "run.py").write_text(SCRIPT)
    (folder / "tests_game.py").write_text(Path(__file__).read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(folder / "run.py"), str(folder)]
    both = [subprocess.Popen(command, env=shared | {"RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
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
