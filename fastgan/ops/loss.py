"""loss: real and fake logits -> the objective's value and its slope per logit.

Supported derivatives: any order. The fused kernels give the value and the first derivative; a backward that is itself
differentiated (create_graph=True) recomputes from the saved logits with the reference's differentiable operations.
Inside torch.compile and under torch.func transforms the reference runs.
"""

from __future__ import annotations

from torch import Tensor

from . import reference
from .backend import implementation, resolve

KINDS, PAIRED_KINDS = reference.KINDS, reference.PAIRED_KINDS
RELATIVISTIC_KINDS, SMOOTHED_KINDS = reference.RELATIVISTIC_KINDS, reference.SMOOTHED_KINDS

for _name in ("d_loss", "g_loss", "bce_with_logits"):
    implementation(f"loss.{_name}", "reference")(getattr(reference, _name))


def d_loss(real: Tensor, fake: Tensor, *, kind: str, label_smoothing=0.0, scale=1.0, reduction="mean", backend="auto") -> Tensor:
    """The discriminator's loss of logits in any float dtype, fp32 or wider: 0-d, or [rows, ...] for reduction "none"."""
    run = resolve("loss.d_loss", real.device.type, backend)
    return run(real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction)


def g_loss(fake: Tensor, real: Tensor | None = None, *, kind: str, scale=1.0, reduction="mean", backend="auto") -> Tensor:
    """The generator's loss of logits; `real` matters to the relativistic kinds only, and is differentiated too."""
    return resolve("loss.g_loss", fake.device.type, backend)(fake, real, kind=kind, scale=scale, reduction=reduction)


def bce_with_logits(x: Tensor, target: Tensor | float, *, reduction="mean", backend="auto") -> Tensor:
    """Binary cross-entropy of logits with a float target or a tensor of x's shape."""
    return resolve("loss.bce_with_logits", x.device.type, backend)(x, target, reduction=reduction)
