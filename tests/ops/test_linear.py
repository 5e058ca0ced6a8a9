"""linear and its derivatives, encode_activation, activation_slope, adjoint and tangent, against numpy and autograd in fp64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.ops import backend, reference, sample
from fastgan.ops.linear import ACTIVATIONS, Dropout, Layer, linear
from fastgan.ops.sample import MaskCounter

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
PIECEWISE_LINEAR = {"identity": 1.0, "relu": 0.0, "leaky_relu": SLOPE}  # with their negative slopes
WIDTHS = [1, 7, 130, 784]  # less than a vector, and its ends; more than one tile of dropout numbers
STREAMS = (5, 21, 2**31 + 5)
COUNTER = dict(seed=2**62 + 3, step=2**32 - 2, first_row=2**31 + 7)  # high bits everywhere
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
# a stored value's last bit; in bf16 dropout may multiply what was rounded already
ERROR = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7}


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


@pytest.fixture(params=["reference", "cpp"])
def backend_(request: pytest.FixtureRequest) -> str:
    if request.param == "cpp":
        request.getfixturevalue("requires_extension")
    return request.param


def dropout(probability: float = 0.5) -> Dropout:
    return Dropout(probability, MaskCounter(COUNTER["seed"], COUNTER["step"], STREAMS[:1], COUNTER["first_row"]))


def drawn(rows: int, columns: int, probability: float = 0.5) -> Tensor:
    """The mask of `dropout` as the reference draws it."""
    return reference.dropout_scale(rows, columns, probability, dtype=torch.float64, stream=STREAMS[0], **COUNTER)


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dropout_multiplies_what_the_activation_returns(backend_: str, activation: str, with_bias: bool) -> None:
    x, weight, bias, scale = normal(6, 4), normal(50, 4), normal(50) if with_bias else None, drawn(6, 50)
    y = linear(x, weight, bias, activation=activation, negative_slope=SLOPE, dropout=dropout(), backend=backend_)
    torch.testing.assert_close(y, by_hand(x, weight, bias, activation, scale), rtol=1e-12, atol=1e-12)
    assert (y[scale == 0] == 0).all() and 50 < (y == 0).sum() < 250


@pytest.mark.parametrize("shape", [(0, 7), (1, 7), (7,), (2, 3, 7)], ids=str)
def test_dropout_of_any_shape(backend_: str, shape: tuple[int, ...]) -> None:
    x, weight, bias = normal(*shape), normal(9, 7), normal(9)
    y = linear(x, weight, bias, activation="relu", dropout=dropout(0.25), backend=backend_)
    expected = linear(x, weight, bias, activation="relu", dropout=dropout(0.25), backend="reference")
    assert y.shape == (*shape[:-1], 9)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


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
    y = reference.linear(x, weight, None, scale=scale)
    assert y.dtype == torch.bfloat16
    expected = (F.linear(x, weight).double() * scale.double()).to(torch.bfloat16)
    torch.testing.assert_close(y, expected, rtol=2**-8, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dropped", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_to_third_order(backend_: str, activation: str, dropped: bool) -> None:
    arguments = [value.requires_grad_() for value in (normal(2, 3), normal(4, 3), normal(4))]
    how = dropout() if dropped else None
    run = partial(linear, activation=activation, negative_slope=SLOPE, dropout=how, backend=backend_)

    def slopes(*arguments: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(*arguments).square().sum(), arguments, create_graph=True)

    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(slopes, arguments)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_derivatives_by_some_arguments(backend_: str, needed: tuple[int, ...]) -> None:
    x, weight, bias = normal(4, 3), normal(5, 3), normal(5)
    expected = by_hand(x, weight, bias, "relu", drawn(4, 5))
    arguments = [value.requires_grad_(number in needed) for number, value in enumerate((x, weight, bias))]
    y = linear(*arguments, activation="relu", dropout=dropout(), backend=backend_)
    upstream = normal(5, 4).t()
    found = torch.autograd.grad(y, [arguments[number] for number in needed], upstream)
    m = 2.0 * (expected > 0) * upstream
    exact = (m @ weight, m.t() @ x, m.sum(0))
    for gradient, number in zip(found, needed, strict=True):
        torch.testing.assert_close(gradient, exact[number].detach(), rtol=1e-12, atol=1e-12)


def test_a_result_changed_before_the_backward_pass_is_noticed(requires_extension: None) -> None:
    y = linear(normal(4, 3), normal(5, 3).requires_grad_(), None, activation="relu", dropout=dropout(), backend="cpp")
    with torch.no_grad():
        y.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("activation", PIECEWISE_LINEAR)
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_fold_is_activation_times_dropout(activation: str, dropout: bool) -> None:
    pre, scale = normal(6, 5), keep_mask(6, 5) if dropout else None
    a = reference.encode_activation(pre, PIECEWISE_LINEAR[activation], scale)
    expected = TORCH[activation](pre) * (1.0 if scale is None else scale)
    torch.testing.assert_close(a, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("negative_slope", [1.0, 0.0, SLOPE], ids=["identity", "relu", "leaky_relu"])
def test_fold_keeps_the_slope_in_the_sign(negative_slope: float) -> None:
    """Pre-activations of 0, of either sign, count as below; a dropped unit is +0 whatever it was."""
    pre = torch.tensor([2.0, -2.0, 0.0, -0.0, 2.0, -2.0, 0.0, torch.nan], dtype=torch.float64)
    scale = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    a = reference.encode_activation(pre, negative_slope, scale)
    assert a.tolist() == [4.0, -4.0 * negative_slope, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert a.signbit().tolist() == [False, True, True, True, False, False, False, False]


def test_fold_passes_nan_on() -> None:
    pre, kept = torch.tensor([torch.nan, 1.0]), torch.tensor([2.0, 2.0])
    for scale in (None, kept):
        assert reference.encode_activation(pre, 0.0, scale).isnan().tolist() == [True, False]


@pytest.mark.parametrize("activation", PIECEWISE_LINEAR)
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_slope_is_the_derivative_of_the_layer(activation: str, dropout: bool) -> None:
    pre = normal(6, 5).index_fill(1, torch.tensor(2), 0.0).requires_grad_()
    scale = keep_mask(6, 5) if dropout else torch.ones(6, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad((TORCH[activation](pre) * scale).sum(), pre)
    negative_slope = PIECEWISE_LINEAR[activation]
    m = reference.activation_slope(
        reference.encode_activation(pre.detach(), negative_slope, scale), negative_slope, 2.0 if dropout else 1.0
    )
    if activation == "identity":
        expected = scale  # at 0, too
    torch.testing.assert_close(m, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize(("activation", "expected"), [("relu", 0.0), ("leaky_relu", SLOPE), ("identity", 1.0)])
def test_slope_at_zero_is_torchs_own(activation: str, expected: float) -> None:
    zero = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    (torchs,) = torch.autograd.grad(TORCH[activation](zero).sum(), zero)
    m = reference.activation_slope(
        reference.encode_activation(zero.detach(), PIECEWISE_LINEAR[activation]), PIECEWISE_LINEAR[activation]
    )
    assert m.item() == torchs.item() == expected


@pytest.mark.parametrize(
    ("activation", "slope_of"),
    [
        pytest.param("identity", lambda y: 1.0, id="identity"),
        pytest.param("tanh", lambda y: 1.0 / np.cosh(np.arctanh(y)) ** 2, id="tanh"),
        pytest.param("sigmoid", lambda y: y * (1.0 - y), id="sigmoid"),
    ],
)
def test_output_slope_is_the_derivative_by_the_output(activation: str, slope_of: Callable) -> None:
    y = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    expected = torch.tensor([slope_of(each) for each in y.tolist()], dtype=torch.float64)
    torch.testing.assert_close(reference.output_activation_slope(y, activation), expected, rtol=1e-12, atol=0)


def test_adjoint_is_the_backward_pass() -> None:
    """U_l = m_l * (U_{l+1} W_{l+1}), as autograd has it; without m, the gradient at the input."""
    x, first, second = normal(5, 4).requires_grad_(), normal(6, 4), normal(1, 6)
    pre = F.linear(x, first)
    out = F.linear(F.leaky_relu(pre, SLOPE), second)
    at_pre, at_x = torch.autograd.grad(out.sum(), (pre, x))
    m = (F.leaky_relu(pre, SLOPE) / pre).detach()
    hidden = reference.adjoint(torch.ones(5, 1, dtype=torch.float64), second, m)
    torch.testing.assert_close(hidden, at_pre, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(reference.adjoint(hidden, first), at_x, rtol=1e-13, atol=1e-14)


def test_tangent_is_the_directional_derivative() -> None:
    x, t, weight, bias = normal(5, 4), normal(5, 4), normal(6, 4), normal(6)

    def layer(rows: Tensor) -> Tensor:
        return F.relu(F.linear(rows, weight, bias))

    _, expected = torch.func.jvp(layer, (x,), (t,))
    m = (F.linear(x, weight, bias) > 0).double()
    torch.testing.assert_close(reference.tangent(t, weight, m), expected, rtol=1e-13, atol=1e-14)


def test_adjoint_and_tangent_are_transposes_of_each_other() -> None:
    """<u, T(v)> = <A(u), v>: both hold the same m and W."""
    weight, m, v, u = normal(6, 4), normal(5, 6), normal(5, 4), normal(5, 6)
    tangent = reference.tangent(v, weight, m)
    adjoint = reference.adjoint(m * u, weight)
    torch.testing.assert_close((u * tangent).sum(1), (adjoint * v).sum(1), rtol=1e-12, atol=1e-12)


InPlace = Callable[[str], Callable[..., None]]


@pytest.fixture(params=["reference", "cpp"])
def in_place(request: pytest.FixtureRequest) -> InPlace:
    if request.param == "cpp":
        request.getfixturevalue("requires_extension")
    return lambda name: backend.resolve(f"linear.{name}", "cpu", request.param)


def layer_of(width: int, dtype: torch.dtype, *, bias: bool, slope: float = SLOPE, dropout: float = 0.3) -> Layer:
    """A layer as products have it: parameters in fp32 where products are in bf16."""
    wide = torch.promote_types(dtype, torch.float32)
    return Layer(torch.empty(width, 0, dtype=wide), normal(width, dtype=wide) if bias else None, slope, dropout)


def stacked_mask(rows: int, width: int, streams: tuple[int, ...], probability: float = 0.3) -> Tensor:
    """Each pass's mask, in fp64, from the operator that people call."""
    draw = partial(sample.dropout_scale, rows, width, probability, dtype=torch.float64, backend="reference", **COUNTER)
    return torch.cat([draw(stream=word) for word in streams])


