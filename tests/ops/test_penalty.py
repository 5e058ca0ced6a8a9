"""Penalties of given input gradients, and their derivatives, against sums written out in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from fastgan.ops.penalty import norm_penalty, norm_penalty_gradient, square_penalty, square_penalty_gradient

WEIGHT, GAMMA = 7.0, 3.0
TWO_ROWS = torch.tensor([[3.0, 4.0], [0.0, 0.5]], dtype=torch.float64)  # norms 5 and 0.5

Operator = Callable[..., Tensor]
PenaltyGradient = Callable[..., tuple[Tensor, Tensor]]
DTYPES = [torch.float32, torch.float64]
SHAPES = [
    pytest.param((6, 5), id="few"),
    pytest.param((1, 3), id="one row"),
    pytest.param((3, 2, 2, 2), id="images"),
    pytest.param((7, 1031), id="more than a sum's block"),
    pytest.param((64, 784), id="more than one thread's share"),
]
# of the largest value: sums of squares in fp32 err by some units in the last place
ERROR = {torch.float32: 2.0**-20, torch.float64: 1e-13}

pytestmark = pytest.mark.usefixtures("device")


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same draws on every device."""
    return torch.randn(shape, dtype=torch.float64, device="cpu").to(torch.get_default_device(), dtype)


def norms_by_hand(gradient: Tensor) -> list[float]:
    return [math.sqrt(sum(value * value for value in row)) for row in gradient.double().flatten(1).tolist()]


def norm_penalty_by_hand(gradient: Tensor, target: float = 1.0, one_sided: bool = False) -> float:
    excess = [norm - target for norm in norms_by_hand(gradient)]
    kept = [max(value, 0.0) if one_sided else value for value in excess]
    return WEIGHT * sum(value * value for value in kept) / len(kept)


@pytest.fixture(params=["reference", "cpp"])
def operators(request: pytest.FixtureRequest) -> dict[str, PenaltyGradient]:
    if request.param == "cpp":
        request.getfixturevalue("requires_extension")
    functions = {"norm": norm_penalty_gradient, "square": square_penalty_gradient}
    return {name: partial(function, backend=request.param) for name, function in functions.items()}


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", [1.0, 0.0])
def test_a_row_without_gradient_has_no_penalty_gradient(
    operators: dict[str, PenaltyGradient], target: float, dtype: torch.dtype
) -> None:
    gradient = torch.stack((torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype))).requires_grad_()
    value = norm_penalty(gradient, weight=WEIGHT, target=target)
    (slope,) = torch.autograd.grad(value, gradient)
    fused_value, derivative = operators["norm"](gradient.detach(), weight=WEIGHT, target=target)
    excess = (0.0 - target, 2.0 - target)
    for result in (value, fused_value):
        assert result.item() == pytest.approx(WEIGHT * (excess[0] ** 2 + excess[1] ** 2) / 2)
    for direction in (slope, derivative):
        assert direction[0].tolist() == [0.0] * 4
        assert direction[1].tolist() == pytest.approx([WEIGHT * excess[1] * 0.5] * 4)


