"""The fused losses against formulas in extended precision: every dtype, extreme logits, odd shapes, any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgan.ops import loss, reference
from fastgan.ops.objective import d_objective, g_objective

Array = np.ndarray
OBJECTIVES = [pytest.param(role, kind, id=f"{role}-{kind}") for role in "dg" for kind in loss.KINDS]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# the last bit of each dtype's gradients, and of the fp32 (fp64) values
ULP = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2.0**-23, torch.float64: 2.0**-52}
# kinks of hinge at +-1, where fp32's sigmoid rounds to 1 (17), where F.softplus drops e^-x that fp64 has (20), where fp32's
# exp underflows (88), and far beyond
EXTREMES = [0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 17.0, -17.0, 22.0, -22.0, 88.0, -88.0, 200.0, -200.0, 1e4, -1e4]

pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture(params=["reference", "cpp"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpp":
        request.getfixturevalue("requires_extension")
    return request.param


def wide(x: Tensor) -> Array:
    return x.detach().double().cpu().numpy().astype(np.longdouble)


def sp(x: Array) -> Array:
    return np.logaddexp(np.longdouble(0), x)


def sg(x: Array) -> Array:
    return np.exp(-sp(-x))


def one_sided(role: str, kind: str, r: Array, f: Array, e: float) -> tuple[Array, Array, Array, Array]:
    """What each real and fake logit pays, and the slopes of that, for the kinds that do not compare real with fake."""
    zero = np.zeros(0, np.longdouble)
    table: dict[str, tuple[Array, ...]] = {
        "d-minimax": (sp(-r) + e * r, sp(f), e - sg(-r), sg(f)),
        "d-nonsaturating": (sp(-r) + e * r, sp(f), e - sg(-r), sg(f)),
        "d-lsgan": ((r - 1 + e) ** 2, f**2, 2 * (r - 1 + e), 2 * f),
        "d-wgan": (-r, f, -np.ones_like(r), np.ones_like(f)),
        "d-hinge": (np.maximum(0, 1 - r), np.maximum(0, 1 + f), np.where(r < 1, -1.0, 0.0), np.where(f > -1, 1.0, 0.0)),
        "g-minimax": (zero, -sp(f), zero, -sg(f)),
        "g-nonsaturating": (zero, sp(-f), zero, -sg(-f)),
        "g-lsgan": (zero, (f - 1) ** 2, zero, 2 * (f - 1)),
        "g-wgan": (zero, -f, zero, -np.ones_like(f)),
        "g-hinge": (zero, -f, zero, -np.ones_like(f)),
    }
    return table[f"{role}-{kind}"]  # type: ignore[return-value]


def exact(role: str, kind: str, real: Tensor, fake: Tensor, e: float = 0.0, mean: bool = True) -> tuple[Array, Array, Array]:
    """Value and slopes of real and fake logits by hand, in extended precision, flat."""
    r, f = wide(real.flatten()), wide(fake.flatten())
    n, m = (len(r), len(f)) if mean else (1, 1)
    if kind == "relativistic":
        x = f - r if role == "d" else r - f
        slope = sg(x) / n if role == "d" else -sg(x) / n
        return sp(x).sum() / n, -slope, slope
    if kind == "relativistic-average":
        if role == "g":
            value, fake_gradient, real_gradient = exact("d", kind, fake, real, mean=mean)
            return value, real_gradient, fake_gradient
        a, b = f.mean() - r, f - r.mean()
        value = sp(a).sum() / n + sp(b).sum() / m
        return value, -sg(a) / n - sg(b).sum() / m / len(r), sg(b) / m + sg(a).sum() / n / len(f)
    real_pays, fake_pays, real_gradient, fake_gradient = one_sided(role, kind, r, f, e)
    return real_pays.sum() / n + fake_pays.sum() / m, real_gradient / n, fake_gradient / m


def evaluate(role: str, kind: str, real: Tensor, fake: Tensor, **options) -> Tensor:
    if role == "d":
        return loss.d_loss(real, fake, kind=kind, **options)
    return loss.g_loss(fake, real, kind=kind, **options)


def inputs(role: str, kind: str, real: Tensor, fake: Tensor) -> list[Tensor]:
    """The logits that the objective depends on."""
    return [real, fake] if role == "d" or kind in loss.RELATIVISTIC_KINDS else [fake]


def check(role: str, kind: str, real: Tensor, fake: Tensor, upstream: float = 1.0, units: float = 4, e: float = 0.0, **options):
    """Value and gradients equal the formulas to `units` in the last place, of the largest where terms are summed."""
    value = evaluate(role, kind, real, fake, **options)
    wanted = inputs(role, kind, real, fake)
    gradients = torch.autograd.grad(value, wanted, torch.tensor(upstream, dtype=value.dtype))
    expected, *slopes = exact(role, kind, real, fake, e, mean=options.get("reduction", "mean") == "mean")
    assert value.dtype is (torch.float64 if fake.dtype is torch.float64 else torch.float32) and value.shape == ()
    np.testing.assert_allclose(value.item(), float(expected), rtol=units * ULP[value.dtype], atol=units * ULP[value.dtype])
    for logits, gradient, slope in zip(wanted, gradients, slopes[-len(wanted) :], strict=True):
        assert gradient.dtype is logits.dtype and gradient.shape == logits.shape
        exact_slope = upstream * slope.astype(np.float64)
        tiny = 2 * torch.finfo(logits.dtype).tiny + 2 * ULP[value.dtype] * np.abs(exact_slope).max(initial=0)
        rtol = units * ULP[value.dtype] + ULP[logits.dtype]
        np.testing.assert_allclose(wide(gradient.flatten()), exact_slope, rtol=rtol, atol=tiny)


def logits(*shape: int, dtype: torch.dtype = torch.float64, spread: float = 3.0) -> Tensor:
    """The same draws on every device."""
    drawn = torch.randn(shape, dtype=torch.float64, device="cpu") * spread
    return drawn.to(torch.get_default_device(), dtype).requires_grad_()


def rows_for(kind: str) -> tuple[int, int]:
    return (37, 37) if kind in loss.PAIRED_KINDS else (37, 53)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_value_and_gradients_equal_the_formulas(backend: str, role: str, kind: str, dtype: torch.dtype) -> None:
    real, fake = (logits(rows, 1, dtype=dtype) for rows in rows_for(kind))
    check(role, kind, real, fake, upstream=1.75, units=8, backend=backend)
    check(role, kind, real, fake, upstream=-0.5, units=64, reduction="sum", backend=backend)


@pytest.mark.parametrize("kind", loss.SMOOTHED_KINDS)
def test_label_smoothing_moves_the_real_target(backend: str, kind: str) -> None:
    real, fake = logits(37, 1), logits(53, 1)
    check("d", kind, real, fake, e=0.125, label_smoothing=0.125, backend=backend, units=8)


def test_scale_multiplies_value_and_gradients(backend: str) -> None:
    real, fake = logits(37, 1, dtype=torch.float32), logits(53, 1, dtype=torch.float32)
    for role in "dg":
        whole, half = (evaluate(role, "lsgan", real, fake, scale=scale, backend=backend) for scale in (1.0, 0.5))
        gradients = [torch.autograd.grad(value, fake)[0] for value in (whole, half)]
        assert whole * 0.5 == half and torch.equal(gradients[0] * 0.5, gradients[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_extreme_logits_one_at_a_time(backend: str, role: str, kind: str, dtype: torch.dtype) -> None:
    for x in EXTREMES:
        real, fake = (torch.tensor([y], dtype=dtype, requires_grad=True) for y in (0.25, x))
        check(role, kind, real, fake, backend=backend)
        check(role, kind, *(torch.tensor([y], dtype=dtype, requires_grad=True) for y in (x, 0.25)), backend=backend)


def test_a_confident_fake_still_moves_the_discriminator(backend: str) -> None:
    fake = torch.tensor([17.0], requires_grad=True)
    value = loss.d_loss(torch.zeros(1), fake, kind="nonsaturating", backend=backend)
    assert abs(torch.autograd.grad(value, fake)[0].item() - 1.0) <= 2.0**-23


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_elementary_functions_err_by_two_units_at_most(requires_extension: None, dtype: torch.dtype) -> None:
    x = torch.linspace(-30, 30, 2001, dtype=torch.float64).to(dtype)
    softplus = torch.stack([torch.ops.fastgan.loss(None, one, "bce") for one in x])
    torch.ops.fastgan.loss_gradients_(None, x, None, sigmoid := torch.empty_like(x), "bce", 0.0, 1.0, 1.0, False)
    for result, formula in ((softplus, sp(wide(x))), (sigmoid, sg(wide(x)))):
        error = np.abs(wide(result) - formula) / formula
        assert error.max() < 2 * ULP[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_error_is_at_most_twice_that_of_plain_torch(requires_extension: None, role: str, kind: str, dtype: torch.dtype) -> None:
    real, fake = logits(4097, dtype=dtype), logits(4097, dtype=dtype)
    expected, *slopes = exact(role, kind, real, fake)
    errors = []
    for backend in ("reference", "cpp"):
        value = evaluate(role, kind, real, fake, backend=backend)
        (gradient,) = torch.autograd.grad(value, [fake])
        slope_error = np.abs(wide(gradient) - slopes[1]).max() * len(fake)
        errors.append((abs(value.item() - float(expected)) / max(1.0, abs(float(expected))), float(slope_error)))
    for plain, fused, unit in zip(*errors, (ULP[value.dtype], ULP[value.dtype]), strict=True):
        assert fused <= 2 * plain + unit


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 4095, 4097, 16385, 33_000])
def test_every_row_count_reads_and_writes_every_element(backend: str, rows: int) -> None:
    for kind in ("nonsaturating", "hinge", "relativistic"):
        check("d", kind, logits(rows), logits(rows), units=100, backend=backend)


STRIDED = [
    pytest.param(lambda x: x[::2], id="every-second-row"),
    pytest.param(lambda x: x[:, 1:2], id="a-column"),
    pytest.param(lambda x: x.t(), id="transposed"),
    pytest.param(lambda x: x[:1, :1].expand(5, 3), id="expanded"),
    pytest.param(lambda x: x.reshape(2, 1, 4, 6).to(memory_format=torch.channels_last), id="patches"),
    pytest.param(lambda x: x[0, 0], id="0-d"),
]


@pytest.mark.parametrize("view", STRIDED)
def test_strided_logits(backend: str, view: Callable[[Tensor], Tensor]) -> None:
    for role, kind in (("d", "nonsaturating"), ("g", "relativistic"), ("d", "relativistic-average")):
        check(role, kind, view(logits(8, 6)), view(logits(8, 6)), units=8, backend=backend)


@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_unreduced_losses_take_a_gradient_for_each_row(backend: str, role: str, kind: str) -> None:
    real, fake, upstream = logits(6, 1), logits(6, 1), torch.randn(6, 1, dtype=torch.float64)
    value = evaluate(role, kind, real, fake, reduction="none", backend=backend)
    (gradient,) = torch.autograd.grad(value, fake, upstream)
    if kind != "relativistic-average":
        slope = torch.as_tensor(exact(role, kind, real, fake, mean=False)[2].astype(np.float64)).view(6, 1)
        torch.testing.assert_close(gradient, upstream * slope)
    assert value.shape == (6, 1) and value.sum().isclose(evaluate(role, kind, real, fake, reduction="sum", backend=backend))


@pytest.mark.parametrize("target", [0.0, 1.0, 0.9])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bce_with_one_target_or_labels(backend: str, target: float, dtype: torch.dtype) -> None:
    x = logits(101, 1, dtype=dtype)
    labels = torch.full_like(x, target).detach()
    exactly, label = wide(x), np.longdouble(labels[0].item())
    for given in (target, labels):
        value = loss.bce_with_logits(x, given, backend=backend)
        (gradient,) = torch.autograd.grad(value, x)
        t = label if isinstance(given, Tensor) else np.longdouble(target)
        expected, slope = ((1 - t) * sp(exactly) + t * sp(-exactly)).mean(), ((1 - t) * sg(exactly) - t * sg(-exactly)) / 101
        np.testing.assert_allclose(value.item(), float(expected), rtol=8 * ULP[value.dtype])
        atol = 4 * ULP[value.dtype] / 101 + torch.finfo(dtype).tiny
        np.testing.assert_allclose(wide(gradient), slope.astype(np.float64), rtol=ULP[dtype], atol=atol)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_non_finite_logits_do_what_they_do_in_torch(requires_extension: None, role: str, kind: str, bad: float) -> None:
    real, fake = logits(65, dtype=torch.float32), logits(65, dtype=torch.float32)
    with torch.no_grad():
        real[3], fake[40] = bad, bad
    values = [evaluate(role, kind, real, fake, backend=name) for name in ("cpp", "reference")]
    torch.testing.assert_close(*values, equal_nan=True)
    gradients = [torch.autograd.grad(value, inputs(role, kind, real, fake)) for value in values]
    torch.testing.assert_close(*gradients, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_results_do_not_depend_on_the_number_of_threads(
    requires_extension: None, set_threads: Callable[[int], None], role: str, kind: str, dtype: torch.dtype
) -> None:
    real, fake = logits(300_001, dtype=dtype), logits(300_001, dtype=dtype)
    results = []
    for count in (1, 2):
        set_threads(count)
        value = evaluate(role, kind, real, fake, backend="cpp")
        results.append([value, *torch.autograd.grad(value, inputs(role, kind, real, fake))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_one_pass_gives_value_slopes_and_statistics(requires_extension: None, role: str, kind: str, dtype: torch.dtype) -> None:
    real, fake = (logits(rows, 1, dtype=dtype).detach() for rows in rows_for(kind))
    objective = d_objective(kind) if role == "d" else g_objective(kind)
    both = len(inputs(role, kind, real, fake)) == 2
    real_gradient, fake_gradient = (torch.empty_like(x) for x in (real, fake))
    arguments = (real, fake, real_gradient) if both else (None, fake, None)
    value, statistics = torch.ops.fastgan.loss_gradients_(*arguments, fake_gradient, *(objective.arguments or ()))
    check_statistics(statistics, real if both else None, fake)
    wanted = [x.clone().requires_grad_() for x in (real, fake)]
    expected = evaluate(role, kind, *wanted, backend="cpp")
    gradients = torch.autograd.grad(expected, inputs(role, kind, *wanted))
    torch.testing.assert_close(value, expected.detach())
    if both:
        torch.testing.assert_close(real_gradient, gradients[0])
    torch.testing.assert_close(fake_gradient, gradients[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_slopes_equal_the_references_autograd(backend: str, role: str, kind: str, dtype: torch.dtype) -> None:
    """Logits as a step has them: [rows, 1], pieces of a longer column."""
    column = logits(101, 1, dtype=dtype).detach()
    rows = rows_for(kind)
    real, fake = column[: rows[0]], column[-rows[1] :]
    alone = role == "g" and kind not in loss.RELATIVISTIC_KINDS
    objective = d_objective(kind) if role == "d" else g_objective(kind)
    slopes = with_slopes(None if alone else real, fake, objective, backend)
    copies = [x.double().requires_grad_() for x in (real.clone(), fake.clone())]
    value = evaluate(role, kind, *copies, backend="reference")
    expected = torch.autograd.grad(value, copies[alone:])
    assert slopes.value.shape == () and slopes.value.dtype == slopes.fake.dtype == slopes.statistics.dtype == dtype
    check_slopes(slopes, value, expected, ULP[dtype])
    check_statistics(slopes.statistics, None if alone else real, fake)
    assert not any(x is not None and x.requires_grad for x in slopes)


class Slopes(NamedTuple):
    value: Tensor
    real: Tensor | None
    fake: Tensor
    statistics: Tensor


def check_statistics(statistics: Tensor, real: Tensor | None, fake: Tensor) -> None:
    """Mean logits and mean signs of both sides, of nothing 0."""
    sides = [np.zeros(1) if x is None else wide(x) for x in (real, fake)]
    expected = [x.mean() for x in sides] + [np.sign(x).mean() for x in sides]
    np.testing.assert_allclose(wide(statistics), np.array(expected), rtol=0, atol=16 * ULP[statistics.dtype])


def with_slopes(real: Tensor | None, fake: Tensor, objective: loss.Objective, backend: str) -> Slopes:
    """Slopes land in columns of their own, as a chain's seeds are."""
    places = [None if x is None else torch.full_like(x.flatten(), torch.nan) for x in (real, fake)]
    value, statistics = loss.loss_gradients_(real, fake, *places, objective, backend=backend)
    real_gradient, fake_gradient = (None if place is None else place.unsqueeze(1) for place in places)
    return Slopes(value, real_gradient, fake_gradient, statistics)


