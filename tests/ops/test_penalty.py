"""Penalties of given input gradients, and the direction they push, against sums written out in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from fastgan.ops import backend
from fastgan.ops.penalty import norm_penalty, square_penalty

WEIGHT, GAMMA = 7.0, 3.0
TWO_ROWS = torch.tensor([[3.0, 4.0], [0.0, 0.5]], dtype=torch.float64)  # norms 5 and 0.5

Operator = Callable[..., Tensor]


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def norms_by_hand(gradient: Tensor) -> list[float]:
    return [math.sqrt(sum(value * value for value in row)) for row in gradient.double().flatten(1).tolist()]


def norm_penalty_by_hand(gradient: Tensor, target: float = 1.0, one_sided: bool = False) -> float:
    excess = [norm - target for norm in norms_by_hand(gradient)]
    kept = [max(value, 0.0) if one_sided else value for value in excess]
    return WEIGHT * sum(value * value for value in kept) / len(kept)


@pytest.fixture(params=["auto", "reference"])
def push(request: pytest.FixtureRequest) -> Callable[[str], Operator]:
    return lambda name: backend.resolve(f"penalty.{name}_push", "cpu", request.param)


def test_values_known_by_heart() -> None:
    assert norm_penalty(TWO_ROWS, weight=10.0).item() == pytest.approx(10.0 * (16.0 + 0.25) / 2)
    assert norm_penalty(TWO_ROWS, weight=10.0, one_sided=True).item() == pytest.approx(10.0 * 16.0 / 2)
    assert norm_penalty(TWO_ROWS, weight=10.0, target=5.0).item() == pytest.approx(10.0 * 4.5**2 / 2)
    assert norm_penalty(TWO_ROWS, weight=10.0, target=0.0).item() == pytest.approx(10.0 * 25.25 / 2)
    assert square_penalty(TWO_ROWS, gamma=10.0).item() == pytest.approx(5.0 * 25.25 / 2)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 9), id="one row"),
        pytest.param((5, 1), id="one feature"),
        pytest.param((4, 784), id="images, flat"),
        pytest.param((4, 3, 5, 7), id="images: the norm is over channels, height and width"),
    ],
)
@pytest.mark.parametrize("one_sided", [False, True], ids=["two-sided", "one-sided"])
def test_norm_penalty_is_the_formula(shape: tuple[int, ...], one_sided: bool) -> None:
    gradient = normal(*shape) / math.sqrt(math.prod(shape[1:]))
    value = norm_penalty(gradient, weight=WEIGHT, target=0.9, one_sided=one_sided)
    assert value.dim() == 0
    assert value.item() == pytest.approx(norm_penalty_by_hand(gradient, 0.9, one_sided), rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 9), (5, 1), (4, 3, 5, 7)], ids=str)
def test_square_penalty_is_the_formula(shape: tuple[int, ...]) -> None:
    gradient = normal(*shape)
    expected = GAMMA / 2 * sum(norm * norm for norm in norms_by_hand(gradient)) / shape[0]
    assert square_penalty(gradient, gamma=GAMMA).item() == pytest.approx(expected, rel=1e-12)


def test_rows_of_unit_norm_cost_nothing_however_many() -> None:
    """A norm over the whole batch, a common slip, would give (sqrt(64) - 1)^2."""
    gradient = torch.nn.functional.normalize(normal(64, 10), dim=1)
    assert norm_penalty(gradient, weight=WEIGHT).item() == pytest.approx(0.0, abs=1e-25)


def test_strided_gradients_are_read_where_they_are() -> None:
    gradient = normal(12, 5).t()[:, ::2]
    assert not gradient.is_contiguous()
    assert norm_penalty(gradient, weight=WEIGHT).item() == pytest.approx(norm_penalty_by_hand(gradient), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_gradients_are_summed_in_fp32(dtype: torch.dtype) -> None:
    gradient = (normal(8, 784) * 20).to(dtype)  # squares sum to 3e5, beyond fp16
    value = norm_penalty(gradient, weight=WEIGHT)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(norm_penalty_by_hand(gradient), rel=2e-6)
    assert square_penalty(gradient, gamma=GAMMA).dtype == torch.float32


def test_fp64_stays_fp64() -> None:
    assert norm_penalty(TWO_ROWS, weight=1.0).dtype == square_penalty(TWO_ROWS, gamma=1.0).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_row_without_gradient_is_pushed_nowhere(push: Callable[[str], Operator], dtype: torch.dtype) -> None:
    gradient = torch.stack((torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype))).requires_grad_()
    value = norm_penalty(gradient, weight=WEIGHT)
    assert value.item() == pytest.approx(WEIGHT * (1.0 + 1.0) / 2)
    (slope,) = torch.autograd.grad(value, gradient)
    for direction in (slope, push("norm")(gradient.detach(), weight=WEIGHT)):
        assert direction[0].tolist() == [0.0] * 4
        assert direction[1].tolist() == pytest.approx([WEIGHT * 0.5] * 4)


@pytest.mark.parametrize("target", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("one_sided", [False, True], ids=["two-sided", "one-sided"])
@pytest.mark.parametrize("shape", [(6, 5), (1, 3), (3, 2, 2, 2)], ids=str)
def test_norm_push_is_the_slope_of_the_value(
    push: Callable[[str], Operator], target: float, one_sided: bool, shape: tuple[int, ...]
) -> None:
    gradient = normal(*shape).requires_grad_()
    options = dict(weight=WEIGHT, target=target, one_sided=one_sided)
    norms = gradient.flatten(1).square().sum(1).sqrt()
    excess = (norms - target).clamp(min=0.0) if one_sided else norms - target
    (expected,) = torch.autograd.grad(WEIGHT * excess.square().mean(), gradient)
    direction = push("norm")(gradient.detach(), **options)
    torch.testing.assert_close(direction, expected, rtol=1e-12, atol=1e-13)
    (slope,) = torch.autograd.grad(norm_penalty(gradient, **options), gradient)
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(6, 5), (1, 3), (3, 2, 2, 2)], ids=str)
def test_square_push_is_the_slope_of_the_value(push: Callable[[str], Operator], shape: tuple[int, ...]) -> None:
    gradient = normal(*shape).requires_grad_()
    expected = GAMMA / shape[0] * gradient.detach()
    torch.testing.assert_close(push("square")(gradient.detach(), gamma=GAMMA), expected, rtol=1e-14, atol=0)
    (slope,) = torch.autograd.grad(square_penalty(gradient, gamma=GAMMA), gradient)
    torch.testing.assert_close(slope, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "penalty",
    [
        pytest.param(partial(norm_penalty, weight=WEIGHT), id="norm"),
        pytest.param(partial(norm_penalty, weight=WEIGHT, target=0.0), id="norm, target 0"),
        pytest.param(partial(norm_penalty, weight=WEIGHT, one_sided=True), id="one-sided"),
        pytest.param(partial(square_penalty, gamma=GAMMA), id="square"),
    ],
)
def test_first_and_second_derivatives(penalty: Operator) -> None:
    gradient = normal(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(penalty, gradient)
    assert torch.autograd.gradgradcheck(penalty, gradient)


def test_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, reference, cpp, triton"):
        norm_penalty(TWO_ROWS, weight=1.0, backend="mkl")
    with pytest.raises(ValueError, match="auto, reference, cpp, triton"):
        square_penalty(TWO_ROWS, gamma=1.0, backend="mkl")
