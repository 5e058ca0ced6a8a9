"""Chains of layers: what products are asked for, and their first form, torch's own matrix multiplication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from . import reference, sample
from .backend import implementation, resolve


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


class Products(Protocol):
    """The products of one chain of layers on stacked passes of rows, with operands in a storage of its own.

    Operands hold activations A_l, adjoints U_l or, after `tangent_`, tangents; `part` takes some of their rows. The formulas
    are reference.linear, fold, slope, adjoint and tangent.
    """

    layers: Sequence[Layer]

    def stride(self, rows: int) -> int:
        """How many rows a pass of `rows` rows takes in an operand; those beyond `rows` stay zero where they are loaded."""

    def operand(self, rows: int, width: int) -> Any:
        """A new operand [rows, width]."""

    def refresh(self) -> None:
        """Takes over the layers' weights as they are now."""

    def load_(self, out: Any, values: Tensor) -> None:
        """out = values [rows, width], rounded."""

    def load_output_(self, out: Any, gradient: Tensor, output: Tensor) -> None:
        """U_L = gradient * act', from gradients [rows, out] by the last layer's output and that output."""

    def linear_(self, index: int, out: Any, x: Any, masks: sample.Masks | None) -> None:
        """A_l = m_l * (A_{l-1} W_l^T + b_l) for a hidden layer."""

    def output_(self, out: Tensor, x: Any) -> None:
        """The last layer's output [rows, out], in fp32 or wider."""

    def forward_(self, inputs: Sequence[Any], output: Tensor, masks: Sequence[sample.Masks | None]) -> None:
        """A_1 .. A_{L-1} and the output from A_0, with the masks of each hidden layer."""

    def adjoint_(self, index: int, out: Any, upstream: Any, activations: Any) -> None:
        """U_l = m_l * (U_{l+1} W_{l+1}) for a hidden layer."""

    def descend_(self, adjoints: Sequence[Any], inputs: Sequence[Any]) -> None:
        """U_{L-1} .. U_1 from U_L."""

    def input_gradient_(self, out: Tensor, upstream: Any) -> None:
        """g = U_1 W_1, [rows, in], in fp32 or wider."""

    def load_tangent_(self, out: Any, push: Tensor, values: Tensor, coefficient: Tensor) -> None:
        """T_0 = push, in place of the values that were loaded; what weight gradients read becomes c * values + T_0."""

    def tangent_(self, index: int, out: Any, x: Any, coefficient: Tensor) -> None:
        """T_l = m_l * (T_{l-1} W_l^T), in place of A_l; what weight gradients read becomes c * A_l + T_l. c: [rows]."""

    def tangents_(self, inputs: Sequence[Any], coefficient: Tensor) -> None:
        """T_1 .. T_{L-1} from T_0, as `tangent_`."""

    def gradient_(self, index: int, weight: Tensor, bias: Tensor | None, upstream: Any, x: Any, coefficient: Tensor) -> None:
        """dW_l = U_l^T (what x holds for it) and db_l = U_l^T c, into fp32 or wider tensors."""

    def updater(self, upstream: Sequence[Any], x: Sequence[Any], coefficient: Tensor) -> Callable[..., Tensor] | None:
        """What makes all gradients and the optimizer's step in one, like ops.update.update_; None where that is two things."""


@dataclass
class Dense:
    """An operand as a row-major matrix; tangents: T, once there are any."""

    values: Tensor
    tangents: Tensor | None = None

    def part(self, rows: slice) -> Dense:
        """Some of the rows, sharing memory."""
        if self.tangents is None:
            self.tangents = torch.empty_like(self.values)
        return Dense(self.values[rows], self.tangents[rows])


