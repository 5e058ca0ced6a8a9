"""Products of a chain by AVX512-BF16, on operands and weights packed as its dot products read them (csrc/cpu/packed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops import reference, sample
from ..ops.linear import Layer


@dataclass
class PackedOperand:
    """An operand for bf16 dot products (csrc/cpu/packed/storage.h): row-major values, and panels of pairs of rows."""

    values: Tensor  # [rows, width, filled up]
    panels: Tensor  # [width / 64, rows / 2, 128]

    def rows(self, rows: slice) -> PackedOperand:
        """Some of the rows, sharing memory; both ends are even."""
        return PackedOperand(self.values[rows], self.panels[:, rows.start // 2 : rows.stop // 2])


class PackedProducts:
    """Products by AVX512-BF16 on weights that the optimizer's step leaves packed in bf16, as products read them."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers, self.ops = layers, torch.ops.fastgan
        self.activation = ("identity", "tanh", "sigmoid").index(layers[-1].output)
        self.shapes = [tuple(layer.weight.shape) for layer in layers]
        self.widths = [outputs for outputs, _ in self.shapes]
        self.slopes = [layer.negative_slope for layer in layers]
        self.scales = [layer.scale for layer in layers]
        self.thresholds = [round(layer.dropout * 65536) for layer in layers]
        self.weights = [layer.weight.detach() for layer in layers]
        self.biases = [None if layer.bias is None else layer.bias.detach() for layer in layers]
        self.forward = [_panels(outputs, inputs) for outputs, inputs in self.shapes]
        self.adjoint = [_panels(inputs, outputs) for outputs, inputs in self.shapes]
        self.refresh()

    def stride(self, rows: int) -> int:
        return rows + rows % 2

    def operand(self, rows: int, width: int) -> PackedOperand:
        # a line beyond an even width: rows that are 4096 bytes apart would share a cache set
        values = torch.zeros(rows, width + width % 2 + 32, dtype=torch.bfloat16)
        return PackedOperand(values, _panels(width, rows))

    def refresh(self) -> None:
        for layer, forward, adjoint in zip(self.layers, self.forward, self.adjoint, strict=True):
            self.ops.pack_bf16_(layer.weight.detach(), forward, adjoint)

    def load_(self, out: PackedOperand, values: Tensor) -> None:
        self.ops.load_bf16_(values, out.values, out.panels)

    def load_output_(self, out: PackedOperand, gradient: Tensor, output: Tensor) -> None:
        self.ops.load_output_bf16_(gradient, output, self.activation, out.values, out.panels)

    def linear_(self, index: int, out: PackedOperand, x: PackedOperand, masks: sample.MaskCounter | None) -> None:
        self._linear_(slice(index, index + 1), [x, out], [masks])

    def forward_(self, inputs: Sequence[PackedOperand], output: Tensor, masks: Sequence[sample.MaskCounter | None]) -> None:
        self._linear_(slice(0, len(masks)), inputs, masks)
        self.output_(output, inputs[-1])

    def _linear_(self, which: slice, operands: Sequence[PackedOperand], masks: Sequence[sample.MaskCounter | None]) -> None:
        values, panels = [x.values for x in operands], [x.panels for x in operands[1:]]
        given = [(t, x) for t, x in zip(self.thresholds[which], masks, strict=True) if x is not None]
        thresholds = [0 if x is None else t for t, x in zip(self.thresholds[which], masks, strict=True)]
        streams = [word for _, x in given for word in x.streams]
        first = given[0][1] if given else _NO_MASKS
        weights = self.forward[which], self.biases[which], self.widths[which], self.slopes[which]
        key = reference.key_of(int(first.seed), first.step)
        place = len(first.streams), key, first.step & reference.WORD, first.first_row
        self.ops.linear_bf16_(values, panels, *weights, thresholds, self.scales[which], streams, *place)

    def output_(self, out: Tensor, x: PackedOperand) -> None:
        self.ops.output_bf16_(x.values, self.forward[-1], self.biases[-1], self.activation, out)

    def adjoint_(self, index: int, out: PackedOperand, upstream: PackedOperand, activations: PackedOperand) -> None:
        self._adjoint_([index], [upstream, out], [activations])

    def descend_(self, adjoints: Sequence[PackedOperand], inputs: Sequence[PackedOperand]) -> None:
        self._adjoint_(range(len(adjoints) - 2, -1, -1), adjoints[::-1], inputs[:0:-1])

    def _adjoint_(self, which: Sequence[int], operands: Sequence[PackedOperand], activations: Sequence[PackedOperand]) -> None:
        values, panels = [x.values for x in operands], [x.panels for x in operands[1:]]
        packs, made = [self.adjoint[index + 1] for index in which], [x.values for x in activations]
        constants = ([of[index] for index in which] for of in (self.widths, self.slopes, self.scales))
        self.ops.adjoint_bf16_(values, panels, packs, made, *constants)

    def input_gradient_(self, out: Tensor, upstream: PackedOperand) -> None:
        self.ops.output_bf16_(upstream.values, self.adjoint[0], None, 0, out)

    def load_tangent_(self, out: PackedOperand, tangent: Tensor, values: Tensor, coefficient: Tensor) -> None:
        self.ops.load_tangent_bf16_(tangent, values, coefficient, out.values, out.panels)

    def tangent_(self, index: int, out: PackedOperand, x: PackedOperand, coefficient: Tensor) -> None:
        self._tangent_(slice(index, index + 1), [x, out], coefficient)

    def tangents_(self, inputs: Sequence[PackedOperand], coefficient: Tensor) -> None:
        self._tangent_(slice(0, len(inputs) - 1), inputs, coefficient)

    def _tangent_(self, which: slice, operands: Sequence[PackedOperand], coefficient: Tensor) -> None:
        values, panels = [x.values for x in operands], [x.panels for x in operands[1:]]
        constants = self.widths[which], self.slopes[which], self.scales[which]
        self.ops.tangent_bf16_(values, panels, self.forward[which], coefficient, *constants)

    def gradient_(
        self, index: int, weight: Tensor, bias: Tensor | None, upstream: PackedOperand, x: PackedOperand, coefficient: Tensor
    ) -> None:
        self.ops.gradient_bf16_(upstream.panels, x.panels, coefficient, weight, bias)

    def update_operands(
        self, upstream: Sequence[PackedOperand], x: Sequence[PackedOperand], coefficient: Tensor
    ) -> dict[str, Any]:
        """What torch.ops.fastgan.update_bf16_ takes beside an optimizer: gradients never reach memory."""
        chain = dict(weights=self.weights, biases=self.biases, coefficient=coefficient)
        chain |= dict(upstream=[operand.panels for operand in upstream], x=[operand.panels for operand in x])
        return chain | dict(forward=self.forward, adjoint=self.adjoint)


_NO_MASKS = sample.MaskCounter(0, 0, (0,), 0)


def _panels(columns: int, rows: int) -> Tensor:
    return torch.zeros(-(-columns // 64), -(-rows // 2), 128, dtype=torch.bfloat16)