def check_slopes(slopes: Slopes, value: Tensor, expected: tuple[Tensor, ...], unit: float) -> None:
    assert (slopes.real is None) == (len(expected) == 1)
    np.testing.assert_allclose(slopes.value.item(), value.item(), rtol=16 * unit, atol=16 * unit)
    for slope, exact_slope in zip((slopes.real, slopes.fake)[-len(expected) :], expected, strict=True):
        assert slope is not None and slope.shape == exact_slope.shape
        atol = 16 * unit * exact_slope.abs().max().item()
        torch.testing.assert_close(slope.double(), exact_slope, rtol=0, atol=atol)


@pytest.mark.parametrize("rows", [1, 63, 65, 5000, 70_001])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", loss.KINDS)
def test_a_loss_with_statistics(backend: str, kind: str, dtype: torch.dtype, rows: int) -> None:
    real, fake = (
        x.index_fill(0, torch.tensor(0), 0.0).detach() for x in (logits(rows, dtype=dtype), logits(rows, dtype=dtype))
    )
    real, fake = real.requires_grad_(), fake.requires_grad_()
    value, statistics = loss.d_loss_with_statistics(real, fake, kind=kind, backend=backend)
    alone = loss.d_loss(real, fake, kind=kind, backend=backend)
    assert not statistics.requires_grad
    torch.testing.assert_close(value, alone)
    check_statistics(statistics, real, fake)
    assert torch.equal(loss.d_loss_with_statistics(real.detach(), fake.detach(), kind=kind, backend=backend)[0], value)
    torch.testing.assert_close(torch.autograd.grad(value, (real, fake)), torch.autograd.grad(alone, (real, fake)))