class DenseProducts:
    """Products by torch's own matrix multiplication, on any device, in fp64, fp32 or a half precision."""

    def __init__(self, layers: Sequence[Layer], dtype: torch.dtype) -> None:
        self.layers, self.dtype = layers, dtype
        self.weights = [layer.weight.detach().to(dtype) for layer in layers]  # the same tensors where that is their dtype
        device = layers[0].weight.device
        self.device = device
        self.fold_ = resolve("linear.fold_", device.type)
        self.slope_ = resolve("linear.slope_", device.type)

    def stride(self, rows: int) -> int:
        return rows

    def operand(self, rows: int, width: int) -> Dense:
        return Dense(torch.empty(rows, width, dtype=self.dtype, device=self.device))

    def refresh(self) -> None:
        for own, layer in zip(self.weights, self.layers, strict=True):
            if own.data_ptr() != layer.weight.data_ptr():
                own.copy_(layer.weight.detach())

    def load_(self, out: Dense, values: Tensor) -> None:
        out.values.copy_(values)

    def load_output_(self, out: Dense, gradient: Tensor, output: Tensor) -> None:
        out.values.copy_(gradient * reference.output_slope(output, self.layers[-1].output))

    def linear_(self, index: int, out: Dense, x: Dense, masks: sample.Masks | None) -> None:
        torch.mm(x.values, self.weights[index].t(), out=out.values)
        self.fold_(out.values, self.layers[index], masks)

    def output_(self, out: Tensor, x: Dense) -> None:
        layer = self.layers[-1]
        self._wide_mm(out, x.values, self.weights[-1].t())
        if layer.bias is not None:
            out += layer.bias.detach()
        if layer.output != "identity":
            getattr(torch, layer.output)(out, out=out)

    def forward_(self, inputs: Sequence[Dense], output: Tensor, masks: Sequence[sample.Masks | None]) -> None:
        for index, mask in enumerate(masks):
            self.linear_(index, inputs[index + 1], inputs[index], mask)
        self.output_(output, inputs[-1])

    def adjoint_(self, index: int, out: Dense, upstream: Dense, activations: Dense) -> None:
        torch.mm(upstream.values, self.weights[index + 1], out=out.values)
        self.slope_(out.values, activations.values, self.layers[index])

    def descend_(self, adjoints: Sequence[Dense], inputs: Sequence[Dense]) -> None:
        for index in reversed(range(len(adjoints) - 1)):
            self.adjoint_(index, adjoints[index], adjoints[index + 1], inputs[index + 1])

    def input_gradient_(self, out: Tensor, upstream: Dense) -> None:
        self._wide_mm(out, upstream.values, self.weights[0])

    def load_tangent_(self, out: Dense, push: Tensor, values: Tensor, coefficient: Tensor) -> None:
        assert out.tangents is not None
        out.tangents.copy_(push)
        out.values.copy_(torch.addcmul(push, values, coefficient.unsqueeze(1)))

    def tangent_(self, index: int, out: Dense, x: Dense, coefficient: Tensor) -> None:
        assert out.tangents is not None and x.tangents is not None
        torch.mm(x.tangents, self.weights[index].t(), out=out.tangents)
        self.slope_(out.tangents, out.values, self.layers[index])
        out.values.mul_(coefficient.unsqueeze(1)).add_(out.tangents)

    def tangents_(self, inputs: Sequence[Dense], coefficient: Tensor) -> None:
        for index in range(len(inputs) - 1):
            self.tangent_(index, inputs[index + 1], inputs[index], coefficient)

    def gradient_(
        self, index: int, weight: Tensor, bias: Tensor | None, upstream: Dense, x: Dense, coefficient: Tensor
    ) -> None:
        self._wide_mm(weight, upstream.values.t(), x.values)
        if bias is not None:
            torch.mv(upstream.values.t().to(bias.dtype), coefficient, out=bias)

    def updater(self, upstream: Sequence[Dense], x: Sequence[Dense], coefficient: Tensor) -> None:
        return None

    def _wide_mm(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        if out.dtype == self.dtype:
            torch.mm(left, right, out=out)
        else:
            out.copy_(torch.mm(left, right))


@implementation("linear.fold_", "reference")
def _fold_(pre: Tensor, layer: Layer, masks: sample.Masks | None) -> None:
    """pre = fold(pre + bias), with the dropout of stacked passes."""
    wide = pre if layer.bias is None else pre + layer.bias.detach()
    pre.copy_(reference.fold(wide, layer.negative_slope, None if masks is None else _mask(wide, layer.dropout, masks)))


def _mask(like: Tensor, probability: float, masks: sample.Masks) -> Tensor:
    rows, width = like.shape[0] // len(masks.streams), like.shape[1]
    place = dict(seed=masks.seed, step=masks.step, first_row=masks.first_row, device=like.device, dtype=like.dtype)
    return torch.cat([sample.dropout_scale(rows, width, probability, stream=word, **place) for word in masks.streams])


@implementation("linear.fold_", "cpp", "cpu")
def _fold_cpp(pre: Tensor, layer: Layer, masks: sample.Masks | None) -> None:
    bias = None if layer.bias is None else layer.bias.detach()
    torch.ops.fastgan.fold_(pre, bias, layer.negative_slope, *_mask_arguments(layer, masks))


@implementation("linear.slope_", "cpp", "cpu")
def _slope_cpp(adjoints: Tensor, activations: Tensor, layer: Layer) -> None:
    torch.ops.fastgan.slope_(adjoints, activations, layer.negative_slope, layer.scale)


def _mask_arguments(layer: Layer, masks: sample.Masks | None) -> tuple:
    """Streams, threshold, scale, seed, step and first row, as C++ takes them."""
    if masks is None:
        return (), 0, 1.0, 0, 0, 0
    seed, step = sample.as_int64(int(masks.seed)), masks.step & reference.WORD
    return masks.streams, round(layer.dropout * 65536), layer.scale, seed, step, masks.first_row


@implementation("linear.slope_", "reference")
def _slope_(adjoints: Tensor, activations: Tensor, layer: Layer) -> None:
    """adjoints *= m, read back from the activations."""
    adjoints.mul_(reference.slope(activations, layer.negative_slope, layer.scale))
