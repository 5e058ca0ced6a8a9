"""loss: real and fake logits -> the objective's value, its gradient per logit, and the statistics that people log.

Supported derivatives: any order. The fused kernels give the value and the first derivative; a backward that is itself
differentiated (create_graph=True) recomputes from the saved logits with the reference's differentiable operations.
Inside torch.compile and under torch.func transforms the reference runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import reference
from .backend import check_name, implementation, resolve
from .objective import Objective

KINDS, ALIASES = reference.KINDS, reference.ALIASES
PAIRED_KINDS, RELATIVISTIC_KINDS = reference.PAIRED_KINDS, reference.RELATIVISTIC_KINDS
SMOOTHED_KINDS, LOGIT_KINDS = reference.SMOOTHED_KINDS, reference.LOGIT_KINDS

REDUCTIONS = ("mean", "sum", "none")


def _d_loss_with_statistics(real: Tensor, fake: Tensor, **options) -> tuple[Tensor, Tensor]:
    return reference.d_loss(real, fake, **options), reference.statistics(real.detach(), fake.detach())


_REFERENCES: dict[str, Callable[..., Any]] = {
    "loss.d_loss": reference.d_loss,
    "loss.d_loss_with_statistics": _d_loss_with_statistics,
    "loss.side_loss": reference.side_loss,
    "loss.g_loss": reference.g_loss,
    "loss.bce_with_logits": reference.bce_with_logits,
}
for _name, _function in _REFERENCES.items():
    implementation(_name, "reference")(_function)


def check_reduction(reduction: str) -> None:
    """ValueError that lists them all for an unknown one, TypeError for no string."""
    if not isinstance(reduction, str):
        raise TypeError(f'reduction must be "mean", "sum" or "none", got a {type(reduction).__name__}')
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')


def _choose(operator: str, x: Tensor, backend: str) -> Callable[..., Any]:
    if torch.compiler.is_compiling():
        check_name(backend)
        return _REFERENCES[operator]
    # is_cpu and is_cuda are flags; device.type makes two objects, for 0.3 us
    return resolve(operator, "cpu" if x.is_cpu else "cuda" if x.is_cuda else x.device.type, backend)


def d_loss(
    real: Tensor, fake: Tensor, *, kind: str, label_smoothing=0.0, scale=1.0, reduction="mean", backend="auto"
) -> Tensor:
    """The discriminator's loss of logits in any float dtype, fp32 or wider: 0-d, or [rows, ...] for reduction "none"."""
    run = _choose("loss.d_loss", real, backend)
    return run(real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction)


def d_loss_with_statistics(
    real: Tensor, fake: Tensor, *, kind: str, label_smoothing=0.0, scale=1.0, reduction="mean", backend="auto"
) -> tuple[Tensor, Tensor]:
    """`d_loss`, and [4] without a graph: mean real and fake logits, and the means of their signs; one pass but for "none"."""
    run = _choose("loss.d_loss_with_statistics", real, backend)
    return run(real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction)


def side_loss(
    logits: Tensor, *, kind: str, is_real: bool, label_smoothing=0.0, scale=1.0, reduction="mean", backend="auto"
) -> Tensor:
    """The discriminator's loss of one side alone, in the kinds that do not compare real with fake."""
    run = _choose("loss.side_loss", logits, backend)
    return run(logits, kind=kind, is_real=is_real, label_smoothing=label_smoothing, scale=scale, reduction=reduction)


def g_loss(fake: Tensor, real: Tensor | None = None, *, kind: str, scale=1.0, reduction="mean", backend="auto") -> Tensor:
    """The generator's loss of logits; `real` matters to the relativistic kinds only, and is differentiated too."""
    return _choose("loss.g_loss", fake, backend)(fake, real, kind=kind, scale=scale, reduction=reduction)


def bce_with_logits(x: Tensor, target: Tensor | float, *, reduction="mean", backend="auto") -> Tensor:
    """Binary cross-entropy of logits with a float target or a tensor of x's shape."""
    return _choose("loss.bce_with_logits", x, backend)(x, target, reduction=reduction)


def loss_gradients_(
    real: Tensor | None,
    fake: Tensor,
    real_gradient: Tensor | None,
    fake_gradient: Tensor,
    objective: Objective,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Writes a mean objective's gradient by each fp32 or fp64 logit, and returns its value (0-d) and its statistics [4].

    Statistics: mean real logits (0 without) and fake ones, the means of their signs. Gradients are as many as the logits. One
    pass; no derivative exists.
    """
    run = resolve("loss.loss_gradients_", fake.device.type, backend)
    return run(real, fake, real_gradient, fake_gradient, objective)


@implementation("loss.loss_gradients_", "reference")
def _gradients_by_autograd(
    real: Tensor | None, fake: Tensor, real_gradient: Tensor | None, fake_gradient: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    logits = [x.detach().requires_grad_() for x in (real, fake) if x is not None]
    with torch.enable_grad():
        value = objective.define(logits[0] if real is not None else None, logits[-1])
        gradients = torch.autograd.grad(value, logits, materialize_grads=True)
    fake_gradient.copy_(gradients[-1].view_as(fake_gradient))
    if real_gradient is not None:
        real_gradient.copy_(gradients[0].view_as(real_gradient))
    return value.detach(), reference.statistics(real, fake)