@pytest.mark.parametrize("is_real", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", [kind for kind in loss.KINDS if kind not in loss.RELATIVISTIC_KINDS])
def test_one_side_alone(backend: str, kind: str, reduction: str, is_real: bool) -> None:
    x, e = logits(65, 1), 0.125 if kind in loss.SMOOTHED_KINDS else 0.0
    value = loss.side_loss(x, kind=kind, is_real=is_real, label_smoothing=e, reduction=reduction, backend=backend)
    pays = one_sided("d", kind, wide(x), wide(x), e)[0 if is_real else 1]
    expected = pays if reduction == "none" else pays.mean() if reduction == "mean" else pays.sum()
    np.testing.assert_allclose(wide(value), expected, rtol=1e-14)
    slope = one_sided("d", kind, wide(x), wide(x), e)[2 if is_real else 3] / (65 if reduction == "mean" else 1)
    np.testing.assert_allclose(wide(torch.autograd.grad(value.sum(), x)[0]), slope, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("options", [dict(label_smoothing=0.125), dict(scale=0.5)], ids=str)
def test_slopes_know_smoothing_and_scale(backend: str, options: dict) -> None:
    real, fake = logits(37, 1), logits(53, 1)
    slopes = with_slopes(real.detach(), fake.detach(), d_objective("lsgan", **options), backend)
    value = evaluate("d", "lsgan", real, fake, backend="reference", **options)
    check_slopes(slopes, value, torch.autograd.grad(value, (real, fake)), ULP[torch.float64])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_a_logit_that_is_not_finite_shows_in_the_means(backend: str, role: str, kind: str, bad: float) -> None:
    """A step is withheld by the means, whatever the objective makes of an infinite logit."""
    real, fake = torch.randn(9, 1), torch.randn(9, 1).index_fill(0, torch.tensor(4), bad)
    objective = d_objective(kind) if role == "d" else g_objective(kind)
    alone = role == "g" and kind not in loss.RELATIVISTIC_KINDS
    assert not with_slopes(None if alone else real, fake, objective, backend).statistics[1].isfinite()


@pytest.mark.parametrize("kind", ["wgan", "hinge"])
@pytest.mark.parametrize("is_real", [True, False], ids=["real", "fake"])
def test_labels_are_smoothed_only_where_that_is_defined(kind: str, is_real: bool, backend: str, device: torch.device) -> None:
    x, options = torch.tensor([0.5, -0.3], device=device), dict(kind=kind, is_real=is_real, backend=backend)
    plain = loss.side_loss(x, **options)
    assert torch.equal(loss.side_loss(x, label_smoothing=0.1, **options), plain)
    torch.testing.assert_close(plain, reference.side_loss(x, kind, is_real))


def test_the_reference_refuses_a_kind_that_it_does_not_have() -> None:
    x = torch.zeros(2)
    for function in (reference.d_loss, reference.g_loss):
        with pytest.raises(ValueError, match="other has no"):
            function(x, x, kind="other")
    for is_real in (True, False):
        with pytest.raises(ValueError, match="other has no loss of"):
            reference.side_loss(x, "other", is_real)
        with pytest.raises(ValueError, match="relativistic has no loss of"):
            reference.side_loss(x, "relativistic", is_real)
