"""Products of a chain by torch's own matrix multiplication: on any device, in any floating dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import reference, sample
from ..ops.backend import resolve
from ..ops.linear import Layer


@dataclass
class TorchOperand:
    """An operand as a row-major matrix; tangents: T, once there are any."""

    values: Tensor
    tangents: Tensor | None = None

    def rows(self, rows: slice) -> TorchOperand:
        """Some of the rows, sharing memory."""
        if self.tangents is None:
            self.tangents = torch.empty_like(self.values)
        return TorchOperand(self.values[rows], self.tangents[rows])


class TorchProducts:
    """Products by torch's own matrix multiplication, on any device, in fp64, fp32 or a half precision."""

    def __init__(self, layers: Sequence[Layer], dtype: torch.dtype) -> None:
        self.layers, self.dtype = layers, dtype
        self.weights = [layer.weight.detach().to(dtype) for layer in layers]  # the same tensors where that is their dtype
        device = layers[0].weight.device
        self.device = device
        self.encode_activation_ = resolve("linear.encode_activation_", device.type)
        self.activation_slope_ = resolve("linear.activation_slope_", device.type)

    def stride(self, rows: int) -> int:
        return rows

    def operand(self, rows: int, width: int) -> TorchOperand:
        return TorchOperand(torch.empty(rows, width, dtype=self.dtype, device=self.device))

    def refresh(self) -> None:
        for own, layer in zip(self.weights, self.layers, strict=True):
            if own.data_ptr() != layer.weight.data_ptr():
                own.copy_(layer.weight.detach())

    def load_(self, out: TorchOperand, values: Tensor) -> None:
        out.values.copy_(values)

    def load_output_(self, out: TorchOperand, gradient: Tensor, output: Tensor) -> None:
        out.values.copy_(gradient * reference.output_activation_slope(output, self.layers[-1].output))

    def linear_(self, index: int, out: TorchOperand, x: TorchOperand, masks: sample.MaskCounter | None) -> None:
        torch.mm(x.values, self.weights[index].t(), out=out.values)
        self.encode_activation_(out.values, self.layers[index], masks)

    def output_(self, out: Tensor, x: TorchOperand) -> None:
        layer = self.layers[-1]
        self._wide_mm(out, x.values, self.weights[-1].t())
        if layer.bias is not None:
            out += layer.bias.detach()
        if layer.output != "identity":
            getattr(torch, layer.output)(out, out=out)

    def forward_(self, inputs: Sequence[TorchOperand], output: Tensor, masks: Sequence[sample.MaskCounter | None]) -> None:
        for index, mask in enumerate(masks):
            self.linear_(index, inputs[index + 1], inputs[index], mask)
        self.output_(output, inputs[-1])

    def adjoint_(self, index: int, out: TorchOperand, upstream: TorchOperand, activations: TorchOperand) -> None:
        torch.mm(upstream.values, self.weights[index + 1], out=out.values)
        self.activation_slope_(out.values, activations.values, self.layers[index])

    def descend_(self, adjoints: Sequence[TorchOperand], inputs: Sequence[TorchOperand]) -> None:
        for index in reversed(range(len(adjoints) - 1)):
            self.adjoint_(index, adjoints[index], adjoints[index + 1], inputs[index + 1])

    def input_gradient_(self, out: Tensor, upstream: TorchOperand) -> None:
        self._wide_mm(out, upstream.values, self.weights[0])

    def load_tangent_(self, out: TorchOperand, tangent: Tensor, values: Tensor, coefficient: Tensor) -> None:
        assert out.tangents is not None
        out.tangents.copy_(tangent)
        out.values.copy_(torch.addcmul(tangent, values, coefficient.unsqueeze(1)))

    def tangent_(self, index: int, out: TorchOperand, x: TorchOperand, coefficient: Tensor) -> None:
        assert out.tangents is not None and x.tangents is not None
        torch.mm(x.tangents, self.weights[index].t(), out=out.tangents)
        self.activation_slope_(out.tangents, out.values, self.layers[index])
        out.values.mul_(coefficient.unsqueeze(1)).add_(out.tangents)

    def tangents_(self, inputs: Sequence[TorchOperand], coefficient: Tensor) -> None:
        for index in range(len(inputs) - 1):
            self.tangent_(index, inputs[index + 1], inputs[index], coefficient)

    def gradient_(
        self, index: int, weight: Tensor, bias: Tensor | None, upstream: TorchOperand, x: TorchOperand, coefficient: Tensor
    ) -> None:
        self._wide_mm(weight, upstream.values.t(), x.values)
        if bias is not None:
            torch.mv(upstream.values.t().to(bias.dtype), coefficient, out=bias)

    def update_operands(self, upstream: Sequence[TorchOperand], x: Sequence[TorchOperand], coefficient: Tensor) -> None:
        return None

    def _wide_mm(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        if out.dtype == self.dtype:
            torch.mm(left, right, out=out)
        else:
            out.copy_(torch.mm(left, right))