def check_derivative(
    result: tuple[Tensor, Tensor], value: float, derivative: Tensor, like: Tensor, sizes: tuple[float, float]
) -> None:
    """The value and the derivative, in fp64, are those of the result, which has like's dtype and shape and no graph.

    sizes: of what they are differences of, by which their errors are measured.
    """
    assert result[0].dim() == 0 and result[0].dtype == result[1].dtype == like.dtype and result[1].shape == like.shape
    assert not (result[0].requires_grad or result[1].requires_grad)
    assert result[0].item() == pytest.approx(value, rel=0, abs=ERROR[like.dtype] * sizes[0])
    torch.testing.assert_close(result[1].double(), derivative, rtol=0, atol=ERROR[like.dtype] * sizes[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("one_sided", [False, True], ids=["two-sided", "one-sided"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_norm_penaltys_derivative_is_the_slope_of_the_value(
    operators: dict[str, PenaltyGradient], target: float, one_sided: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    rounded = (3.0 * normal(*shape) / math.sqrt(math.prod(shape[1:]))).to(dtype)  # norms around 3, on both sides of 2.5
    gradient = rounded.double().clone().requires_grad_()
    options = dict(weight=WEIGHT, target=target, one_sided=one_sided)
    norms = gradient.flatten(1).square().sum(1).sqrt()
    excess = (norms - target).clamp(min=0.0) if one_sided else norms - target
    (expected,) = torch.autograd.grad(WEIGHT * excess.square().mean(), gradient)
    value, largest = norm_penalty_by_hand(rounded, target, one_sided), norms.max().item() + target
    sizes = WEIGHT * largest**2, 2 * WEIGHT / shape[0] * largest
    check_derivative(operators["norm"](rounded, **options), value, expected, rounded, sizes)
    (slope,) = torch.autograd.grad(norm_penalty(gradient, **options), gradient)
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_square_penaltys_derivative_is_the_slope_of_the_value(
    operators: dict[str, PenaltyGradient], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    rounded = normal(*shape, dtype=dtype)
    gradient = rounded.double().clone().requires_grad_()
    expected = GAMMA / shape[0] * gradient.detach()
    value = GAMMA / 2 * sum(norm * norm for norm in norms_by_hand(rounded)) / shape[0]
    sizes = value, expected.abs().max().item()
    check_derivative(operators["square"](rounded, gamma=GAMMA), value, expected, rounded, sizes)
    (slope,) = torch.autograd.grad(square_penalty(gradient, gamma=GAMMA), gradient)
    torch.testing.assert_close(slope, expected, rtol=1e-14, atol=0)


BOTH = [
    pytest.param("norm", dict(weight=WEIGHT), id="norm"),
    pytest.param("norm", dict(weight=WEIGHT, one_sided=True), id="one-sided"),
    pytest.param("square", dict(gamma=GAMMA), id="square"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("name, options", BOTH)
def test_a_gradient_that_is_not_finite_shows_in_the_value(
    operators: dict[str, PenaltyGradient], name: str, options: dict, bad: float, dtype: torch.dtype
) -> None:
    """A withheld step is decided from the value; rows with finite gradients have theirs as ever."""
    gradient = normal(3, 5, dtype=dtype)
    _, clean = operators[name](gradient, **options)
    gradient[1, 2] = bad
    value, derivative = operators[name](gradient, **options)
    assert not value.isfinite()
    assert not derivative[1, 2].isfinite()
    assert torch.equal(derivative[0], clean[0]) and torch.equal(derivative[2], clean[2])


VIEWS = {
    "every second column": lambda x: x.t()[:, ::2],
    "one row again": lambda x: x[:1].expand(4, 5),
    "empty": lambda x: x[:, :0],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("name, options", BOTH)
def test_penalty_gradients_of_strided_gradients(
    operators: dict[str, PenaltyGradient], name: str, options: dict, view: Callable
) -> None:
    gradient = view(normal(12, 5))
    given, copied = (operators[name](x, **options) for x in (gradient, gradient.clone(memory_format=torch.contiguous_format)))
    torch.testing.assert_close(given[0], copied[0])
    assert given[1].shape == gradient.shape
    torch.testing.assert_close(given[1], copied[1], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name, options", BOTH)
def test_derivatives_do_not_depend_on_the_threads(
    requires_extension: None, set_threads: Callable[[int], None], name: str, options: dict
) -> None:
    gradient, operator = (
        normal(64, 784, dtype=torch.float32),
        {"norm": norm_penalty_gradient, "square": square_penalty_gradient}[name],
    )
    results = []
    for count in (1, 2):
        set_threads(count)
        results.append(operator(gradient, **options, backend="cpp"))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 5), (3, 2, 2, 2)], ids=str)
def test_opcheck(requires_extension: None, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for gradient in (normal(*shape, dtype=dtype), normal(*reversed(shape), dtype=dtype).permute(*reversed(range(len(shape))))):
        torch.library.opcheck(torch.ops.fastgan.norm_penalty_gradient.default, (gradient, WEIGHT, 1.0, True))
        torch.library.opcheck(torch.ops.fastgan.square_penalty_gradient.default, (gradient, GAMMA))


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
