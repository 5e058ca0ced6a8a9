"""Losses as people write them: right ones pass, and each known mistake is called by its name and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fastgan import losses, testing

pytestmark = pytest.mark.usefixtures("one_thread")

Call = Callable[..., Tensor]
Case = tuple[set[str], str, Call]
AVERAGE = "relativistic-average"


def names(faults: tuple[testing.Fault, ...]) -> set[str]:
    assert all(fault.evidence and fault.remedy for fault in faults)
    return {fault.name for fault in faults}


def wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def widened(loss: Call) -> Call:
    """The loss of logits in fp32 or wider."""
    return lambda *logits: loss(*map(wide, logits))


def sp(x: Tensor) -> Tensor:
    return F.softplus(x)


def bce(x: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, torch.full_like(x, label))


def ns(r: Tensor, f: Tensor) -> Tensor:
    return sp(-wide(r)).mean() + sp(wide(f)).mean()


def square(x: Tensor, label: float) -> Tensor:
    return F.mse_loss(x, torch.full_like(x, label))


def bce_of_sigmoid(r: Tensor, f: Tensor) -> Tensor:
    r, f = torch.sigmoid(r), torch.sigmoid(f)
    return nn.BCELoss()(r, torch.ones_like(r)) + nn.BCELoss()(f, torch.zeros_like(f))


class Softplus(torch.autograd.Function):
    """mean softplus, whose backward is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sp(x).mean()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * torch.sigmoid(ctx.saved_tensors[0]) / ctx.saved_tensors[0].numel()


class IgnoresUpstream(Softplus):
    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return torch.sigmoid(ctx.saved_tensors[0]) / ctx.saved_tensors[0].numel()


class SumsSlopes(Softplus):
    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * torch.sigmoid(ctx.saved_tensors[0])


class Once(Softplus):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return Softplus.backward(ctx, upstream)


class SavesItsSlope(Softplus):
    """Faster by one sigmoid; its second derivative is silently absent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(torch.sigmoid(x) / x.numel())
        return sp(x).mean()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * ctx.saved_tensors[0]


class DetachesHalfOfItsSlope(Softplus):
    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return upstream * 0.5 * (torch.sigmoid(x) + torch.sigmoid(x.detach())) / x.numel()


class SharesItsBuffer(Softplus):
    """Slopes of the last call alone are kept."""

    buffer: Tensor

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        SharesItsBuffer.buffer = x.detach()
        return sp(x).mean()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return upstream * torch.sigmoid(x - x.detach() + SharesItsBuffer.buffer) / x.numel()


class OverwritesInBackward(Softplus):
    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        slope = Softplus.backward(ctx, upstream)
        ctx.saved_tensors[0].data.copy_(slope)
        return slope


class TotalDerivative(torch.autograd.Function):
    """Both sides in one Function, whose backward differentiates the very tensors that were given."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, f: Tensor) -> Tensor:
        ctx.save_for_backward(r, f)
        return ns(r, f)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            return torch.autograd.grad(
                ns(*ctx.saved_tensors), ctx.saved_tensors, upstream, create_graph=torch.is_grad_enabled()
            )


class HalfOfOneTensor(torch.autograd.Function):
    """Takes two equal tensors for one side."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, f: Tensor) -> Tensor:
        ctx.save_for_backward(r, f)
        return ns(r, f)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        r, f = ctx.saved_tensors
        of_real, of_fake = -upstream * torch.sigmoid(-r) / r.numel(), upstream * torch.sigmoid(f) / f.numel()
        return of_real, None if r.data_ptr() == f.data_ptr() else of_fake


def by(function: type[Softplus]) -> Call:
    """The non-saturating discriminator's loss with a backward of its own."""
    return widened(lambda r, f: function.apply(-r) + function.apply(f))


def clamps_in_place(r: Tensor, f: Tensor) -> Tensor:
    return ns(r.clamp_(-20, 20), f.clamp_(-20, 20))


def logarithm(f: Tensor) -> Tensor:
    return -torch.log(torch.sigmoid(wide(f)) + 1e-8).mean()


