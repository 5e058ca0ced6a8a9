"""The adversarial losses against their formulas in numpy, and their slopes in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.losses import KINDS, GANLoss, d_loss, g_loss

Array = np.ndarray
PAIRED, AVERAGE = "relativistic", "relativistic-average"
ONE_SIDED = tuple(kind for kind in KINDS if kind not in (PAIRED, AVERAGE))
SMOOTHED = ("minimax", "nonsaturating", "lsgan")
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (*HALVES, torch.float32, torch.float64)


def sp(x: Array) -> Array:
    """log(1 + exp(x)), which numpy evaluates without overflow."""
    return np.logaddexp(0.0, x)


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def d_terms(r: Array, f: Array, kind: str, e: float = 0.0, scale: float = 1.0) -> list[Array]:
    """What the discriminator pays for each logit, in sums of two sides without halves."""
    if kind in ("minimax", "nonsaturating"):
        return [(1 - e) * sp(-r) + e * sp(r), sp(f)]
    if kind == "lsgan":
        return [scale * (r - 1 + e) ** 2, scale * f**2]
    if kind == "wgan":
        return [-r, f]
    if kind == "hinge":
        return [np.maximum(0, 1 - r), np.maximum(0, 1 + f)]
    return [sp(f - r)] if kind == PAIRED else [sp(f.mean() - r), sp(f - r.mean())]


def g_terms(f: Array, r: Array, kind: str, scale: float = 1.0) -> list[Array]:
    """What the generator pays for each logit."""
    if kind == PAIRED:
        return [sp(r - f)]
    if kind == AVERAGE:
        return [sp(r.mean() - f), sp(r - f.mean())]
    table = {"minimax": -sp(f), "nonsaturating": sp(-f), "lsgan": scale * (f - 1) ** 2, "wgan": -f, "hinge": -f}
    return [table[kind]]


def d_slopes(r: Array, f: Array, kind: str) -> tuple[Array, Array]:
    """The derivative of the mean discriminator loss in each real and each fake logit, by hand."""
    if kind == PAIRED:
        return -sigmoid(f - r) / r.size, sigmoid(f - r) / f.size
    if kind == AVERAGE:
        pull, press = sigmoid(f.mean() - r), sigmoid(f - r.mean())
        return -(pull + press.mean()) / r.size, (press + pull.mean()) / f.size
    table = {
        "lsgan": (2 * (r - 1), 2 * f),
        "wgan": (-np.ones_like(r), np.ones_like(f)),
        "hinge": (-1.0 * (r < 1.0), 1.0 * (f > -1.0)),
    }
    of_real, of_fake = table.get(kind, (-sigmoid(-r), sigmoid(f)))
    return of_real / r.size, of_fake / f.size


def reduced(terms: list[Array], reduction: str) -> Array:
    if reduction == "none":
        return sum(terms[1:], terms[0])
    return np.asarray(sum(term.mean() if reduction == "mean" else term.sum() for term in terms))


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3.0 * torch.randn(shape, dtype=torch.float64)).to(dtype)


def array(x: Tensor) -> Array:
    return x.detach().double().numpy()


def same(value: Tensor, expected: Array, tolerance: float = 1e-13) -> None:
    torch.testing.assert_close(value.double(), torch.from_numpy(np.asarray(expected)), rtol=tolerance, atol=tolerance)


def of_discriminator(kind: str) -> Callable[..., Tensor]:
    return lambda real, fake: d_loss(real, fake, kind)


def of_generator(kind: str) -> Callable[..., Tensor]:
    return lambda real, fake: g_loss(fake, kind=kind, real=real)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_losses_are_their_formulas(kind: str, reduction: str) -> None:
    real = torch.linspace(-28.0, 28.0, 9, dtype=torch.float64).view(9, 1)  # beyond 20 too, where F.softplus gives up
    fake = 0.9 * real.flip(0) + logits(9, 1).clamp(-1, 1)
    r, f = array(real), array(fake)
    same(d_loss(real, fake, kind, reduction=reduction), reduced(d_terms(r, f, kind), reduction))
    same(g_loss(fake, kind=kind, real=real, reduction=reduction), reduced(g_terms(f, r, kind), reduction))


@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 1), (2, 1, 3, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_may_have_any_shape(kind: str, shape: tuple[int, ...]) -> None:
    real, fake = logits(*shape), logits(*shape)
    same(d_loss(real, fake, kind), reduced(d_terms(array(real), array(fake), kind), "mean"))
    assert d_loss(real, fake, kind, reduction="none").shape == shape


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != PAIRED])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_row_counts_may_differ_where_rows_do_not_pair(kind: str, reduction: str) -> None:
    real, fake = logits(6, 1), logits(4, 1)
    same(d_loss(real, fake, kind, reduction=reduction), reduced(d_terms(array(real), array(fake), kind), reduction))
    same(g_loss(fake, kind=kind, real=real, reduction=reduction), reduced(g_terms(array(fake), array(real), kind), reduction))


def test_nonsaturating_is_the_default() -> None:
    real, fake = logits(3), logits(3)
    assert torch.equal(d_loss(real, fake), d_loss(real, fake, "nonsaturating"))
    assert torch.equal(g_loss(fake), g_loss(fake, kind="nonsaturating"))
    assert GANLoss().kind == "nonsaturating"


@pytest.mark.parametrize("kind", KINDS)
def test_strided_logits_are_read_where_they_are(kind: str) -> None:
    real, fake = logits(2, 12).t()[::2], logits(12, 4)[::2, ::2]
    assert not real.is_contiguous() and not fake.is_contiguous()
    same(d_loss(real, fake, kind), reduced(d_terms(array(real), array(fake), kind), "mean"))


@pytest.mark.parametrize("e", [0.1, 0.25])
@pytest.mark.parametrize("kind", SMOOTHED)
def test_label_smoothing_moves_the_real_target_alone(kind: str, e: float) -> None:
    real, fake = logits(9), logits(9)
    same(d_loss(real, fake, kind, label_smoothing=e), reduced(d_terms(array(real), array(fake), kind, e), "mean"))
    smoothed = GANLoss(kind, label_smoothing=e)
    assert torch.equal(smoothed.g(fake), g_loss(fake, kind=kind))


def test_scale_gives_lsgan_its_halved_convention() -> None:
    real, fake = logits(9), logits(9)
    same(d_loss(real, fake, "lsgan", scale=0.5), 0.5 * reduced(d_terms(array(real), array(fake), "lsgan"), "mean"))
    same(g_loss(fake, kind="lsgan", scale=0.5), 0.5 * reduced(g_terms(array(fake), array(real), "lsgan"), "mean"))


@pytest.mark.parametrize("kind", KINDS)
def test_first_derivatives_are_the_hand_written_slopes(kind: str) -> None:
    real, fake = logits(8).requires_grad_(), logits(8).requires_grad_()
    of_real, of_fake = torch.autograd.grad(d_loss(real, fake, kind), (real, fake))
    expected = d_slopes(array(real), array(fake), kind)
    same(of_real, expected[0])
    same(of_fake, expected[1])


@pytest.mark.parametrize("loss", [of_discriminator, of_generator])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_to_third_order(kind: str, loss: Callable[[str], Callable[..., Tensor]]) -> None:
    inputs = (logits(2).requires_grad_(), logits(2).requires_grad_())
    assert torch.autograd.gradcheck(loss(kind), inputs)
    assert torch.autograd.gradgradcheck(loss(kind), inputs)

    def first_slope(real: Tensor, fake: Tensor) -> Tensor:
        value = loss(kind)(real, fake)
        slopes = torch.autograd.grad(value, (real, fake), create_graph=True, materialize_grads=True)
        return torch.stack(slopes).square().sum() + 0.0 * (real + fake).sum()

    assert torch.autograd.gradgradcheck(first_slope, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_huge_logits_stay_finite_and_have_the_right_gradient(kind: str, dtype: torch.dtype) -> None:
    """Both signs on both sides, with the slopes rounded to the logits' dtype."""
    real = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    fake = torch.tensor([1e4, -1e4, -1e4, 1e4], dtype=dtype, requires_grad=True)
    value = d_loss(real, fake, kind)
    r, f = array(real), array(fake)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.item() == pytest.approx(float(reduced(d_terms(r, f, kind), "mean")), rel=1e-6)
    slopes = torch.autograd.grad(value, (real, fake))
    rounding = {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(dtype, 1e-6)
    for slope, expected in zip(slopes, d_slopes(r, f, kind), strict=True):
        assert slope.dtype == dtype
        same(slope, expected, rounding)
    assert g_loss(fake, kind=kind, real=real).isfinite()
    (slope,) = torch.autograd.grad(g_loss(fake, kind=kind, real=real), fake)
    assert slope.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_error_is_at_most_twice_that_of_plain_torch(kind: str, dtype: torch.dtype) -> None:
    """Plain torch: the same formula on logits widened as the losses widen them."""
    real, fake = logits(257, dtype=dtype), logits(257, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    r, f = real.to(wide), fake.to(wide)
    if kind in ("minimax", "nonsaturating"):
        one, zero = torch.ones_like(r), torch.zeros_like(f)
        plain = F.binary_cross_entropy_with_logits(r, one) + F.binary_cross_entropy_with_logits(f, zero)
    else:
        terms = {
            "lsgan": [(r - 1) ** 2, f**2],
            "wgan": [-r, f],
            "hinge": [F.relu(1 - r), F.relu(1 + f)],
            PAIRED: [F.softplus(f - r)],
            AVERAGE: [F.softplus(f.mean() - r), F.softplus(f - r.mean())],
        }[kind]
        plain = sum(term.mean() for term in terms)
    expected = float(reduced(d_terms(array(real), array(fake), kind), "mean"))
    rounding = 4 * torch.finfo(wide).eps * max(abs(expected), 1.0)
    assert abs(d_loss(real, fake, kind).item() - expected) <= 2 * abs(plain.item() - expected) + rounding


@pytest.mark.parametrize(("dtype", "logit"), [(torch.float32, 17.0), (torch.bfloat16, 8.0), (torch.float16, 12.0)], ids=str)
def test_a_confident_mistake_still_has_a_gradient(dtype: torch.dtype, logit: float) -> None:
    """D calls a fake real. Its slope is 1; a Sigmoid followed by BCELoss has rounded 1 - D away, and gives 0 (or nan)."""
    fake = torch.full((1,), logit, dtype=dtype, requires_grad=True)
    (ours,) = torch.autograd.grad(d_loss(torch.full_like(fake, 20.0).detach(), fake), fake)
    assert ours.item() == pytest.approx(1.0, abs=4e-3)
    (pitfall,) = torch.autograd.grad(nn.BCELoss()(torch.sigmoid(fake), torch.zeros_like(fake)), fake)
    assert not abs(pitfall.item()) > 0.0


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_under_autocast_are_fp32(kind: str, dtype: torch.dtype) -> None:
    critic, rows = nn.Linear(4, 1), torch.randn(5, 4)
    with torch.autocast("cpu", dtype):
        real, fake = critic(rows), critic(-rows)
        assert real.dtype == dtype
        value, generator = d_loss(real, fake, kind), g_loss(fake, kind=kind, real=real)
    assert value.dtype == generator.dtype == torch.float32
    same(value, reduced(d_terms(array(real), array(fake), kind), "mean"), 1e-6)
    same(generator, reduced(g_terms(array(fake), array(real), kind), "mean"), 1e-6)


def test_real_and_fake_may_differ_in_dtype() -> None:
    real, fake = logits(5, dtype=torch.bfloat16), logits(5, dtype=torch.float32)
    same(d_loss(real, fake), reduced(d_terms(array(real), array(fake), "nonsaturating"), "mean"), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_losses_equal_eager_ones(kind: str) -> None:
    real, fake = logits(6, 1).requires_grad_(), logits(6, 1).requires_grad_()
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return d_loss(real, fake, kind), g_loss(fake, kind=kind, real=real)

    values, eager = compiled(real, fake), (d_loss(real, fake, kind), g_loss(fake, kind=kind, real=real))
    for ours, theirs in zip(values, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    slopes = [torch.autograd.grad(pair[0] + 2 * pair[1], (real, fake)) for pair in (values, eager)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_function_transforms_see_the_losses(kind: str) -> None:
    real, fake = logits(4, 3), logits(4, 3)
    slopes = torch.func.grad(of_discriminator(kind), argnums=(0, 1))(real, fake)
    for slope, expected in zip(slopes, d_slopes(array(real), array(fake), kind), strict=True):
        same(slope, expected)
    batched = torch.func.vmap(of_discriminator(kind))(real, fake)
    same(batched, np.stack([reduced(d_terms(array(r), array(f), kind), "mean") for r, f in zip(real, fake, strict=True)]))
    rows = torch.func.vmap(torch.func.grad(of_generator(kind), argnums=1))(real, fake)
    expected = [torch.func.grad(of_generator(kind), argnums=1)(r, f) for r, f in zip(real, fake, strict=True)]
    torch.testing.assert_close(rows, torch.stack(expected))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_module_says_what_the_functions_say(kind: str, reduction: str) -> None:
    options = dict(scale=0.5) if kind == "lsgan" else {}
    real, fake, loss = logits(6), logits(6), GANLoss(kind, reduction=reduction, **options)
    assert torch.equal(loss.d(real, fake), d_loss(real, fake, kind, reduction=reduction, **options))
    assert torch.equal(loss.g(fake, real=real), g_loss(fake, kind=kind, real=real, reduction=reduction, **options))
    assert not list(loss.parameters()) and not loss.state_dict() and kind in repr(loss)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ONE_SIDED)
def test_one_side_at_a_time_adds_up_to_the_whole(kind: str, reduction: str) -> None:
    """The call of image translation: loss(prediction, target_is_real)."""
    e = 0.2 if kind in SMOOTHED else 0.0
    real, fake, loss = logits(6), logits(6), GANLoss(kind, reduction=reduction, label_smoothing=e)
    of_real, of_fake = d_terms(array(real), array(fake), kind, e)
    same(loss(real, True), reduced([of_real], reduction))
    same(loss(fake, False), reduced([of_fake], reduction))
    same(loss(fake, True, for_discriminator=False), reduced(g_terms(array(fake), array(real), kind), reduction))
    assert loss(real.half(), True).dtype == torch.float32
    with pytest.raises(ValueError, match="empty"):
        loss(torch.empty(0), True)
    with pytest.raises(TypeError, match="floating-point"):
        loss(torch.ones(2, dtype=torch.long), False)
