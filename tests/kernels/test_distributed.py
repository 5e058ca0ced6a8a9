"""Two processes of half a batch each, over Triton's kernels, against one of the whole batch over torch's products in fp64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastgan import Trainer, optim, penalties
from fastgan.mlp import MLP

SCRIPT = """
import sys, torch
from patch_once import patch_once_a_launch
patch_once_a_launch()
from fastgan.chain.triton_tiles import TritonProducts
from fastgan.runtime import distributed
from two_processes import GAMES, trainer
with distributed.process_group("cpu") as world:
    results = {}
    for name in GAMES:
        game = trainer(name, "fp32")
        metrics = game.step(3)
        assert isinstance(game._runner.engine.products[0], TritonProducts)
        results[name] = {"state": game.state_dict(), "metrics": dict(metrics)}
    torch.save(results, f"{sys.argv[1]}/{world.rank}.pt")
"""
HERE = Path(__file__)
SGD = dict(g_optimizer=optim.SGD(0.05), d_optimizer=optim.SGD(0.05))
GAMES = {
    "relativistic-average": dict(loss="relativistic-average", ema=0.9, penalty=[penalties.R1(2.0), penalties.R2(1.0)], **SGD),
    "wgan-gp": dict(loss="wgan-gp", d_steps=2, **SGD),
}


def trainer(name: str, precision: str) -> Trainer:
    torch.manual_seed(5)
    data = torch.linspace(-1, 1, 180).sin().view(30, 6)
    networks = MLP((3, 9, 12, 6), output="tanh"), MLP((6, 14, 8, 1), activation="leaky_relu", dropout=0.25)
    return Trainer(*networks, precision=precision, device="cpu", seed=3, **GAMES[name]).attach(data, 8)


def test_two_processes_are_one(tmp_path: Path, device: torch.device, run_two_processes: Callable[..., list]) -> None:
    if device.type != "cpu":
        pytest.skip("two processes of one GPU cannot talk by NCCL")
    modules = dict(two_processes=HERE, patch_once=HERE.with_name("patch_once.py"))
    ranks = run_two_processes(tmp_path, SCRIPT, {"FASTGAN_BACKEND": "triton"}, **modules)
    for name in GAMES:
        alone = trainer(name, "fp64")
        metrics = alone.step(3)
        expected = alone.state_dict()
        for found in (rank[name] for rank in ranks):
            for network in ("generator", "discriminator"):
                for key, value in expected[network].items():
                    torch.testing.assert_close(found["state"][network][key].double(), value, rtol=1e-4, atol=1e-5)
            for key, value in metrics.items():
                torch.testing.assert_close(found["metrics"][key].double(), value, rtol=2e-4, atol=2e-5)