D_LOSSES: dict[str, Case] = {
    "divided by two": ({"halved"}, "nonsaturating", lambda r, f: ns(r, f) / 2),
    "mean of both": (
        {"halved", "needs as many real as fake logits"},
        "nonsaturating",
        lambda r, f: torch.cat([sp(-wide(r)), sp(wide(f))]).mean(),
    ),
    "lsgan doubled": ({"doubled"}, "lsgan", widened(lambda r, f: 2 * square(r, 1.0) + 2 * square(f, 0.0))),
    "sum": ({"summed over rows instead of averaged"}, "nonsaturating", widened(lambda r, f: sp(-r).sum() + sp(f).sum())),
    "minus": ({"sign flipped"}, "nonsaturating", lambda r, f: -ns(r, f)),
    "wgan minus": ({"sign flipped"}, "wgan", widened(lambda r, f: r.mean() - f.mean())),
    "fake first": ({"sides exchanged"}, "nonsaturating", lambda r, f: ns(f, r)),
    "hinge by labels": (
        {"sides exchanged"},
        "hinge",
        widened(lambda r, f: F.relu(1 + r).mean() + F.relu(1 - f).mean()),
    ),
    "softplus sign": (
        {"sides exchanged", "broadcasts [N, 1] against [N]"},
        "relativistic",
        widened(lambda r, f: sp(r - f).mean()),
    ),
    "printed loop": (
        {"sigmoid applied to the logits"},
        "nonsaturating",
        widened(lambda r, f: -torch.sigmoid(r).mean() + torch.sigmoid(f).mean()),
    ),
    "wgan of D with a Sigmoid": (
        {"sigmoid applied to the logits"},
        "wgan",
        widened(lambda r, f: -torch.sigmoid(r).mean() + torch.sigmoid(f).mean()),
    ),
    "lsgan of probabilities": (
        {"sigmoid applied to the logits"},
        "lsgan",
        widened(lambda r, f: square(torch.sigmoid(r), 1.0) + square(torch.sigmoid(f), 0.0)),
    ),
    "BCE with logits of probabilities": (
        {"sigmoid applied to the logits"},
        "minimax",
        widened(lambda r, f: bce(torch.sigmoid(r), 1.0) + bce(torch.sigmoid(f), 0.0)),
    ),
    "smoothed": ({"label smoothing not asked for"}, "nonsaturating", widened(lambda r, f: bce(r, 0.9) + bce(f, 0.0))),
    "TF-GAN": ({"label smoothing not asked for"}, "minimax", widened(lambda r, f: bce(r, 0.75) + bce(f, 0.0))),
    "hinge": ({"loss of another kind"}, "wgan", widened(lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean())),
    "cubes": ({"wrong value"}, "lsgan", widened(lambda r, f: (r - 1).abs().pow(3).mean() + f.abs().pow(3).mean())),
    "halved sum": (
        {"halved", "summed over rows instead of averaged"},
        "lsgan",
        widened(lambda r, f: 0.5 * (r - 1).square().sum() + 0.5 * f.square().sum()),
    ),
    "BCELoss of a sigmoid": ({"wrong at large logits"}, "nonsaturating", widened(bce_of_sigmoid)),
    "log of 1 - sigmoid": (
        {"wrong at large logits"},
        "nonsaturating",
        widened(lambda r, f: -torch.log(torch.sigmoid(r)).mean() - torch.log(1 - torch.sigmoid(f)).mean()),
    ),
    "log of 1 + exp": (
        {"wrong at large logits"},
        "nonsaturating",
        widened(lambda r, f: torch.log(1 + torch.exp(-r)).mean() + torch.log(1 + torch.exp(f)).mean()),
    ),
    "item": ({"no gradient to the logits"}, "hinge", lambda r, f: torch.tensor(losses.d_loss(r, f, "hinge").item())),
    "ignores upstream": ({"ignores the upstream gradient"}, "nonsaturating", by(IgnoresUpstream)),
    "slopes of the sum": ({"wrong slopes"}, "nonsaturating", by(SumsSlopes)),
    "once": ({"second derivative missing"}, "nonsaturating", by(Once)),
    "saved slope": ({"second derivative missing"}, "nonsaturating", by(SavesItsSlope)),
    "half detached": ({"second derivative wrong"}, "nonsaturating", by(DetachesHalfOfItsSlope)),
    "total derivative": ({"one tensor on both sides gets a wrong gradient"}, "nonsaturating", TotalDerivative.apply),
    "half of one": ({"one tensor on both sides gets a wrong gradient"}, "nonsaturating", HalfOfOneTensor.apply),
    "neg_": ({"overwrites the logits"}, "nonsaturating", lambda r, f: ns(r.neg_().neg(), f)),
    "clamp_": ({"overwrites the logits", "wrong at large logits"}, "nonsaturating", clamps_in_place),
    "slopes into logits": (
        {"overwrites the logits"},
        "nonsaturating",
        lambda r, f: sp(-wide(r)).mean() + OverwritesInBackward.apply(wide(f)),
    ),
    "pairs": ({"broadcasts [N, 1] against [N]"}, "relativistic", widened(lambda r, f: sp(f - r).mean())),
    "bf16": ({"value in half precision"}, "nonsaturating", lambda r, f: sp(-r).mean() + sp(f).mean()),
    "bf16 hinge": ({"value in half precision"}, "hinge", lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean()),
    "probabilities wanted": ({"raises an error"}, "nonsaturating", lambda r, f: F.binary_cross_entropy(r, torch.ones_like(r))),
    "no reduction": ({"not a 0-d tensor"}, "wgan", lambda r, f: f - r),
    "a float": ({"not a 0-d tensor"}, "wgan", lambda r, f: (f - r).mean().item()),
}

