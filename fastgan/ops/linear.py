"""linear: x -> act(x W^T + b) with dropout, and the passes over a product that a chain of such layers takes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference, sample
from .backend import implementation, resolve
from .sample import MaskCounter

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid")


class Layer(NamedTuple):
    """One layer of a chain: weight [out, in], bias [out]; a hidden layer's unit has slope 1 above 0 and `negative_slope` below.

    output: what the last layer ends in (identity, tanh or sigmoid); dropout: a hidden layer's probability.
    """

    weight: Tensor
    bias: Tensor | None
    negative_slope: float = 1.0
    dropout: float = 0.0
    output: str = "identity"

    @property
    def scale(self) -> float:
        """What dropout multiplies the units by that it keeps."""
        return 1.0 / (1.0 - self.dropout)


class Dropout(NamedTuple):
    """A unit's probability to be dropped, and the pass whose mask is drawn."""

    probability: float
    masks: MaskCounter

    def scale(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The factor of activations [B, ...], in fp32 or wider."""
        masks = self.masks
        counter = dict(seed=masks.seed, step=masks.step, stream=masks.streams[0], first_row=masks.first_row)
        place = dict(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        return sample.dropout_scale(shape[0], math.prod(shape[1:]), self.probability, **counter, **place).view(shape)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: str = "identity",
    negative_slope: float = 0.2,
    dropout: Dropout | None = None,
    backend: str = "auto",
) -> Tensor:
    """dropout(act(x W^T + b)): x [..., in], weight [out, in], bias [out] -> [..., out]; differentiable to any order.

    activation: one of ACTIVATIONS; negative_slope: LeakyReLU's. A mask's rows are those of x's first dimension.
    """
    run = linear_by_reference if torch.compiler.is_compiling() else resolve("linear.linear", x.device.type, backend)
    return run(x, weight, bias, activation=activation, negative_slope=negative_slope, dropout=dropout)


@implementation("linear.linear", "reference")
def linear_by_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str, negative_slope: float, dropout: Dropout | None
) -> Tensor:
    """`reference.linear` with the factor that a mask makes."""
    scale = None if dropout is None else dropout.scale((*x.shape[:-1], weight.shape[0]), x)
    return reference.linear(x, weight, bias, activation=activation, negative_slope=negative_slope, scale=scale)


@implementation("linear.encode_activation_", "reference")
def _encode_activation_(pre: Tensor, layer: Layer, masks: sample.MaskCounter | None) -> None:
    """pre = encode_activation(pre + bias), with the dropout of stacked passes."""
    wide = pre if layer.bias is None else pre + layer.bias.detach()
    pre.copy_(
        reference.encode_activation(wide, layer.negative_slope, None if masks is None else _mask(wide, layer.dropout, masks))
    )


def _mask(like: Tensor, probability: float, masks: sample.MaskCounter) -> Tensor:
    rows, width = like.shape[0] // len(masks.streams), like.shape[1]
    place = dict(seed=masks.seed, step=masks.step, first_row=masks.first_row, device=like.device, dtype=like.dtype)
    return torch.cat([sample.dropout_scale(rows, width, probability, stream=word, **place) for word in masks.streams])


@implementation("linear.activation_slope_", "reference")
def _activation_slope_(adjoints: Tensor, activations: Tensor, layer: Layer) -> None:
    """adjoints *= m, read back from the activations."""
    adjoints.mul_(reference.activation_slope(activations, layer.negative_slope, layer.scale))
