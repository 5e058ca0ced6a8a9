"""loss: the objectives, as kernels know them and as the reference defines them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from . import reference


class Objective(NamedTuple):
    """An objective as the kernels know it (csrc/cpu/loss.cpp lists the forms), beside what defines it.

    arguments: (form, fake target, real target, scale, mean), without the trailing ones that have their default value;
    a target of 1 pulls that side's logits up, 0 pushes them down. None where no kernel is made for it.
    rows: whether the kernel is the one that gives each row a value; cheap_in_torch: whether torch composes these of one or two
    operations, which cost less than a kernel whose backward is Python's where there are few rows.
    """

    arguments: tuple | None
    define: Callable[[Any, Any], Tensor]  # (real, fake) -> value, differentiable to any order
    rows: bool = False
    cheap_in_torch: bool = False


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


def _objective(
    define: Callable[[Any, Any], Tensor],
    reduction: str,
    form: int,
    fake_target: float = 0.0,
    real_target: float = 1.0,
    scale: float = 1.0,
    *,
    cheap_in_torch: bool = False,
) -> Objective:
    rows = reduction == "none"
    if rows and form == AVERAGE:
        return Objective(None, define)  # a row depends on the others
    values = (fake_target, real_target, scale, reduction != "sum")
    used = max((i + 1 for i, (value, default) in enumerate(zip(values, DEFAULTS, strict=True)) if value != default), default=0)
    return Objective((form, *values[:used]), define, rows, cheap_in_torch)


@functools.lru_cache(maxsize=64)
def d_objective(kind: str, label_smoothing: float = 0.0, scale: float = 1.0, reduction: str = "mean") -> Objective:
    """The discriminator's objective."""
    smoothing = label_smoothing if kind in reference.SMOOTHED_KINDS else 0.0

    def define(real: Tensor, fake: Tensor) -> Tensor:
        return reference.d_loss(real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction)

    factor = scale if kind == "lsgan" else 1.0
    cheap_in_torch = kind in ("wgan", "relativistic")
    return _objective(define, reduction, FORMS[kind], 0.0, 1.0 - smoothing, factor, cheap_in_torch=cheap_in_torch)


@functools.lru_cache(maxsize=64)
def g_objective(kind: str, scale: float = 1.0, reduction: str = "mean") -> Objective:
    """The generator's objective: fake logits up, and real ones down where they take part."""

    def define(real: Tensor | None, fake: Tensor) -> Tensor:
        return reference.g_loss(fake, real, kind=kind, scale=scale, reduction=reduction)

    if kind == "minimax":  # minus what the discriminator pays
        return _objective(define, reduction, BCE, 0.0, 1.0, -1.0, cheap_in_torch=True)
    form = LINEAR if kind == "hinge" else FORMS[kind]
    real_target = 0.0 if kind in reference.RELATIVISTIC_KINDS else 1.0
    return _objective(define, reduction, form, 1.0, real_target, scale if kind == "lsgan" else 1.0, cheap_in_torch=True)


@functools.lru_cache(maxsize=64)
def side_objective(kind: str, is_real: bool, label_smoothing: float, scale: float, reduction: str) -> Objective:
    """The discriminator's objective for one side, whose logits are in fake's place."""
    options = label_smoothing, scale, reduction

    def define(real: None, fake: Tensor) -> Tensor:
        return reference.side_loss(fake, kind, is_real, *options)

    target = 1.0 - label_smoothing if is_real else 0.0
    factor = scale if kind == "lsgan" else 1.0
    return _objective(define, reduction, FORMS[kind], target, 1.0, factor, cheap_in_torch=not label_smoothing)


@functools.lru_cache(maxsize=64)
def bce_objective(target: float, reduction: str = "mean") -> Objective:
    """Binary cross-entropy of `fake` with one target."""

    def define(real: None, fake: Tensor) -> Tensor:
        return reference.bce_with_logits(fake, target, reduction=reduction)

    return _objective(define, reduction, BCE, float(target))
