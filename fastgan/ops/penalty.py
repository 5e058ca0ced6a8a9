"""penalty: input gradients -> row norms, the penalty's value and its derivative by them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .backend import implementation, resolve

for _name in ("norm_penalty", "square_penalty"):
    implementation(f"penalty.{_name}", "reference")(getattr(reference, _name))


class PenaltyForm(NamedTuple):
    """A penalty as kernels know it: weight / 2 * mean |g|^2, or weight * mean (|g| - target)^2, of both signs or one-sided."""

    squared: bool
    weight: float
    target: float = 0.0
    one_sided: bool = False


def penalty_gradient(gradient: Tensor, form: PenaltyForm) -> tuple[Tensor, Tensor]:
    """A penalty's value for input gradients [B, ...], and its derivative by them."""
    if form.squared:
        return square_penalty_gradient(gradient, gamma=form.weight)
    return norm_penalty_gradient(gradient, weight=form.weight, target=form.target, one_sided=form.one_sided)


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


def norm_penalty_gradient(
    gradient: Tensor, *, weight: float, target=1.0, one_sided=False, backend="auto"
) -> tuple[Tensor, Tensor]:
    """`norm_penalty` of an fp32 or fp64 gradient, and its derivative by it; no derivative exists of either."""
    run = resolve("penalty.norm_penalty_gradient", gradient.device.type, backend)
    return run(gradient, weight=weight, target=target, one_sided=one_sided)


def square_penalty_gradient(gradient: Tensor, *, gamma: float, backend="auto") -> tuple[Tensor, Tensor]:
    """`square_penalty` of an fp32 or fp64 gradient, and its derivative by it; no derivative exists of either."""
    return resolve("penalty.square_penalty_gradient", gradient.device.type, backend)(gradient, gamma=gamma)


@implementation("penalty.norm_penalty_gradient", "reference")
def _norm_penalty_gradient(gradient: Tensor, **options) -> tuple[Tensor, Tensor]:
    return reference.norm_penalty(gradient, **options), reference.norm_penalty_gradient(gradient, **options)


@implementation("penalty.square_penalty_gradient", "reference")
def _square_penalty_gradient(gradient: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    return reference.square_penalty(gradient, gamma=gamma), reference.square_penalty_gradient(gradient, gamma=gamma)
