"""A spec's value and its derivative, which the closed form takes; and the points at which a penalty takes the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgan.ops.sample import Draws
from fastgan.penalties import DRAGAN, R1, R2, GradientPenalty, Penalty, dragan_penalty, gradient_penalty

SPECS = [
    GradientPenalty(3.0),
    GradientPenalty(3.0, 0.5),
    GradientPenalty(3.0, 0.7, one_sided=True),
    DRAGAN(2.0, target=0.25),
    R1(4.0),
    R2(0.5),
]


@pytest.mark.parametrize("times", [1.0, 0.25, 16.0])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_derivative_is_the_values(spec: Penalty, times: float) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(7, 5, dtype=torch.float64) * torch.linspace(0.05, 1.0, 7, dtype=torch.float64)[:, None]
    leaf = gradient.clone().requires_grad_()
    value = times * spec.value(leaf)
    (slope,) = torch.autograd.grad(value, leaf)
    found, derivative = spec.penalty_gradient(gradient, times)
    torch.testing.assert_close(found, value.detach(), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(derivative, slope, rtol=1e-10, atol=1e-14)
    assert value > 0


@pytest.mark.parametrize("spec", [GradientPenalty(), DRAGAN()], ids=str)
def test_penalties_of_one_kind_have_points_of_their_own(spec: Penalty) -> None:
    draws = Draws(5, 3, dtype=torch.float64)
    real, fake = torch.rand(4, 3, dtype=torch.float64), -torch.rand(4, 3, dtype=torch.float64)
    first, second = (spec.points(real, fake, draws, index) for index in (0, 1))
    assert torch.equal(first, spec.points(real, fake, draws, 0)) and not (first == second).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_drawn_for_half_rows_is_fp32(dtype: torch.dtype) -> None:
    asked: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        asked.append(x.detach())
        return x.float().square().sum(1)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(3))

    real, fake = (torch.randn(64, 5).to(dtype) for _ in range(2))
    dragan_penalty(critic, real, std_scale=0.3, generator=torch.Generator().manual_seed(3))
    wanted = real.float() + 0.3 * real.float().std() * drawn(64, 5)
    assert torch.equal(asked[-1], wanted.to(dtype)), "rounded once"
    gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(3))
    wanted = real.float() + drawn(64)[:, None] * (fake.float() - real.float())
    torch.testing.assert_close(asked[-1].float(), wanted, rtol=0.0, atol=4 * torch.finfo(dtype).eps)
