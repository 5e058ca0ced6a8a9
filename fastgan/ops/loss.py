"""loss: real and fake logits -> the objective's value and its slope per logit.

Supported derivatives: any order. The fused kernels give the value and the first derivative; a backward that is itself
differentiated (create_graph=True) recomputes from the saved logits with the reference's differentiable operations.
Inside torch.compile and under torch.func transforms the reference runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import reference
from .backend import implementation, resolve

KINDS, PAIRED_KINDS = reference.KINDS, reference.PAIRED_KINDS
RELATIVISTIC_KINDS, SMOOTHED_KINDS = reference.RELATIVISTIC_KINDS, reference.SMOOTHED_KINDS

_REFERENCES = {f"loss.{name}": getattr(reference, name) for name in ("d_loss", "g_loss", "bce_with_logits")}
for _name, _function in _REFERENCES.items():
    implementation(_name, "reference")(_function)


def _choose(operator: str, x: Tensor, backend: str) -> Callable[..., Tensor]:
    if torch.compiler.is_compiling():
        return _REFERENCES[operator]
    # is_cpu and is_cuda are flags; device.type makes two objects, for 0.3 us
    return resolve(operator, "cpu" if x.is_cpu else "cuda" if x.is_cuda else x.device.type, backend)


def d_loss(
    real: Tensor, fake: Tensor, *, kind: str, label_smoothing=0.0, scale=1.0, reduction="mean", backend="auto"
) -> Tensor:
    """The discriminator's loss of logits in any float dtype, fp32 or wider: 0-d, or [rows, ...] for reduction "none"."""
    run = _choose("loss.d_loss", real, backend)
    return run(real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction)


def g_loss(fake: Tensor, real: Tensor | None = None, *, kind: str, scale=1.0, reduction="mean", backend="auto") -> Tensor:
    """The generator's loss of logits; `real` matters to the relativistic kinds only, and is differentiated too."""
    return _choose("loss.g_loss", fake, backend)(fake, real, kind=kind, scale=scale, reduction=reduction)


def bce_with_logits(x: Tensor, target: Tensor | float, *, reduction="mean", backend="auto") -> Tensor:
    """Binary cross-entropy of logits with a float target or a tensor of x's shape."""
    return _choose("loss.bce_with_logits", x, backend)(x, target, reduction=reduction)


class Objective(NamedTuple):
    """An objective as the kernels know it (csrc/cpu/loss.cpp lists the forms), beside what defines it.

    arguments: (form, fake target, real target, scale, mean), without the trailing ones that have their default value;
    a target of 1 pulls that side's logits up, 0 pushes them down. None where no kernel is made for it.
    """

    arguments: tuple | None
    define: Callable[[Any, Any], Tensor]  # (real, fake) -> value, differentiable to any order


BCE, SQUARE, HINGE, LINEAR, PAIRED, AVERAGE = range(6)
FORMS = {
    "minimax": BCE,
    "nonsaturating": BCE,
    "lsgan": SQUARE,
    "wgan": LINEAR,
    "hinge": HINGE,
    "relativistic": PAIRED,
    "relativistic-average": AVERAGE,
}
DEFAULTS = (0.0, 1.0, 1.0, True)  # of the kernels' arguments after the form


def _arguments(form: int, fake_target: float, real_target: float, scale: float, reduction: str) -> tuple | None:
    if reduction == "none":
        return None
    values = (fake_target, real_target, scale, reduction == "mean")
    used = max((i + 1 for i, (value, default) in enumerate(zip(values, DEFAULTS, strict=True)) if value != default), default=0)
    return form, *values[:used]


@functools.lru_cache(maxsize=64)
def d_objective(kind: str, label_smoothing: float = 0.0, scale: float = 1.0, reduction: str = "mean") -> Objective:
    """The discriminator's objective."""
    smoothing = label_smoothing if kind in SMOOTHED_KINDS else 0.0

    def define(real: Tensor, fake: Tensor) -> Tensor:
        return reference.d_loss(real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction)

    arguments = _arguments(FORMS[kind], 0.0, 1.0 - smoothing, scale if kind == "lsgan" else 1.0, reduction)
    return Objective(arguments, define)


@functools.lru_cache(maxsize=64)
def g_objective(kind: str, scale: float = 1.0, reduction: str = "mean") -> Objective:
    """The generator's objective: fake logits up, and real ones down where they take part."""

    def define(real: Tensor | None, fake: Tensor) -> Tensor:
        return reference.g_loss(fake, real, kind=kind, scale=scale, reduction=reduction)

    if kind == "minimax":
        return Objective(_arguments(BCE, 0.0, 1.0, -1.0, reduction), define)  # minus what the discriminator pays
    form = LINEAR if kind == "hinge" else FORMS[kind]
    real_target = 0.0 if kind in RELATIVISTIC_KINDS else 1.0
    return Objective(_arguments(form, 1.0, real_target, scale if kind == "lsgan" else 1.0, reduction), define)


@functools.lru_cache(maxsize=64)
def bce_objective(target: float, reduction: str = "mean") -> Objective:
    """Binary cross-entropy of `fake` with one target."""

    def define(real: None, fake: Tensor) -> Tensor:
        return reference.bce_with_logits(fake, target, reduction=reduction)

    return Objective(_arguments(BCE, float(target), 1.0, 1.0, reduction), define)


@functools.cache
def _operator(name: str) -> Callable[..., Any]:
    return getattr(torch.ops.fastgan, name).default


