"""Rows that inference mode has made: a sampler's fakes, a data set's images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgan import penalties
from fastgan.mlp import MLP

PENALTIES: dict[str, Callable[..., Tensor]] = {
    "gradient_penalty": lambda critic, x, y: penalties.gradient_penalty(critic, x, y, alpha=0.25),
    "gradient_penalty, fakes alone": lambda critic, x, y: penalties.gradient_penalty(critic, x.clone(), y, alpha=0.0),
    "r1": lambda critic, x, y: penalties.r1_penalty(critic, x),
    "r2": lambda critic, x, y: penalties.r2_penalty(critic, y),
    "dragan": lambda critic, x, y: penalties.dragan_penalty(critic, x, generator=torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.ELU()], ids=["closed form", "autograd"])
def test_rows_are_as_any_others(penalty: Callable[..., Tensor], activation: nn.Module) -> None:
    critic = nn.Sequential(nn.Linear(6, 5), activation, nn.Linear(5, 1)).double()
    with torch.inference_mode():
        x, y = torch.randn(2, 7, 6, dtype=torch.float64)
    results = []
    for rows in ((x, y), (x.clone(), y.clone())):
        value = penalty(critic, *rows)
        results.append((value, *torch.autograd.grad(value, [critic[0].weight, critic[2].weight])))
    for made, plain in zip(*results, strict=True):
        assert torch.equal(made, plain)


def test_a_closed_form_of_them_is_differentiated_again() -> None:
    critic = MLP((4, 5, 1), activation="leaky_relu").double()
    with torch.inference_mode():
        x = torch.randn(6, 4, dtype=torch.float64)
    weight = critic.layers[0].weight
    second = []
    for rows in (x, x.clone()):
        (slope,) = torch.autograd.grad(penalties.r1_penalty(critic, rows), weight, create_graph=True)
        second.append(torch.autograd.grad(slope.square().sum(), weight)[0])
    torch.testing.assert_close(*second)
