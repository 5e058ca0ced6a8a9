"""linear, slope, adjoint and tangent against numpy in fp64, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.ops import backend
from fastgan.ops.linear import ACTIVATIONS, linear

SLOPE = 0.2
ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda y: y,
    "relu": lambda y: np.maximum(y, 0.0),
    "leaky_relu": lambda y: np.where(y > 0, y, SLOPE * y),
    "tanh": np.tanh,
    "sigmoid": lambda y: 1.0 / (1.0 + np.exp(-y)),
}
TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda y: y,
    "relu": F.relu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=SLOPE),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
PIECEWISE_LINEAR = ("identity", "relu", "leaky_relu")


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def keep_mask(*shape: int, probability: float = 0.5, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(shape) >= probability).to(dtype) / (1.0 - probability)


def by_hand(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, scale: Tensor | None = None) -> Tensor:
    """scale * act(x W^T + b) as numpy sums in fp64."""
    pre = np.einsum("...i,oi->...o", x.double().numpy(), weight.double().numpy())
    pre = pre if bias is None else pre + bias.double().numpy()
    y = ARRAYS[activation](pre)
    return torch.from_numpy(np.asarray(y if scale is None else y * scale.double().numpy()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
def test_linear_is_the_formula(activation: str, with_bias: bool) -> None:
    x, weight, bias = normal(5, 7), normal(3, 7), normal(3) if with_bias else None
    y = linear(x, weight, bias, activation=activation, negative_slope=SLOPE)
    torch.testing.assert_close(y, by_hand(x, weight, bias, activation), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dropout_scale_multiplies_what_the_activation_returns(activation: str) -> None:
    x, weight, bias, scale = normal(6, 4), normal(5, 4), normal(5), keep_mask(6, 5)
    y = linear(x, weight, bias, activation=activation, negative_slope=SLOPE, scale=scale)
    torch.testing.assert_close(y, by_hand(x, weight, bias, activation, scale), rtol=1e-12, atol=1e-12)
    assert (y[scale == 0] == 0).all()


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 7), id="one row"),
        pytest.param((0, 7), id="no row"),
        pytest.param((7,), id="no batch dimension"),
        pytest.param((2, 3, 7), id="two batch dimensions"),
    ],
)
def test_linear_takes_the_shapes_that_torch_takes(shape: tuple[int, ...]) -> None:
    x, weight, bias = normal(*shape), normal(3, 7), normal(3)
    y = linear(x, weight, bias, activation="relu")
    assert y.shape == (*shape[:-1], 3)
    torch.testing.assert_close(y, by_hand(x, weight, bias, "relu"), rtol=1e-12, atol=1e-12)


def test_strided_arguments_are_read_where_they_are() -> None:
    x, weight, bias = normal(14, 5).t()[:, ::2], normal(7, 6).t()[::2], normal(6)[::2]
    assert not (x.is_contiguous() or weight.is_contiguous() or bias.is_contiguous())
    y = linear(x, weight, bias, activation="leaky_relu", negative_slope=SLOPE)
    torch.testing.assert_close(y, by_hand(x, weight, bias, "leaky_relu"), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
def test_error_is_at_most_twice_that_of_plain_torch(dtype: torch.dtype, activation: str) -> None:
    x, weight, bias = normal(16, 300, dtype=dtype), normal(40, 300, dtype=dtype) / 16, normal(40, dtype=dtype)
    expected = by_hand(x, weight, bias, activation)
    plain = TORCH[activation](F.linear(x, weight, bias))
    y = linear(x, weight, bias, activation=activation, negative_slope=SLOPE)
    assert y.dtype == (torch.float32 if activation == "tanh" else dtype)
    allowed = 2 * (plain.double() - expected).abs().max() + torch.finfo(dtype).tiny
    assert (y.double() - expected).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_a_saturated_unit_of_half_precision_still_learns(activation: str, dtype: torch.dtype) -> None:
    """tanh(5) rounds to 1 in either dtype, and so does sigmoid(10): a slope read from the rounded result would be 0."""
    bias = torch.full((1,), 5.0 if activation == "tanh" else 10.0, dtype=dtype, requires_grad=True)
    y = linear(torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype), bias, activation=activation)
    (slope,) = torch.autograd.grad(y.sum(), bias)
    assert y.to(dtype).item() == 1.0 and slope.item() == pytest.approx(1.816e-4 if activation == "tanh" else 4.54e-5, rel=1e-2)


def test_an_fp32_scale_leaves_half_precision_as_it_was() -> None:
    x, weight = normal(8, 16, dtype=torch.bfloat16), normal(4, 16, dtype=torch.bfloat16)
    scale = keep_mask(8, 4, probability=0.3, dtype=torch.float32)
    y = linear(x, weight, None, scale=scale)
    assert y.dtype == torch.bfloat16
    expected = (F.linear(x, weight).double() * scale.double()).to(torch.bfloat16)
    torch.testing.assert_close(y, expected, rtol=2**-8, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivatives(activation: str) -> None:
    scale = keep_mask(3, 2)
    arguments = [value.requires_grad_() for value in (normal(3, 4), normal(2, 4), normal(2))]
    run = partial(linear, activation=activation, negative_slope=SLOPE, scale=scale)
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)


@pytest.fixture(params=["auto", "reference"])
def operator(request: pytest.FixtureRequest) -> Callable[[str], Callable[..., Tensor]]:
    return lambda name: backend.resolve(f"linear.{name}", "cpu", request.param)


Operator = Callable[[str], Callable[..., Tensor]]


@pytest.mark.parametrize("activation", PIECEWISE_LINEAR)
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_slope_is_the_derivative_of_the_layer(operator: Operator, activation: str, dropout: bool) -> None:
    pre = normal(6, 5).requires_grad_()
    scale = keep_mask(6, 5) if dropout else None
    out = TORCH[activation](pre) * (1.0 if scale is None else scale)
    (expected,) = torch.autograd.grad(out.sum(), pre)
    m = operator("slope")(out.detach(), activation, SLOPE, scale)
    torch.testing.assert_close(m, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize(("activation", "expected"), [("relu", 0.0), ("leaky_relu", SLOPE), ("identity", 1.0)])
def test_slope_at_zero_is_torchs_own(operator: Operator, activation: str, expected: float) -> None:
    zero = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    (torchs,) = torch.autograd.grad(TORCH[activation](zero).sum(), zero)
    assert operator("slope")(zero.detach(), activation, SLOPE).item() == torchs.item() == expected


def test_a_slope_of_zero_is_a_leaky_relu_like_any_other(operator: Operator) -> None:
    activations = F.leaky_relu(normal(4, 4), 0.0)
    assert torch.equal(operator("slope")(activations, "leaky_relu", 0.0), (activations > 0).double())


def test_adjoint_is_the_backward_pass(operator: Operator) -> None:
    """U_l = m_l * (U_{l+1} W_{l+1}), as autograd has it; without m, the gradient at the input."""
    x, first, second = normal(5, 4).requires_grad_(), normal(6, 4), normal(1, 6)
    pre = F.linear(x, first)
    out = F.linear(F.leaky_relu(pre, SLOPE), second)
    at_pre, at_x = torch.autograd.grad(out.sum(), (pre, x))
    m = (F.leaky_relu(pre, SLOPE) / pre).detach()
    hidden = operator("adjoint")(torch.ones(5, 1, dtype=torch.float64), second, m)
    torch.testing.assert_close(hidden, at_pre, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(operator("adjoint")(hidden, first), at_x, rtol=1e-13, atol=1e-14)


def test_tangent_is_the_directional_derivative(operator: Operator) -> None:
    x, push, weight, bias = normal(5, 4), normal(5, 4), normal(6, 4), normal(6)

    def layer(rows: Tensor) -> Tensor:
        return F.relu(F.linear(rows, weight, bias))

    _, expected = torch.func.jvp(layer, (x,), (push,))
    m = (F.linear(x, weight, bias) > 0).double()
    torch.testing.assert_close(operator("tangent")(push, weight, m), expected, rtol=1e-13, atol=1e-14)


def test_adjoint_and_tangent_are_transposes_of_each_other(operator: Operator) -> None:
    """<u, T(v)> = <A(u), v>: both hold the same m and W."""
    weight, m, v, u = normal(6, 4), normal(5, 6), normal(5, 4), normal(5, 6)
    tangent = operator("tangent")(v, weight, m)
    adjoint = operator("adjoint")(m * u, weight)
    torch.testing.assert_close((u * tangent).sum(1), (adjoint * v).sum(1), rtol=1e-12, atol=1e-12)


def test_a_backend_that_does_not_exist_or_cannot_run_is_refused() -> None:
    x, weight = normal(2, 3), normal(1, 3)
    with pytest.raises(ValueError, match="auto, reference, cpp, triton"):
        linear(x, weight, None, backend="cudnn")
    with pytest.raises(backend.BackendUnavailable, match="triton"):
        linear(x, weight, None, backend="triton")
    assert torch.equal(linear(x, weight, None, backend="reference"), F.linear(x, weight))
