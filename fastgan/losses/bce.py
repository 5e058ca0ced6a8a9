"""Binary cross-entropy of logits with torch's own signature, and a number in place of a tensor of labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import loss as ops
from ..ops.backend import BackendUnavailable, check_name
from ..ops.reference import wide, wide_labels
from ..runtime.arguments import describe
from .arguments import LOGITS, check_device, check_type, labels_of


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
        target: a number, a 0-d tensor, or a tensor of the input's shape, of any float, integer or bool dtype.
        weight: a factor for each element, in a shape that broadcasts to the input's.
        size_average: deprecated, as in torch.
        reduce: deprecated, as in torch.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor for the positive term, in a shape that broadcasts to the input's.
        backend: "auto", "reference" (plain torch) or "cpp"; one that is named must be able to run on this device.

    Returns:
        0-d, or the input's shape for reduction="none"; fp32 or wider, as torch does under autocast.

    Raises:
        ValueError: a target of another shape, weights that do not broadcast to the input's, an unknown reduction.
        TypeError: an input that is no floating-point tensor, a target that is no label, an option of a wrong kind.
        BackendUnavailable: the backend that was asked for cannot run.

    Example:
        >>> round(float(binary_cross_entropy_with_logits(torch.tensor([0.0, 100.0]), 1.0)), 4)
        0.3466
        >>> binary_cross_entropy_with_logits(torch.zeros(2), 1.0, weight=torch.ones(2), backend="cpp")
        Traceback (most recent call last):
            ...
        fastgan.ops.backend.BackendUnavailable: backend 'cpp' cannot run: no kernel takes weight, ...
    """
    check_type("input", input)
    plain = target.__class__ is float or (
        isinstance(target, Tensor) and target.dtype in LOGITS and target.is_cpu is input.is_cpu and target.shape == input.shape
    )
    if not plain:
        target = _target(target, input)
    if weight is not None or pos_weight is not None or size_average is not None or reduce is not None:
        _check_torch_options(weight, size_average, reduce, reduction, pos_weight)
        _check_fit("weight", weight, input)
        _check_fit("pos_weight", pos_weight, input)
        check_name(backend)
        if backend not in ("auto", "reference"):
            raise BackendUnavailable(
                f"backend {backend!r} cannot run: no kernel takes weight, pos_weight, size_average or reduce"
            )
        logits = wide(input)
        labels = wide_labels(target, logits) if isinstance(target, Tensor) else torch.full_like(logits, target)
        if pos_weight is not None and pos_weight.dtype == torch.bool:  # torch subtracts 1 from it
            pos_weight = pos_weight.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, labels, weight, size_average, reduce, reduction, pos_weight)
    ops.check_reduction(reduction)
    return ops.bce_with_logits(input, target, reduction=reduction, backend=backend)


def _target(target: Tensor | float, input: Tensor) -> Tensor | float:
    """Labels in the input's shape, or a float."""
    target = labels_of("target", target, input)
    if isinstance(target, Tensor) and target.shape != input.shape:
        if target.dim():
            raise ValueError(f"target size ({tuple(target.shape)}) must be the same as input size ({tuple(input.shape)})")
        return target.expand(input.shape)
    return target


def _is_real_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dtype in LOGITS or not (value.is_floating_point() or value.is_complex()))


def _check_torch_options(weight: Any, size_average: Any, reduce: Any, reduction: Any, pos_weight: Any) -> None:
    """TypeError or ValueError for what torch's function would not know what to do with."""
    for name, factors in (("weight", weight), ("pos_weight", pos_weight)):
        if factors is not None and not _is_real_tensor(factors):
            raise TypeError(f"{name} must be a tensor of factors, got {describe(factors)}; options are written by name")
    for name, flag in (("size_average", size_average), ("reduce", reduce)):
        if flag is not None and not isinstance(flag, int):
            raise TypeError(
                f"{name} must be True or False, got {describe(flag)}: write reduction= in its place; "
                "logits and labels are arguments of the module's call, BCEWithLogitsLoss()(input, target)"
            )
    ops.check_reduction(reduction)


def _check_fit(name: str, factors: Tensor | None, input: Tensor) -> None:
    """ValueError for factors on another device, or of a shape that would make a table of the logits or does not fit at all."""
    if factors is None:
        return
    if factors.dim():
        check_device(name, factors, "input", input)
    pairs = zip(reversed(factors.shape), reversed(input.shape), strict=False)
    if factors.dim() > input.dim() or any(size not in (1, wanted) for size, wanted in pairs):
        shapes = f"shape {tuple(factors.shape)}, which does not broadcast to the input's {tuple(input.shape)}"
        raise ValueError(f"{name} has {shapes}: write {name}.view with a size of 1 where it is the same for all")


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """torch.nn.BCEWithLogitsLoss, with its arguments and its state dict, whose target may be a number as well.

    Args:
        weight: a factor for each element, in a shape that broadcasts to the input's.
        size_average: deprecated, as in torch.
        reduce: deprecated, as in torch.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor for the positive term, in a shape that broadcasts to the input's.

    Raises:
        TypeError: an option of a wrong kind, such as the logits, which are arguments of the module's call.
        ValueError: an unknown reduction.

    Example:
        >>> loss = BCEWithLogitsLoss(reduction="sum")
        >>> round(float(loss(torch.zeros(4), 1.0)), 4)
        2.7726
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        _check_torch_options(weight, size_average, reduce, reduction, pos_weight)
        super().__init__(weight, size_average, reduce, reduction, pos_weight)

    def forward(self, input: Tensor, target: Tensor | float) -> Tensor:
        """`binary_cross_entropy_with_logits` with the module's options.

        Args:
            input: logits of any shape, fp16, bf16, fp32 or fp64.
            target: a number, a 0-d tensor, or a tensor of the input's shape, of any float, integer or bool dtype.

        Returns:
            0-d, or the input's shape for reduction="none"; fp32 or wider.

        Raises:
            ValueError, TypeError: as the function does.
        """
        return binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