def _differentiable_gradients(
    define: Callable[..., Tensor], upstream: Tensor, inputs: tuple[Tensor | None, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of upstream * define(*inputs) with a graph of their own, for a backward that is differentiated."""
    # aliases: one input may be computed from another, or be the same tensor, and the derivative is a partial one
    aliases = [None if x is None else x.view_as(x) for x in inputs]
    targets = [x for x, want in zip(aliases, wanted, strict=True) if want and x is not None]
    gradients = iter(torch.autograd.grad(define(*aliases), targets, upstream, create_graph=True, materialize_grads=True))
    return tuple(next(gradients) if want else None for want in wanted)


def slopes_(
    real: Tensor | None,
    fake: Tensor,
    real_slope: Tensor | None,
    fake_slope: Tensor,
    objective: Objective,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Writes a mean objective's slope by each fp32 or fp64 logit, and returns its value (0-d) and the mean logits [2].

    The means are of real (0 without) and fake; slopes are as many as the logits. One pass; no derivative exists.
    """
    run = resolve("loss.slopes_", fake.device.type, backend)
    return run(real, fake, real_slope, fake_slope, objective)


@implementation("loss.slopes_", "reference")
def _slopes_by_autograd(
    real: Tensor | None, fake: Tensor, real_slope: Tensor | None, fake_slope: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    logits = [x.detach().requires_grad_() for x in (real, fake) if x is not None]
    with torch.enable_grad():
        value = objective.define(logits[0] if real is not None else None, logits[-1])
        slopes = torch.autograd.grad(value, logits, materialize_grads=True)
    fake_slope.copy_(slopes[-1].view_as(fake_slope))
    if real_slope is not None:
        real_slope.copy_(slopes[0].view_as(real_slope))
    return value.detach(), torch.stack([fake.new_zeros(()) if real is None else real.mean(), fake.mean()])


@implementation("loss.slopes_", "cpp", "cpu", "cuda")
def _slopes_in_one_pass(
    real: Tensor | None, fake: Tensor, real_slope: Tensor | None, fake_slope: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    assert objective.arguments is not None, "the mean of every objective has a kernel"
    return _operator("loss_slopes_")(real, fake, real_slope, fake_slope, *objective.arguments)


class _Loss(torch.autograd.Function):
    """The fused value; the slope is recomputed from the saved logits, which moves fewer bytes than saving it."""

    @staticmethod
    def forward(ctx: Any, real: Tensor | None, fake: Tensor, objective: Objective) -> Tensor:
        ctx.save_for_backward(real, fake)
        ctx.objective = objective
        return _operator("loss")(real, fake, *objective.arguments)  # type: ignore[misc]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        real, fake = ctx.saved_tensors
        want_real, want_fake, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            define = ctx.objective.define
            return *_differentiable_gradients(define, upstream, (real, fake), (want_real, want_fake)), None
        return *_operator("loss_backward")(upstream, real, fake, want_real, *ctx.objective.arguments), None


class _Bce(torch.autograd.Function):
    """Binary cross-entropy with a tensor of labels, which has no gradient here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, labels: Tensor, mean: bool) -> Tensor:
        ctx.save_for_backward(x, labels)
        ctx.mean = mean
        return _operator("bce")(x, labels, mean)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, labels = ctx.saved_tensors
        if torch.is_grad_enabled():
            define = functools.partial(reference.bce_with_logits, reduction="mean" if ctx.mean else "sum")
            return *_differentiable_gradients(define, upstream, (x, labels), (True, False)), None
        return _operator("bce_backward")(upstream, x, labels, ctx.mean), None, None


_WIDE = (torch.float32, torch.float64)
_DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def _plain(x: Tensor) -> bool:
    """Whether a kernel sees all there is to x: no tensor subclass, no torch.func transform, no forward-mode derivative."""
    return type(x) is Tensor and x.dtype in _DTYPES and not _transforms_active() and forward_ad._current_level < 0


def _alike(x: Tensor, like: Tensor) -> bool:
    return type(x) is Tensor and x.dtype is like.dtype


def _value(real: Tensor | None, fake: Tensor, objective: Objective) -> Tensor:
    if objective.arguments is None or not (_plain(fake) and (real is None or _alike(real, fake))):
        return objective.define(real, fake)
    if torch.is_grad_enabled() and (fake.requires_grad or (real is not None and real.requires_grad)):
        return _Loss.apply(real, fake, objective)
    return _operator("loss")(real, fake, *objective.arguments)


@implementation("loss.d_loss", "cpp", "cpu", "cuda")
def _cpp_d_loss(real, fake, *, kind: str, label_smoothing=0.0, scale=1.0, reduction="mean") -> Tensor:
    return _value(real, fake, d_objective(kind, label_smoothing, scale, reduction))


def _mean_is_minimal(fake: Tensor) -> bool:
    """Whether torch's mean costs less than a kernel whose backward is Python's: few logits that need a gradient."""
    return fake.requires_grad and fake.numel() < 32768 and fake.dtype in _WIDE and torch.is_grad_enabled()


@implementation("loss.g_loss", "cpp", "cpu", "cuda")
def _cpp_g_loss(fake, real=None, *, kind: str, scale=1.0, reduction="mean") -> Tensor:
    if kind in ("wgan", "hinge") and reduction == "mean" and _mean_is_minimal(fake):
        return -fake.mean()
    return _value(real if kind in RELATIVISTIC_KINDS else None, fake, g_objective(kind, scale, reduction))


@implementation("loss.bce_with_logits", "cpp", "cpu", "cuda")
def _cpp_bce_with_logits(x: Tensor, target: Tensor | float, *, reduction="mean") -> Tensor:
    if not isinstance(target, Tensor):
        return _value(None, x, bce_objective(target, reduction))
    kernel = reduction != "none" and _plain(x) and _alike(target, x) and not target.requires_grad and target.shape == x.shape
    if not kernel:
        return reference.bce_with_logits(x, target, reduction=reduction)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Bce.apply(x, target, reduction == "mean")
    return _operator("bce")(x, target, reduction == "mean")
