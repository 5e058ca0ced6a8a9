"""loss by the C++ operators, and how autograd sees them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..backend import fake, implementation, is_transformed
from ..objective import Objective, Terms, bce_objective, d_objective, g_objective, side_objective


@functools.cache
def _operator(name: str) -> Callable[..., Any]:
    overload = getattr(torch.ops.fastgan, name).default
    return getattr(overload, "_op", overload)  # the same without a call in Python, an eighth of the time


def _differentiable_gradients(
    define: Callable[..., Tensor], upstream: Tensor, inputs: tuple[Tensor | None, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of upstream * define(*inputs) with a graph of their own, for a backward that is differentiated."""
    # aliases: one input may be computed from another, or be the same tensor, and the derivative is a partial one
    aliases = [None if x is None else x.view_as(x) for x in inputs]
    targets = [x for x, want in zip(aliases, wanted, strict=True) if want and x is not None]
    gradients = iter(torch.autograd.grad(define(*aliases), targets, upstream, create_graph=True, materialize_grads=True))
    return tuple(next(gradients) if want else None for want in wanted)


def _apply_to_copies(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """After a RuntimeError of `function.apply`: once more with copies of what inference mode has made, which cannot be saved.

    To ask each tensor before would cost 3 % of a call.
    """
    copied = [x.clone() if isinstance(x, Tensor) and x.is_inference() else x for x in arguments]
    if all(map(operator.is_, copied, arguments)):
        raise  # inside the caller's `except`
    return function.apply(*copied)


@implementation("loss.loss_gradients_", "cpp", "cpu", "cuda")
def _loss_gradients_cpp(
    real: Tensor | None, fake: Tensor, real_gradient: Tensor | None, fake_gradient: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    assert objective.arguments is not None and not objective.rows, "the mean of every objective has a kernel"
    return _operator("loss_gradients_")(real, fake, real_gradient, fake_gradient, *objective.arguments)


class _Loss(torch.autograd.Function):
    """The fused value; the gradient is recomputed from the saved logits, which moves fewer bytes than saving it."""

    @staticmethod
    def forward(ctx: Any, real: Tensor | None, fake: Tensor, objective: Objective) -> Tensor:
        ctx.save_for_backward(real, fake)
        ctx.objective = objective
        return _operator("loss_rows" if objective.rows else "loss")(real, fake, *objective.arguments)  # type: ignore[misc]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        real, fake = ctx.saved_tensors
        want_real, want_fake, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            define = ctx.objective.define
            return *_differentiable_gradients(define, upstream, (real, fake), (want_real, want_fake)), None
        backward = _operator("loss_rows_backward" if ctx.objective.rows else "loss_backward")
        return *backward(upstream, real, fake, want_real, *ctx.objective.arguments), None


class _LossWithStatistics(torch.autograd.Function):
    """The same, and statistics, which have no gradient."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, fake: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(real, fake)
        ctx.objective = objective
        value, statistics = _operator("loss_statistics")(real, fake, *objective.arguments)  # type: ignore[misc]
        ctx.mark_non_differentiable(statistics)
        return value, statistics

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return _Loss.backward(ctx, upstream)


class _Bce(torch.autograd.Function):
    """Binary cross-entropy with a tensor of labels, which has no gradient here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, labels: Tensor, reduction: str) -> Tensor:
        ctx.save_for_backward(x, labels)
        ctx.reduction = reduction
        return _bce(x, labels, reduction)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, labels = ctx.saved_tensors
        if torch.is_grad_enabled():
            define = functools.partial(reference.bce_with_logits, reduction=ctx.reduction)
            return *_differentiable_gradients(define, upstream, (x, labels), (True, False)), None
        if ctx.reduction == "none":
            return _operator("bce_rows_backward")(upstream, x, labels), None, None
        return _operator("bce_backward")(upstream, x, labels, ctx.reduction == "mean"), None, None


def _bce(x: Tensor, labels: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return _operator("bce_rows")(x, labels)
    return _operator("bce")(x, labels, reduction == "mean")


FEW = 1024  # rows that cost less than a call of Python
_WIDE = (torch.float32, torch.float64)
_DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))


def _plain(x: Tensor) -> bool:
    """Whether a kernel sees all there is to x: no tensor subclass, no torch.func transform, no forward-mode derivative."""
    return type(x) is Tensor and x.dtype in _DTYPES and not is_transformed()


def _kernel_arguments(real: Tensor | None, fake: Tensor, objective: Objective) -> tuple | None:
    """What the kernels take of an objective; None where the reference has to run."""
    if not _plain(fake) or (real is not None and (type(real) is not Tensor or real.dtype is not fake.dtype)):
        return None
    return objective.arguments if not objective.rows or fake.is_cpu else None


def _value(real: Tensor | None, fake: Tensor, objective: Objective) -> Tensor:
    if (arguments := _kernel_arguments(real, fake, objective)) is None:
        return objective.define(real, fake)
    if torch.is_grad_enabled() and (fake.requires_grad or (real is not None and real.requires_grad)):
        cheap_in_torch = objective.rows and objective.cheap_in_torch and fake.numel() < FEW and fake.dtype in _WIDE
        if cheap_in_torch:
            return objective.define(real, fake)
        try:
            return _Loss.apply(real, fake, objective)
        except RuntimeError:
            return _apply_to_copies(_Loss, real, fake, objective)
    return _operator("loss_rows" if objective.rows else "loss")(real, fake, *arguments)


