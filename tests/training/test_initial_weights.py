"""Whose seed draws the initial weights: a network's own, or else the trainer's, unless somebody has changed them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastgan import Discriminator, Generator, Trainer


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


@pytest.mark.parametrize("seed", [0, 3])
def test_a_trainers_seed_draws_the_weights_of_networks_without_one(seed: int) -> None:
    generator, critic = Generator(4, image_size=4), Discriminator(image_size=4)
    Trainer(generator, critic, seed=seed, device="cpu")
    assert torch.equal(weights(generator), weights(Generator(4, image_size=4, seed=seed)))
    assert torch.equal(weights(critic), weights(Discriminator(image_size=4, seed=seed)))


def test_weights_that_are_somebodys_stay() -> None:
    generator, critic = Generator(4, image_size=4, seed=5), Discriminator(image_size=4)
    with torch.no_grad():
        critic.main.layers[0].weight[0, 0] += 1.0
    before = weights(generator), weights(critic)
    Trainer(generator, critic, seed=3, device="cpu")
    assert torch.equal(weights(generator), before[0]) and torch.equal(weights(critic), before[1])