def check_folded(got: Tensor, pre: Tensor, layer: Layer, scale: Tensor | None) -> None:
    """got is leaky(pre + bias) times its mask, in fp64, and carries the slope in its sign."""
    wide = pre.double() if layer.bias is None else pre.double() + layer.bias.double()
    expected = torch.where(wide > 0, wide, layer.negative_slope * wide) * (1.0 if scale is None else scale)
    torch.testing.assert_close(got.double(), expected, rtol=2 * ERROR[got.dtype], atol=2 * ERROR[got.dtype])
    below = (wide <= 0) if scale is None else (wide <= 0) & (scale > 0)
    sure = wide.abs() > 1e-5  # elsewhere the sum of the rounded numbers may be on the other side
    assert torch.equal(got.signbit()[sure], below[sure])
    assert scale is None or torch.equal(got[scale == 0], torch.zeros_like(got[scale == 0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_fold_in_place(in_place: InPlace, width: int, dtype: torch.dtype, bias: bool) -> None:
    layer, pre = layer_of(width, dtype, bias=bias), normal(15, width, dtype=dtype)
    for streams in ((), STREAMS[:1], STREAMS):
        got, masks = pre.clone(), MaskCounter(COUNTER["seed"], COUNTER["step"], streams, COUNTER["first_row"])
        in_place("encode_activation_")(got, layer, masks if streams else None)
        check_folded(got, pre, layer, stacked_mask(15 // len(streams), width, streams) if streams else None)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("slope", [1.0, 0.0, SLOPE], ids=["identity", "relu", "leaky_relu"])
def test_cpp_folds_the_reference_bits(requires_extension: None, slope: float, dtype: torch.dtype) -> None:
    layer = layer_of(130, dtype, bias=False, slope=slope)
    pre = normal(15, 130, dtype=dtype)
    pre[:, :6] = torch.tensor([0.0, -0.0, torch.nan, torch.inf, 1e-30, -1e-30])
    for masks in (None, MaskCounter(11, 12, STREAMS, 13)):
        ours, theirs = pre.clone(), pre.clone()
        for name, values in (("cpp", ours), ("reference", theirs)):
            backend.resolve("linear.encode_activation_", "cpu", name)(values, layer, masks)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        known = ~ours.isnan()
        assert torch.equal(ours.signbit()[known], theirs.signbit()[known])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("slope", [1.0, 0.0, SLOPE], ids=["identity", "relu", "leaky_relu"])
def test_slope_in_place(in_place: InPlace, width: int, dtype: torch.dtype, slope: float) -> None:
    """An upstream times 1 / (1 - p) above, the negative slope times that at -0 and below, and 0 at +0."""
    layer, upstream = layer_of(width, dtype, bias=False, slope=slope, dropout=0.3), normal(15, width, dtype=dtype)
    kind = torch.arange(15 * width).view(15, width) % 4
    a = torch.tensor([0.5, -0.5, -0.0, 0.0], dtype=dtype)[kind]
    m = torch.tensor([1.0, slope, slope, 0.0], dtype=torch.float64)[kind] / 0.7
    got = upstream.clone()
    in_place("activation_slope_")(got, a, layer)
    torch.testing.assert_close(got.double(), upstream.double() * m, rtol=ERROR[dtype], atol=0)


def test_what_does_not_fit_in_place_is_an_error(requires_extension: None) -> None:
    encode_activation_, activation_slope_ = (
        backend.resolve(f"linear.{name}", "cpu", "cpp") for name in ("encode_activation_", "activation_slope_")
    )
    layer, rows = layer_of(6, torch.float32, bias=True), torch.zeros(4, 6)
    with pytest.raises(RuntimeError, match="contiguous"):
        encode_activation_(torch.zeros(6, 4).t(), layer, None)
    with pytest.raises(RuntimeError, match=r"bias must be contiguous, \[width\]"):
        encode_activation_(torch.zeros(4, 5), layer, None)
    with pytest.raises(RuntimeError, match="like activations"):
        activation_slope_(rows, rows[:2], layer)


@pytest.mark.parametrize("name", ["encode_activation_", "activation_slope_"])
def test_opcheck(name: str, requires_extension: None) -> None:
    last = (torch.ones(5), 0.2, (1, 2), 20000, 1.5, 3, 4, 5) if name == "encode_activation_" else (torch.randn(4, 5), 0.2, 1.5)
    torch.library.opcheck(getattr(torch.ops.fastgan, name).default, (torch.randn(4, 5), *last), test_utils=("test_schema",))


def test_a_backend_that_does_not_exist_or_cannot_run_is_refused() -> None:
    x, weight = normal(2, 3), normal(1, 3)
    with pytest.raises(ValueError, match="auto, reference, cpp, triton"):
        linear(x, weight, None, backend="cudnn")
    with pytest.raises(backend.BackendUnavailable, match="triton"):
        linear(x, weight, None, backend="triton")
    assert torch.equal(linear(x, weight, None, backend="reference"), F.linear(x, weight))