@implementation("loss.d_loss", "cpp", "cpu", "cuda")
def _cpp_d_loss(real, fake, *, kind: str, label_smoothing=0.0, scale=1.0, reduction="mean") -> Tensor:
    return _value(real, fake, d_objective(kind, label_smoothing, scale, reduction))


@implementation("loss.d_loss_with_statistics", "cpp", "cpu", "cuda")
def _cpp_d_loss_with_statistics(real, fake, *, kind, label_smoothing=0.0, scale=1.0, reduction="mean") -> tuple[Tensor, Tensor]:
    objective = d_objective(kind, label_smoothing, scale, reduction)
    if objective.rows or (arguments := _kernel_arguments(real, fake, objective)) is None:
        return _value(real, fake, objective), reference.statistics(real.detach(), fake.detach())
    if torch.is_grad_enabled() and (fake.requires_grad or real.requires_grad):
        try:
            return _LossWithStatistics.apply(real, fake, objective)
        except RuntimeError:
            return _apply_to_copies(_LossWithStatistics, real, fake, objective)
    return _operator("loss_statistics")(real, fake, *arguments)


def _has_minimal_mean(logits: Tensor, reduction: str) -> bool:
    """Whether two operations of torch cost less than a kernel whose backward is Python's: few logits that need a gradient."""
    small = reduction == "mean" and logits.requires_grad and logits.numel() < 32768
    return small and logits.dtype in _WIDE and torch.is_grad_enabled()


def _mean(logits: Tensor, terms: Terms) -> Tensor:
    """The mean of the linear form. torch's own mean is slower than its sum, forward and backward."""
    return logits.sum() * (terms.scale * (1.0 - 2.0 * terms.fake_target) / logits.numel())


@implementation("loss.g_loss", "cpp", "cpu", "cuda")
def _cpp_g_loss(fake, real=None, *, kind: str, scale=1.0, reduction="mean") -> Tensor:
    objective = g_objective(kind, scale, reduction)
    if objective.terms.form == "linear" and _has_minimal_mean(fake, reduction):
        return _mean(fake, objective.terms)
    return _value(real if kind in reference.RELATIVISTIC_KINDS else None, fake, objective)


@implementation("loss.side_loss", "cpp", "cpu", "cuda")
def _cpp_side_loss(logits, *, kind, is_real: bool, label_smoothing=0.0, scale=1.0, reduction="mean") -> Tensor:
    objective = side_objective(kind, is_real, label_smoothing, scale, reduction)
    if objective.terms.form == "linear" and _has_minimal_mean(logits, reduction):
        return _mean(logits, objective.terms)
    return _value(None, logits, objective)


@implementation("loss.bce_with_logits", "cpp", "cpu", "cuda")
def _cpp_bce_with_logits(x: Tensor, target: Tensor | float, *, reduction="mean") -> Tensor:
    if not isinstance(target, Tensor):
        return _value(None, x, bce_objective(target, reduction))
    kernel = _plain(x) and type(target) is Tensor and target.dtype is x.dtype and not target.requires_grad
    if not kernel or (reduction == "none" and not x.is_cpu):
        return reference.bce_with_logits(x, target, reduction=reduction)
    if torch.is_grad_enabled() and x.requires_grad:
        try:
            return _Bce.apply(x, target, reduction)
        except RuntimeError:
            return _apply_to_copies(_Bce, x, target, reduction)
    return _bce(x, target, reduction)


def _wide_empty(logits: Tensor, *shape: int) -> Tensor:
    return logits.new_empty(shape, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)


@fake("loss")
def _fake_loss(real: Tensor | None, fake: Tensor, *_: Any) -> Tensor:
    return _wide_empty(fake)


@fake("loss_rows")
def _fake_rows(real: Tensor | None, fake: Tensor, *_: Any) -> Tensor:
    return _wide_empty(fake, *fake.shape)


@fake("loss_statistics", "loss_gradients_")
def _fake_statistics(real: Tensor | None, fake: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _wide_empty(fake), _wide_empty(fake, 4)


@fake("loss_backward", "loss_rows_backward")
def _fake_backward(
    upstream: Tensor, real: Tensor | None, fake: Tensor, want_real: bool, *_: Any
) -> tuple[Tensor | None, Tensor]:
    return None if real is None or not want_real else real.new_empty(real.shape), fake.new_empty(fake.shape)


@fake("bce")
def _fake_bce(x: Tensor, labels: Tensor, mean: bool) -> Tensor:
    return _wide_empty(x)


@fake("bce_rows")
def _fake_bce_rows(x: Tensor, labels: Tensor) -> Tensor:
    return _wide_empty(x, *x.shape)


@fake("bce_backward", "bce_rows_backward")
def _fake_bce_backward(upstream: Tensor, x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)
