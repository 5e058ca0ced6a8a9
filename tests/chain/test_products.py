"""The products of a chain of layers, dense and packed, one at a time, against fp64 and plain torch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.chain.packed import PackedProducts
from fastgan.chain.products import products as products_of
from fastgan.chain.torch_mm import TorchOperand, TorchProducts
from fastgan.ops import sample
from fastgan.ops.linear import Layer
from fastgan.runtime import instruction_sets

from .storages import FORMATS, make, packs, unpacked

HALF = torch.bfloat16
COUNTER = dict(seed=2**62 + 3, step=2**32 - 2, first_row=2**31 + 7)  # high bits everywhere
STREAMS = (5, 21, 37)
# sizes, negative slope and dropout of hidden layers, which layers have a bias, what the last one ends in
CHAINS = {
    "odd sizes": ((5, 70, 33, 3), ((0.2, 0.3), (0.0, 0.0)), (True, False, True), "tanh"),
    "one output": ((130, 64, 1), ((0.0, 0.5),), (True, True), "identity"),
    "no biases": ((64, 129, 2), ((1.0, 0.3),), (False, False), "sigmoid"),
}
# rows and stacked passes: less than a tile of 6 rows, one, one and a piece, more than a thread's 24, more than a chunk of pairs
SIZES = {"1 row": (1, 1), "6 rows": (6, 1), "7 rows": (7, 3), "26 rows": (26, 3), "600 rows": (200, 3)}


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def numbers(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Normals that a product's dtype holds exactly, in the dtype of what surrounds it."""
    return (torch.randn(shape, dtype=torch.float64) * scale).to(dtype).to(wide(dtype))


def layers_of(chain: str, dtype: torch.dtype) -> list[Layer]:
    sizes, hidden, biases, output = CHAINS[chain]
    read = []
    for inputs, outputs, has_bias, made in zip(sizes, sizes[1:], biases, (*hidden, (1.0, 0.0)), strict=False):
        weight = numbers(outputs, inputs, dtype=dtype, scale=inputs**-0.5)
        read.append(Layer(weight, numbers(outputs, dtype=dtype) if has_bias else None, *made))
    return [*read[:-1], read[-1]._replace(output=output)]


class Case:
    """A chain's products, and rows for them."""

    def __init__(self, format_: str, chain: str, rows: int, passes: int) -> None:
        self.dtype, self.rows, self.passes = FORMATS[format_], rows, passes
        self.layers = layers_of(chain, self.dtype)
        self.hidden = list(enumerate(self.layers[:-1]))
        self.products = make(format_, self.layers)
        self.stride = self.products.stride(rows)
        self.total = self.stride * passes

    def numbers(self, *width: int) -> Tensor:
        return numbers(self.total, *width, dtype=self.dtype)

    def result(self, width: int) -> Tensor:
        return torch.full((self.total, width), torch.nan, dtype=wide(self.dtype))

    def operand(self, values: Tensor | int, tangents: bool = False):
        """An operand of a width, or one with values."""
        out = self.products.operand(self.total, values if isinstance(values, int) else values.shape[1])
        if tangents:
            out.rows(slice(0, 2))  # which makes room for tangents
        if isinstance(values, Tensor):
            self.products.load_(out, values)
        return out

    def plain(self, x: Tensor, layer: Layer) -> Tensor:
        """The layer's pre-activations by torch in the products' dtype."""
        return F.linear(*(None if each is None else each.to(self.dtype) for each in (x, layer.weight, layer.bias)))

    def close(self, got: Tensor, exact: Tensor, plain: Tensor, size: float = 0.0) -> None:
        """The error is at most twice plain torch's, beside half a last bit of the largest value (in fp32 and fp64 some bits).

        size: that of a sum that is rounded before its bias is added.
        """
        last = torch.finfo(self.dtype).eps * (0.5 if self.dtype == HALF else 8)
        assert got.shape == exact.shape
        largest = exact.abs().max().clamp(min=size)
        assert (got.double() - exact).abs().max() <= 2 * (plain.double() - exact).abs().max() + last * largest


@pytest.fixture(params=CHAINS)
def chain(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=SIZES)
def case(request: pytest.FixtureRequest, format_: str, chain: str) -> Case:
    return Case(format_, chain, *SIZES[request.param])


def read(operand, width: int) -> tuple[Tensor, Tensor]:
    """What products over columns read of an operand, and what weight gradients read; columns beyond the last are zero."""
    if isinstance(operand, TorchOperand):
        return operand.values if operand.tangents is None else operand.tangents, operand.values
    rows = unpacked(operand.panels, operand.group)
    assert not rows[:, width:].any()
    values = operand.values if operand.tangents is None else operand.tangents
    values = values if values.dim() == 2 else unpacked(values, 1)
    return values[:, :width], rows[:, :width]


def exact_linear(x: Tensor, layer: Layer) -> Tensor:
    return F.linear(*(None if each is None else each.double() for each in (x, layer.weight, layer.bias)))


