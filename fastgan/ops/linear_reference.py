"""linear by the reference, and the dropout of a layer: its mask is drawn where the layer runs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference, sample
from .backend import implementation
from .sample import Masks


class Dropout(NamedTuple):
    """A unit's probability to be dropped, and the pass whose mask is drawn."""

    probability: float
    masks: Masks

    def scale(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The factor of activations [B, ...], in fp32 or wider."""
        masks = self.masks
        counter = dict(seed=masks.seed, step=masks.step, stream=masks.streams[0], first_row=masks.first_row)
        place = dict(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        return sample.dropout_scale(shape[0], math.prod(shape[1:]), self.probability, **counter, **place).view(shape)


@implementation("linear.linear", "reference")
def linear_by_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str, negative_slope: float, dropout: Dropout | None
) -> Tensor:
    """`reference.linear` with the factor that a mask makes."""
    scale = None if dropout is None else dropout.scale((*x.shape[:-1], weight.shape[0]), x)
    return reference.linear(x, weight, bias, activation=activation, negative_slope=negative_slope, scale=scale)
