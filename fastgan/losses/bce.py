"""Binary cross-entropy of logits with torch's own signature, and a float target in place of a tensor of labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import loss as ops
from ..ops.backend import BackendUnavailable
from ..ops.reference import wide


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor | float,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """torch.nn.functional.binary_cross_entropy_with_logits, and a float target (1.0 real, 0.0 fake) needs no label tensor.

    Derivatives of any order exist, by a target tensor too. With weight, pos_weight or the deprecated size_average and reduce,
    torch's own function runs, on logits and labels widened to fp32.

    Args:
        input: logits of any shape, fp16, bf16, fp32 or fp64.
        target: a float, or a tensor of the same shape.
        weight: a factor for each element, in a shape that broadcasts to the input's.
        size_average: deprecated, as in torch.
        reduce: deprecated, as in torch.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor for the positive term, in a shape that broadcasts to the input's.
        backend: "auto", "reference" (plain torch) or "cpp"; one that is named must be able to run on this device.

    Returns:
        0-d, or the input's shape for reduction="none"; fp32 or wider, as torch does under autocast.

    Raises:
        ValueError: a target of another shape, an unknown reduction.
        TypeError: an input that is not floating point.
        BackendUnavailable: the backend that was asked for cannot run.

    Example:
        >>> round(float(binary_cross_entropy_with_logits(torch.tensor([0.0, 100.0]), 1.0)), 4)
        0.3466
        >>> binary_cross_entropy_with_logits(torch.zeros(2), 1.0, weight=torch.ones(2), backend="cpp")
        Traceback (most recent call last):
            ...
        fastgan.ops.backend.BackendUnavailable: backend 'cpp' cannot run: no kernel takes weight, ...
    """
    if not input.is_floating_point():
        raise TypeError(f"input must be a tensor of floating-point logits, got {input.dtype}")
    if weight is not None or pos_weight is not None or size_average is not None or reduce is not None:
        if backend not in ("auto", "reference"):
            raise BackendUnavailable(
                f"backend {backend!r} cannot run: no kernel takes weight, pos_weight, size_average or reduce"
            )
        labels = wide(target) if isinstance(target, Tensor) else torch.full_like(wide(input), target)
        return F.binary_cross_entropy_with_logits(wide(input), labels, weight, size_average, reduce, reduction, pos_weight)
    if isinstance(target, Tensor) and target.shape != input.shape:
        raise ValueError(f"target size ({tuple(target.shape)}) must be the same as input size ({tuple(input.shape)})")
    ops.check_reduction(reduction)
    return ops.bce_with_logits(input, target, reduction=reduction, backend=backend)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """torch.nn.BCEWithLogitsLoss, with its arguments and its state dict, whose target may be a float as well.

    Example:
        >>> loss = BCEWithLogitsLoss(reduction="sum")
        >>> round(float(loss(torch.zeros(4), 1.0)), 4)
        2.7726
    """

    def forward(self, input: Tensor, target: Tensor | float) -> Tensor:
        """`binary_cross_entropy_with_logits` with the module's options.

        Args:
            input: logits of any shape, fp16, bf16, fp32 or fp64.
            target: a float, or a tensor of the same shape.

        Returns:
            0-d, or the input's shape for reduction="none"; fp32 or wider.

        Raises:
            ValueError, TypeError: as the function does.
        """
        return binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
