"""penalty by Triton: a row's value and factor, of norms on both sides of the target."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from fastgan.kernels.penalty import value_and_factor
from torch import Tensor

from fastgan.ops.penalty import PenaltyForm, penalty_gradient


@triton.jit
def rows_kernel(values, factors, squares, weight, target, one_sided, SQUARED: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    value, factor = value_and_factor(tl.load(squares + place), weight, target, one_sided, SQUARED)
    tl.store(values + place, value)
    tl.store(factors + place, factor)


def run(squares: Tensor, form: PenaltyForm) -> tuple[Tensor, Tensor]:
    """The rows' values and factors, for a weight that is shared by the rows."""
    values, factors, weight = torch.empty_like(squares), torch.empty_like(squares), form.weight / len(squares)
    given = dict(target=form.target, one_sided=int(form.one_sided), SQUARED=form.squared, BLOCK=len(squares))
    rows_kernel[(1,)](values, factors, squares, weight, **given)
    return values.cpu(), factors.cpu()


FORMS = [
    PenaltyForm(False, 10.0, 1.0),
    PenaltyForm(False, 10.0, 1.0, one_sided=True),
    PenaltyForm(False, 3.0, 0.0),
    PenaltyForm(True, 4.0),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_rows_value_and_factor(form: PenaltyForm, device: torch.device) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(8, 5, dtype=torch.float64)
    gradient *= torch.tensor([0.0, 0.1, 0.4, 0.99, 1.01, 2.0, 7.0, 60.0])[:, None] / gradient.norm(dim=1, keepdim=True)
    values, factors = run(gradient.square().sum(1).float().to(device), form)
    value, derivative = penalty_gradient(gradient, form)
    torch.testing.assert_close(values.double().sum(), value, rtol=1e-6, atol=0)
    torch.testing.assert_close(factors[:, None] * gradient, derivative, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_not_a_number_stays_so(form: PenaltyForm, device: torch.device) -> None:
    squares = torch.tensor([torch.nan, torch.nan, 1.5, 0.5], device=device)
    values, factors = run(squares, form)
    assert values[:2].isnan().all() and values[2:].isfinite().all() and factors[2:].isfinite().all()
    assert form.squared or factors[:2].isnan().all()
