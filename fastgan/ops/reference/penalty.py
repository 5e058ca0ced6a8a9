"""penalty in plain torch: input gradients -> row norms, the penalty's value and its derivative by them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import wide


def row_norms(gradient: Tensor) -> Tensor:
    """Euclidean norm of each sample over all its other dimensions, [B]; its gradient at 0 is 0, not nan."""
    return torch.linalg.vector_norm(wide(gradient).flatten(1), dim=1)


def norm_penalty(gradient: Tensor, *, weight: float, target=1.0, one_sided=False) -> Tensor:
    """weight * mean (|g| - target)^2, over rows with |g| > target alone when one-sided (Gulrajani et al. 2017)."""
    excess = row_norms(gradient) - target
    return weight * (F.relu(excess) if one_sided else excess).square().mean()


def norm_penalty_gradient(gradient: Tensor, *, weight: float, target=1.0, one_sided=False) -> Tensor:
    """d norm_penalty / d gradient = (2 weight / B) (|g| - target) g / |g|, zero where g is: like gradient."""
    norms = row_norms(gradient)
    excess = F.relu(norms - target) if one_sided else norms - target
    factor = torch.where(norms > 0, 2.0 * weight / gradient.shape[0] * excess / norms, 0.0)
    return gradient * factor.reshape(-1, *[1] * (gradient.dim() - 1))


def square_penalty(gradient: Tensor, *, gamma: float) -> Tensor:
    """gamma / 2 * mean |g|^2 (R1 on real rows, R2 on fake ones; Mescheder et al. 2018)."""
    return 0.5 * gamma * wide(gradient).flatten(1).square().sum(1).mean()


def square_penalty_gradient(gradient: Tensor, *, gamma: float) -> Tensor:
    """d square_penalty / d gradient = gamma / B * g."""
    return gradient * (gamma / gradient.shape[0])