G_LOSSES: dict[str, Case] = {
    "halved": ({"halved"}, "lsgan", widened(lambda f: 0.5 * square(f, 1.0))),
    "saturating": ({"saturating loss in place of the non-saturating one"}, "nonsaturating", widened(lambda f: -bce(f, 0.0))),
    "vanilla": ({"non-saturating loss in place of the saturating one"}, "minimax", widened(lambda f: bce(f, 1.0))),
    "fake label": ({"sides exchanged"}, "nonsaturating", widened(lambda f: bce(f, 0.0))),
    "lightweight-gan": ({"sign flipped"}, "hinge", widened(lambda f: f.mean())),
    "printed loop": ({"sigmoid applied to the logits"}, "nonsaturating", widened(lambda f: -torch.sigmoid(f).mean())),
    "arguments": ({"sides exchanged", "broadcasts [N, 1] against [N]"}, "relativistic", widened(lambda f, r: sp(f - r).mean())),
    "blind to real": ({"loss of another kind"}, AVERAGE, widened(lambda f, r: sp(-f).mean())),
    "mimicry": ({"wrong at large logits"}, "nonsaturating", logarithm),
    "shared buffer": (
        {"a tensor in two losses gets a wrong gradient"},
        "nonsaturating",
        widened(lambda f: SharesItsBuffer.apply(-f)),
    ),
    "pairs": ({"broadcasts [N, 1] against [N]"}, "relativistic", widened(lambda f, r: sp(r - f).mean())),
    "detached": ({"no gradient to the logits"}, "wgan", lambda f: -wide(f.detach()).mean()),
}

SMOOTHED_LOSSES: dict[str, Case] = {
    "forgotten": ({"label smoothing forgotten"}, "nonsaturating", ns),
    "both": ({"label smoothing on both sides"}, "nonsaturating", widened(lambda r, f: bce(r, 0.8) + bce(f, 0.2))),
    "keras": ({"label smoothing on both sides"}, "minimax", widened(lambda r, f: bce(r, 0.9) + bce(f, 0.1))),
    "lsgan": ({"label smoothing on both sides"}, "lsgan", widened(lambda r, f: square(r, 0.8) + square(f, 0.2))),
}


@pytest.mark.parametrize("kind", losses.KINDS)
def test_fastgans_losses_conform(kind: str) -> None:
    assert testing.diagnose_d_loss(partial(losses.d_loss, kind=kind), kind, half_precision=True) == ()
    assert testing.diagnose_g_loss(partial(losses.g_loss, kind=kind), kind, half_precision=True) == ()
    module = losses.GANLoss(kind)
    testing.check_d_loss(module.d, kind)
    testing.check_g_loss(module.g, kind)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"kind": "mse", "scale": 0.5}], ids=str)
