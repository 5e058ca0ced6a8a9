"""A spec's value and its derivative, which the closed form takes, belong together, whatever the factor of a lazy penalty."""

from __future__ import annotations

import pytest
import torch

from fastgan.penalties import DRAGAN, R1, R2, GradientPenalty, Penalty

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
