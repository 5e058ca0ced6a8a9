"""What losses take: an argument of a wrong kind is a TypeError that says what to write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Never

import numpy as np
import torch
from torch import Tensor

from ..ops import loss as ops
from ..runtime.arguments import NUMBERS, describe

LOGITS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))


def _remedy(name: str, value: Any) -> str:
    """What to write in place of a value that is no tensor of logits."""
    if isinstance(value, Tensor):
        return "" if value.is_complex() else f": write {name}.float() if these are logits"
    if isinstance(value, str) and name in ("real", "fake"):
        return f': a kind is named behind the logits, d_loss(real, fake, kind="{value}") or g_loss(fake, kind="{value}")'
    if isinstance(value, Mapping):
        return f": pick the logits, or call the loss for each of {name}.values() and add what it returns"
    if isinstance(value, (list, tuple)):
        return ": call the loss for each, as in sum(d_loss(r, f) for r, f in zip(real, fake))"
    if isinstance(value, np.ndarray):
        return f": write torch.from_numpy({name})"
    if isinstance(value, type):
        return ": make an instance, call it on images, and pass what it returns"
    return ": call it on images, and pass what it returns" if callable(value) else ""


def check_type(name: str, logits: Any) -> None:
    """TypeError for what is no tensor of logits."""
    if not isinstance(logits, Tensor) or logits.dtype not in LOGITS:
        what = f"{describe(logits)}{_remedy(name, logits)}"
        raise TypeError(f"{name} must be one tensor of floating-point logits (fp16, bf16, fp32 or fp64), got {what}")


def check_logits(name: str, logits: Any) -> None:
    """TypeError for what is no tensor of logits, ValueError for an empty one."""
    if isinstance(logits, Tensor) and logits.dtype in LOGITS and logits.numel():
        return
    check_type(name, logits)
    raise ValueError(f"{name} is an empty batch, shape {tuple(logits.shape)}")


def check_pair(real: Any, fake: Any, kind: str, reduction: str) -> None:
    """TypeError or ValueError for two sides that have no loss together."""
    alike = isinstance(real, Tensor) and isinstance(fake, Tensor) and real.is_cpu is fake.is_cpu and real.shape == fake.shape
    if alike and real.dtype in LOGITS and fake.dtype in LOGITS and real.numel():
        return  # most calls end here
    check_logits("real", real)
    check_logits("fake", fake)
    check_device("fake", fake, "real", real)
    if real.dim() != fake.dim() or real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"real and fake differ beyond their rows: {tuple(real.shape)} and {tuple(fake.shape)}")
    if kind in ops.PAIRED_KINDS or reduction == "none":
        why = f"{kind} pairs them" if kind in ops.PAIRED_KINDS else 'reduction="none" adds them'
        raise ValueError(f"real has {real.shape[0]} rows and fake {fake.shape[0]}, but {why} row by row")


def check_device(name: str, x: Tensor, other: str, y: Tensor) -> None:
    """ValueError for two tensors on different devices."""
    if x.device != y.device:
        raise ValueError(f"{name} is on {x.device} and {other} on {y.device}: write {name}.to('{y.device}')")


def refuse_by_position(compared: Any, kind: str) -> None:
    """TypeError for a second argument of the generator's loss of a kind that compares nothing."""
    check_type("real", compared)
    raise TypeError(
        f"{kind} compares fake with no real logits, got a second tensor by position: "
        f'write g_loss(fake, kind="{kind}"), or .g(fake) of a GANLoss; real= by keyword is ignored'
    )


def refuse_surplus(call: str, others: tuple[Any, ...]) -> Never:
    """TypeError for arguments by position that come by name."""
    got = ", ".join(map(describe, others))
    raise TypeError(f"logits and the kind come by position, and options by name, got {got} too: write {call}")


def check_order(real: Tensor, fake: Tensor) -> None:
    """ValueError for a generator's loss whose real logits alone have a gradient: it would train nothing."""
    if real.requires_grad and not fake.requires_grad:
        raise ValueError("real needs a gradient and fake needs none: fake comes first, g_loss(fake, real, kind)")


def check_options(kind: str, reduction: str, label_smoothing: float = 0.0, scale: float = 1.0) -> None:
    """TypeError or ValueError for options that the kind does not have."""
    numbers = label_smoothing.__class__ is scale.__class__ is float
    if numbers and label_smoothing == 0.0 and scale == 1.0 and reduction.__class__ is str and reduction in ops.REDUCTIONS:
        return  # most calls end here
    ops.check_reduction(reduction)
    check_number("label_smoothing", label_smoothing, "e for real labels of 1 - e")
    check_number("scale", scale, "0.5 for lsgan's halved convention")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if label_smoothing and kind not in ops.SMOOTHED_KINDS:
        raise ValueError(f"label smoothing is not defined for {kind}, only for {', '.join(ops.SMOOTHED_KINDS)}")
    if scale != 1.0 and kind != "lsgan":
        raise ValueError(f"scale belongs to lsgan's two conventions (1 or 0.5), not to {kind}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, 0.5 for lsgan's halved convention, got {scale}")


def check_number(name: str, value: Any, meaning: str) -> None:
    """TypeError for an option that is not one number."""
    if not isinstance(value, NUMBERS):
        raise TypeError(f"{name} must be one number, {meaning}, got {describe(value)}")


def labels_of(name: str, value: Any, logits: Tensor) -> Tensor | float:
    """A number or a tensor of labels in floating point, on the logits' device where it is one label."""
    if isinstance(value, Tensor) and not value.is_complex():
        labels = value if value.dtype in LOGITS else value.to(logits.dtype)
        if labels.device != logits.device:
            if labels.dim():
                check_device(name, labels, "the logits", logits)
            labels = labels.to(logits.device)
        return labels
    if isinstance(value, (*NUMBERS, np.bool_)):
        return float(value)
    remedy = ": write torch.as_tensor of it" if isinstance(value, (list, tuple, np.ndarray)) else ""
    raise TypeError(f"{name} must be True, False, a number or a tensor of labels, got {describe(value)}{remedy}")


def broadcast(name: str, labels: Tensor, logits: Tensor) -> Tensor:
    """Labels in the logits' shape: one for all, or a size of 1 or theirs in each of their dimensions.

    Logits never broadcast, and no dimension is added: [N] against [N, 1] would be N x N.
    """
    if labels.numel() == 1:
        return labels.reshape(()).expand(logits.shape)
    if labels.dim() != logits.dim() or any(n not in (1, size) for n, size in zip(labels.shape, logits.shape, strict=True)):
        shapes = f"{tuple(labels.shape)} for logits of shape {tuple(logits.shape)}"
        raise ValueError(f"{name} has labels of shape {shapes}: write a dimension for each of theirs, of their size or 1")
    return labels.expand(logits.shape)