def test_fastgans_options_conform(options: dict[str, Any], backend: str) -> None:
    testing.check_d_loss(partial(losses.d_loss, backend=backend, **options), **options)
    if "scale" in options:
        testing.check_d_loss(partial(losses.d_loss, label_smoothing=0.3, **options), label_smoothing=0.3, **options)
        testing.check_g_loss(partial(losses.g_loss, backend=backend, **options), **options)


def paired(first: Tensor, second: Tensor) -> Tensor:
    """softplus(second - first) of rows that belong together."""
    assert first.shape == second.shape
    return sp(wide(second) - wide(first)).mean()


RIGHT: dict[str, tuple[Call, Call]] = {
    "nonsaturating": (ns, widened(lambda f: F.softplus(-f).mean())),
    "minimax": (widened(lambda r, f: bce(r, 1.0) + bce(f, 0.0)), widened(lambda f: -bce(f, 0.0))),
    "lsgan": (widened(lambda r, f: square(r, 1.0) + square(f, 0.0)), widened(lambda f: square(f, 1.0))),
    "wgan": (widened(lambda r, f: f.mean() - r.mean()), widened(lambda f: -f.mean())),
    "hinge": (widened(lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean()), widened(lambda f: -f.mean())),
    "relativistic": (paired, paired),
    AVERAGE: (
        widened(lambda r, f: sp(f.mean() - r).mean() + sp(f - r.mean()).mean()),
        widened(lambda f, r: sp(r.detach().mean() - f).mean() + sp(r.detach() - f.mean()).mean()),
    ),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_losses_composed_of_torchs_functions_conform(kind: str) -> None:
    assert testing.diagnose_d_loss(RIGHT[kind][0], kind) == ()
    assert testing.diagnose_g_loss(RIGHT[kind][1], kind) == ()


def test_a_dtype_may_be_refused() -> None:
    def in_fp32(r: Tensor, f: Tensor) -> Tensor:
        if r.dtype != torch.float32:
            raise TypeError(f"no kernel for {r.dtype}")
        return ns(r, f)

    assert testing.diagnose_d_loss(in_fp32) == ()
    assert testing.diagnose_d_loss(by(Softplus)) == ()
    assert testing.diagnose_d_loss(lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean()) == (), "half in, half out"


@pytest.mark.parametrize(("expected", "kind", "loss"), D_LOSSES.values(), ids=D_LOSSES)
def test_a_discriminator_losss_mistake_has_a_name(expected: set[str], kind: str, loss: Call) -> None:
    assert names(testing.diagnose_d_loss(loss, kind, half_precision=True)) == expected


@pytest.mark.parametrize(("expected", "kind", "loss"), G_LOSSES.values(), ids=G_LOSSES)
def test_a_generator_losss_mistake_has_a_name(expected: set[str], kind: str, loss: Call) -> None:
    assert names(testing.diagnose_g_loss(loss, kind, half_precision=True)) == expected


@pytest.mark.parametrize(("expected", "kind", "loss"), SMOOTHED_LOSSES.values(), ids=SMOOTHED_LOSSES)
def test_a_smoothed_losss_mistake_has_a_name(expected: set[str], kind: str, loss: Call) -> None:
    assert names(testing.diagnose_d_loss(loss, kind, label_smoothing=0.2)) == expected


def test_the_error_says_what_was_found_and_what_to_do() -> None:
    with pytest.raises(testing.ConformanceError, match="discriminator's nonsaturating loss: 1 fault\n") as raised:
        testing.check_d_loss(D_LOSSES["divided by two"][2], "vanilla")
    (fault,) = raised.value.faults
    assert all(part in str(raised.value) for part in fault[:3])
    assert fault.name == "halved" and fault.evidence.startswith("expected ")
    with pytest.raises(testing.ConformanceError, match="generator's hinge loss"):
        testing.check_g_loss(G_LOSSES["lightweight-gan"][2], "hinge")


def test_nothing_of_the_callers_changes() -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        assert testing.diagnose_d_loss(lambda r, f: ns(F.dropout(r, 0.0), f)) == ()
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_options_that_a_kind_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown loss"):
        testing.diagnose_d_loss(ns, "wgan-gp")
    with pytest.raises(ValueError, match="scale"):
        testing.diagnose_g_loss(logarithm, "hinge", scale=0.5)
    with pytest.raises(ValueError, match="smoothing"):
        testing.check_d_loss(ns, "wgan", label_smoothing=0.1)
