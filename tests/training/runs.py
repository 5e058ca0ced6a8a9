"""Small trainers whose runs are compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgan import CheckpointError, Trainer
from fastgan.runtime.distributed import World

POINTS = torch.linspace(-1, 1, 96).view(12, 8)


def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh())


def critic() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(16, 1))


def trainer_of(make_generator: Callable = generator, make_critic: Callable = critic, **options) -> Trainer:
    torch.manual_seed(0)
    return Trainer(make_generator(), make_critic(), **{"device": "cpu", "precision": "fp32", "seed": 3} | options)


def trained(*pair: Callable, **options) -> Trainer:
    trainer = trainer_of(*pair, **options).attach(POINTS, 4)
    trainer.step(2)
    return trainer


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    networks = {"g": trainer.generator, "d": trainer.discriminator}
    return {f"{role}.{name}": p.detach().clone() for role, net in networks.items() for name, p in net.named_parameters()}


def assert_same_weights(one: Trainer, other: Trainer) -> None:
    mine, theirs = weights_of(one), weights_of(other)
    assert not [name for name in mine if not torch.equal(mine[name], theirs[name])]


def assert_refused(read: Callable[[], object]) -> str:
    """The message of a CheckpointError, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        read()
    message = str(caught.value)
    assert 0 < len(message) < 1000 and len(message.splitlines()) == 1
    return message


class Counting:
    """A trainer that only counts, as many steps at once as it may."""

    batch_size, d_steps, precision, engine, stride, skipped = 8, 1, "fp32", "counting", 1000, 0
    device, skips = torch.device("cpu"), torch.zeros(())

    def __init__(self, world: World | None = None) -> None:
        self.world, self.step_count = world or World(0, 1), 0
        self.strides: list[int] = []

    def step(self, n: int = 1) -> dict[str, Tensor]:
        self.strides.append(n)
        self.step_count += n
        return {}
