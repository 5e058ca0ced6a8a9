"""loss: the objectives, as kernels know them and as the reference defines them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from . import reference


class Terms(NamedTuple):
    """What one network minimizes of all logits: a form that csrc/logit_loss.h explains, by the name that every kernel knows.

    A target of 1 pulls that side's logits up, 0 pushes them down.
    """

    form: str
    fake_target: float = 0.0
    real_target: float = 1.0
    scale: float = 1.0


class Objective(NamedTuple):
    """An objective as the kernels know it, beside what defines it.

    arguments: (form, fake target, real target, scale, mean), without the trailing ones that have their default value. None
    where no kernel is made for it.
    rows: whether the kernel is the one that gives each row a value; cheap_in_torch: whether torch composes these of one or two
    operations, which cost less than a kernel whose backward is Python's where there are few rows.
    """

    terms: Terms
    arguments: tuple | None
    define: Callable[[Any, Any], Tensor]  # (real, fake) -> value, differentiable to any order
    rows: bool = False
    cheap_in_torch: bool = False


# of the discriminator, and of the generator
KIND_TERMS = {
    "minimax": (Terms("bce"), Terms("bce", scale=-1.0)),
    "nonsaturating": (Terms("bce"), Terms("bce", 1.0)),
    "lsgan": (Terms("square"), Terms("square", 1.0)),
    "wgan": (Terms("linear"), Terms("linear", 1.0)),
    "hinge": (Terms("hinge"), Terms("linear", 1.0)),
    "relativistic": (Terms("paired"), Terms("paired", 1.0, 0.0)),
    "relativistic-average": (Terms("average"), Terms("average", 1.0, 0.0)),
}
CHEAP_D_TERMS = ("linear", "paired")  # forms of which torch composes a discriminator's rows of one or two operations
DEFAULTS = (*(Terms._field_defaults[name] for name in Terms._fields[1:]), True)  # of the kernels' arguments after the form


def _objective(
    define: Callable[[Any, Any], Tensor], reduction: str, terms: Terms, *, cheap_in_torch: bool = False
) -> Objective:
    rows = reduction == "none"
    if rows and terms.form == "average":
        return Objective(terms, None, define)  # a row depends on the others
    values = (*terms[1:], reduction != "sum")
    used = max((i + 1 for i, (value, default) in enumerate(zip(values, DEFAULTS, strict=True)) if value != default), default=0)
    return Objective(terms, (terms.form, *values[:used]), define, rows, cheap_in_torch)


def _d_terms(kind: str, label_smoothing: float, scale: float) -> Terms:
    terms = _scaled(kind, KIND_TERMS[kind][0], scale)
    smoothed = label_smoothing if kind in reference.SMOOTHED_KINDS else 0.0
    return terms._replace(real_target=terms.real_target - smoothed)


def _scaled(kind: str, terms: Terms, scale: float) -> Terms:
    return terms._replace(scale=scale * terms.scale) if kind == "lsgan" else terms


@functools.lru_cache(maxsize=64)
def d_objective(kind: str, label_smoothing: float = 0.0, scale: float = 1.0, reduction: str = "mean") -> Objective:
    """The discriminator's objective."""

    def define(real: Tensor, fake: Tensor) -> Tensor:
        return reference.d_loss(real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction)

    terms = _d_terms(kind, label_smoothing, scale)
    return _objective(define, reduction, terms, cheap_in_torch=terms.form in CHEAP_D_TERMS)


@functools.lru_cache(maxsize=64)
def g_objective(kind: str, scale: float = 1.0, reduction: str = "mean") -> Objective:
    """The generator's objective: fake logits up, and real ones down where they take part."""

    def define(real: Tensor | None, fake: Tensor) -> Tensor:
        return reference.g_loss(fake, real, kind=kind, scale=scale, reduction=reduction)

    return _objective(define, reduction, _scaled(kind, KIND_TERMS[kind][1], scale), cheap_in_torch=True)


@functools.lru_cache(maxsize=64)
def side_objective(kind: str, is_real: bool, label_smoothing: float, scale: float, reduction: str) -> Objective:
    """The discriminator's objective for one side, whose logits are in fake's place."""
    options = label_smoothing, scale, reduction

    def define(real: None, fake: Tensor) -> Tensor:
        return reference.side_loss(fake, kind, is_real, *options)

    terms = _d_terms(kind, label_smoothing, scale)
    alone = Terms(terms.form, terms.real_target if is_real else terms.fake_target, scale=terms.scale)
    return _objective(define, reduction, alone, cheap_in_torch=not label_smoothing)


@functools.lru_cache(maxsize=64)
def bce_objective(target: float, reduction: str = "mean") -> Objective:
    """Binary cross-entropy of `fake` with one target."""

    def define(real: None, fake: Tensor) -> Tensor:
        return reference.bce_with_logits(fake, target, reduction=reduction)

    return _objective(define, reduction, Terms("bce", float(target)))