def folded(case: Case, width: int, layer: Layer) -> tuple[Tensor, Tensor]:
    """Activations that carry their slope in their sign, and that slope in fp64."""
    pre, kept = case.numbers(width).index_fill(1, torch.tensor(0), 0.0), torch.rand(case.total, width) >= layer.dropout
    m = torch.where(pre > 0, 1.0, torch.full_like(pre, layer.negative_slope, dtype=torch.float64)) * layer.scale
    below = -(layer.negative_slope * pre.abs()).to(case.dtype).to(pre.dtype)
    return torch.where(kept, torch.where(pre > 0, pre, below), 0.0), torch.where(kept, m, 0.0)


def test_operands_hold_what_is_loaded(case: Case) -> None:
    width = case.layers[0].weight.shape[1]
    values, start, c = (torch.randn(case.total, width, dtype=wide(case.dtype)) for _ in range(3))
    for held in read(case.operand(values), width):
        assert torch.equal(held, values.to(case.dtype))
    out = case.operand(values, tangents=True)
    case.products.load_tangent_(out, start, values, c[:, 0].contiguous())
    tangents, kept = read(out, width)
    assert torch.equal(tangents, start.to(case.dtype))
    exact = c[:, :1].double() * values.double() + start.double()
    case.close(kept, exact, exact.to(case.dtype))


def test_rows_that_fill_up_a_pass_are_zero(case: Case) -> None:
    width, part = case.layers[0].weight.shape[1], slice(case.total - case.stride, case.total)
    whole = case.products.operand(case.total, width)
    case.products.load_(whole.rows(part), torch.ones(case.rows, width, dtype=wide(case.dtype)))
    loaded = read(whole, width)[1][part]
    assert (loaded[: case.rows] == 1).all() and (loaded[case.rows :] == 0).all()


@pytest.mark.parametrize("drop", [False, True], ids=["plain", "dropout"])
def test_linear(case: Case, drop: bool) -> None:
    for index, layer in case.hidden:
        (width, depth), masks, scale = layer.weight.shape, None, torch.ones(case.total, 1, dtype=torch.float64)
        if drop and layer.dropout:
            masks = sample.MaskCounter(COUNTER["seed"], COUNTER["step"], STREAMS[: case.passes], COUNTER["first_row"])
            draw = partial(sample.dropout_scale, case.stride, width, layer.dropout, dtype=torch.float64, **COUNTER)
            scale = torch.cat([draw(stream=word) for word in masks.streams])
        x, out = case.numbers(depth), case.operand(width)
        case.products.linear_(index, out, case.operand(x), masks)
        pre = exact_linear(x, layer)
        exact, plain = (F.leaky_relu(y, layer.negative_slope) * scale.to(y.dtype) for y in (pre, case.plain(x, layer)))
        values, kept = read(out, width)
        case.close(values, exact, plain, size=1.0)
        assert torch.equal(values, kept)
        sure = pre.abs() > (1e-1 if case.dtype == HALF else 1e-4)
        assert torch.equal(values.signbit()[sure], ((pre < 0) & (scale > 0))[sure])


