"""penalty: input gradients -> row norms, the penalty's value, the direction it pushes."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .backend import implementation, resolve

for _name in ("norm_penalty", "norm_push", "square_penalty", "square_push"):
    implementation(f"penalty.{_name}", "reference")(getattr(reference, _name))


def norm_penalty(gradient: Tensor, *, weight: float, target: float = 1.0, one_sided: bool = False, backend="auto") -> Tensor:
    """weight * mean over rows of (|g| - target)^2: gradient [B, ...] -> 0-d; differentiable to any order, 0 slope at g = 0.

    one_sided: only rows with |g| > target count.
    """
    compiling = torch.compiler.is_compiling()
    run = reference.norm_penalty if compiling else resolve("penalty.norm_penalty", gradient.device.type, backend)
    return run(gradient, weight=weight, target=target, one_sided=one_sided)


def square_penalty(gradient: Tensor, *, gamma: float, backend="auto") -> Tensor:
    """gamma / 2 * mean over rows of |g|^2: gradient [B, ...] -> 0-d; differentiable to any order."""
    compiling = torch.compiler.is_compiling()
    run = reference.square_penalty if compiling else resolve("penalty.square_penalty", gradient.device.type, backend)
    return run(gradient, gamma=gamma)
