"""Losses, penalties and layers of a critic in DistributedDataParallel: two processes of half a batch each, one backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fastgan.runtime.distributed import World
from tests.contexts.operators import OPERATORS, Operator, critic_of, half, plain, plain_game

pytestmark = pytest.mark.slow


def on_rank(folder: Path, world: World) -> dict[str, list[Tensor]]:
    """The gradients that a process ends with, for every operator."""
    found = {}
    for name, operator in OPERATORS.items():
        critic = critic_of(operator)
        wrapped = DistributedDataParallel(critic)
        for way, of in (("wrapped", wrapped), ("inside", critic)):
            critic.zero_grad()
            (operator.fastgan(of, *half(world.rank)) + plain_game(wrapped, *half(world.rank))).backward()
            found[f"{name}, {way}"] = [p.grad.clone() for p in critic.parameters()]
    return found


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