def test_output_and_what_comes_back_through_it(case: Case) -> None:
    layer = case.layers[-1]
    width, depth = layer.weight.shape
    x, y, u = case.numbers(depth), case.result(width), case.operand(width)
    case.products.output_(y, case.operand(x))
    act = {"identity": lambda y: y, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[layer.output]
    case.close(y, act(exact_linear(x, layer)), act(case.plain(x, layer)), size=1.0)
    gradient, at = torch.randn_like(y), y.double()
    case.products.load_output_(u, gradient, y)
    slope = {"identity": torch.ones_like(at), "tanh": 1 - at * at, "sigmoid": at * (1 - at)}[layer.output]
    back = gradient.double() * slope
    for held in read(u, width):
        case.close(held, back, back.to(case.dtype))


@pytest.mark.parametrize("output", ["tanh", "sigmoid"])
def test_outputs_are_good_to_some_last_bits_over_their_whole_range(format_: str, output: str) -> None:
    dtype = wide(FORMATS[format_])
    bias = torch.cat([torch.linspace(-80, 80, 161), torch.linspace(-1, 1, 101), torch.tensor([1e-6, -1e-6])]).to(dtype)
    products = make(format_, [Layer(torch.zeros(len(bias), 1, dtype=dtype), bias, output=output)])
    x, y = products.operand(2, 1), torch.zeros(2, len(bias), dtype=dtype)
    products.load_(x, torch.zeros(2, 1, dtype=dtype))
    products.output_(y, x)
    exact = getattr(torch, output)(bias.double()).expand_as(y)
    torch.testing.assert_close(y.double(), exact, rtol=8 * torch.finfo(dtype).eps, atol=0)


def test_adjoints(case: Case) -> None:
    for index, layer in case.hidden:
        above, width = case.layers[index + 1].weight, layer.weight.shape[0]
        (a, m), u, out = folded(case, width, layer), case.numbers(above.shape[0]), case.operand(width)
        case.products.adjoint_(index, out, case.operand(u), case.operand(a))
        plain = (u.to(case.dtype) @ above.to(case.dtype)) * m.to(case.dtype)
        for held in read(out, width):
            case.close(held, (u.double() @ above.double()) * m, plain)
    first = case.layers[0].weight
    u, g = case.numbers(first.shape[0]), case.result(first.shape[1])
    case.products.input_gradient_(g, case.operand(u))
    case.close(g, u.double() @ first.double(), u.to(case.dtype) @ first.to(case.dtype))


def test_tangents(case: Case) -> None:
    """The next product reads T; weight gradients read c A + T."""
    c, dtype = case.numbers(), case.dtype
    for index, layer in case.hidden:
        (width, depth), (a, m) = layer.weight.shape, folded(case, layer.weight.shape[0], layer)
        start = case.numbers(depth)
        x, out = (case.operand(values, tangents=True) for values in (start, a))
        case.products.load_tangent_(x, start, start, c)
        case.products.tangent_(index, out, x, c)
        exact = (start.double() @ layer.weight.double().t()) * m
        plain = (start.to(dtype) @ layer.weight.to(dtype).t()) * m.to(dtype)
        tangents, kept = read(out, width)
        case.close(tangents, exact, plain)
        mixed, plain = c.double().unsqueeze(1) * a.double() + exact, c.to(dtype).unsqueeze(1) * a.to(dtype) + plain
        case.close(kept, mixed, plain)


def test_weight_gradients(case: Case) -> None:
    c, dtype = case.numbers(), case.dtype
    for index, layer in enumerate(case.layers):
        u, x = (case.numbers(width) for width in layer.weight.shape)
        weight, again = (torch.full_like(layer.weight, torch.nan) for _ in range(2))
        bias = torch.full_like(weight[:, 0], torch.nan)
        case.products.gradient_(index, weight, bias, case.operand(u), case.operand(x), c)
        case.close(weight, u.double().t() @ x.double(), u.to(dtype).t() @ x.to(dtype))
        case.close(bias, u.double().t() @ c.double(), u.to(dtype).t() @ c.to(dtype))
        case.products.gradient_(index, again, None, case.operand(u), case.operand(x), c)
        assert torch.equal(again, weight)


def test_refresh_takes_over_the_weights(format_: str, chain: str) -> None:
    case = Case(format_, chain, 6, 1)
    for layer in case.layers:
        layer.weight.mul_(-2.0)
    case.products.refresh()
    fresh, x = make(format_, case.layers), case.operand(case.numbers(case.layers[-1].weight.shape[1]))
    got, expected = (case.result(case.layers[-1].weight.shape[0]) for _ in range(2))
    case.products.output_(got, x)
    fresh.output_(expected, x)
    assert torch.equal(got, expected)
    if isinstance(fresh, PackedProducts):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(packs(case.products), packs(fresh), strict=True))


def test_products_are_chosen_by_precision_and_backend() -> None:
    layers, wide_layers = layers_of("one output", HALF), layers_of("one output", torch.float64)
    chosen = [
        (products_of(layers, "bf16", backend="reference"), HALF),
        (products_of(layers, "fp32", backend="reference"), torch.float32),
        (products_of(wide_layers, "fp64"), torch.float64),
        (products_of(wide_layers, "bf16"), HALF),  # packed weights are made of fp32
    ]
    for products, dtype in chosen:
        assert isinstance(products, TorchProducts) and products.weights[0].dtype == dtype


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_are_packed_for_the_instruction_set_that_is_forced(set_: str, precision: str) -> None:
    has_bf16 = set_ == "avx512-bf16"
    with instruction_sets.forced(set_):
        products = products_of(layers_of("one output", HALF), precision)
    expected = {"fp32": "avx512" if has_bf16 else set_, "bf16": set_ if has_bf16 else None}[precision]
    assert (products.instruction_set.name if isinstance(products, PackedProducts) else None) == expected


def test_products_are_torchs_where_packed_ones_are_switched_off() -> None:
    with instruction_sets.forced("off"):
        assert isinstance(products_of(layers_of("one output", HALF), "fp32"), TorchProducts)


def test_a_probability_next_to_one_drops_every_unit(format_: str) -> None:
    dtype = wide(FORMATS[format_])
    products = make(
        format_, [Layer(torch.randn(70, 5, dtype=dtype), None, 0.2, 1 - 1e-7), Layer(torch.randn(1, 70, dtype=dtype), None)]
    )
    x, out = products.operand(6, 5), products.operand(6, 70)
    products.load_(x, torch.randn(6, 5, dtype=dtype))
    products.linear_(0, out, x, sample.MaskCounter(1, 2, (3,), 0))
    values, _ = read(out, 70)
    assert not values.any() and not values.signbit().any()
