"""Losses, penalties and layers of a critic in DistributedDataParallel: two processes of half a batch each, one backward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.contexts.operators import OPERATORS, Operator, critic_of, half, plain, plain_game

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, torch
from torch.nn.parallel import DistributedDataParallel
from fastgan.runtime import distributed
from operators import OPERATORS, critic_of, half, plain_game, rows
with distributed.process_group("cpu") as world:
    found = {}
    for name, operator in OPERATORS.items():
        critic = critic_of(operator)
        wrapped = DistributedDataParallel(critic)
        for way, of in (("wrapped", wrapped), ("inside", critic)):
            critic.zero_grad()
            (operator.fastgan(of, *half(world.rank)) + plain_game(wrapped, *half(world.rank))).backward()
            found[f"{name}, {way}"] = [p.grad.clone() for p in critic.parameters()]
    torch.save(found, f"{sys.argv[1]}/{world.rank}.pt")
"""


@pytest.fixture(scope="module")
def ranks(make_once: Callable[..., Path], run_two_processes: Callable[..., list]) -> list[dict]:
    """The gradients that each of two processes ends with, for every operator."""
    operators = Path(__file__).with_name("operators.py")
    folder = make_once("gradients_of_ranks", lambda folder: run_two_processes(folder, SCRIPT, operators=operators))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def expected(operator: Operator) -> list[Tensor]:
    """The mean over both halves, as one process computes it."""
    critic = critic_of(operator)
    values = [operator.torch(plain(critic), *half(rank)) + plain_game(critic, *half(rank)) for rank in range(2)]
    return list(torch.autograd.grad(sum(values[1:], values[0]) / 2, list(critic.parameters())))


@pytest.mark.parametrize("way", ["wrapped", "inside"])
@pytest.mark.parametrize("name", OPERATORS)
def test_distributed_data_parallel(name: str, way: str, ranks: list[dict]) -> None:
    """The critic as DDP wraps it; or inside, where a penalty may take the closed form, beside a loss through the wrapper."""
    for rank in ranks:
        torch.testing.assert_close(rank[f"{name}, {way}"], expected(OPERATORS[name]), rtol=1e-10, atol=1e-12)
