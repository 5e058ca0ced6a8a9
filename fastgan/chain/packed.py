"""Products of a chain on operands and weights packed as the vectors of a CPU's instruction set read them (csrc/cpu/packed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops import reference, sample
from ..ops.linear import Layer
from ..runtime.instruction_sets import InstructionSet


@dataclass
class PackedOperand:
    """An operand as products read its rows and as weight gradients read its columns (csrc/cpu/packed/kernels.h).

    group: numbers that one multiplication adds up. In groups of 1 values are panels, and tangents have memory of their own.
    """

    values: Tensor  # [rows, width, filled up], row-major; or panels
    panels: Tensor  # [width / panel, rows / group, panel * group]
    group: int
    tangents: Tensor | None = None

    def rows(self, rows: slice) -> PackedOperand:
        """Some of the rows, sharing memory; both ends are even."""
        words = slice(rows.start // self.group, rows.stop // self.group)
        panels = self.panels[:, words]
        if self.group > 1:  # tangents take the place of the values that they belong to
            values = self.values[rows]
            return PackedOperand(values, panels, self.group, values)
        if self.tangents is None:
            self.tangents = torch.empty_like(self.panels)
        return PackedOperand(panels, panels, self.group, self.tangents[:, words])


class PackedProducts:
    """Products on weights that the optimizer's step leaves packed, as products read them: fp32, or bf16 in pairs."""

    def __init__(self, layers: Sequence[Layer], instruction_set: InstructionSet) -> None:
        self.layers, self.ops, self.instruction_set = layers, torch.ops.fastgan, instruction_set
        self.set, self.panel, self.group = instruction_set.number, instruction_set.panel, instruction_set.group
        self.activation = ("identity", "tanh", "sigmoid").index(layers[-1].output)
        self.shapes = [tuple(layer.weight.shape) for layer in layers]
        self.widths = [self.shapes[0][1], *(outputs for outputs, _ in self.shapes)]
        self.slopes = [layer.negative_slope for layer in layers]
        self.scales = [layer.scale for layer in layers]
        self.thresholds = [round(layer.dropout * 65536) for layer in layers]
        self.weights = [layer.weight.detach() for layer in layers]
        self.biases = [None if layer.bias is None else layer.bias.detach() for layer in layers]
        self.forward = [self._panels(outputs, inputs) for outputs, inputs in self.shapes]
        self.adjoint = [self._panels(inputs, outputs) for outputs, inputs in self.shapes]
        self.refresh()

    def _panels(self, columns: int, rows: int) -> Tensor:
        dtype = torch.bfloat16 if self.group == 2 else torch.float32
        return torch.zeros(-(-columns // self.panel), -(-rows // self.group), self.panel * self.group, dtype=dtype)

    def stride(self, rows: int) -> int:
        return rows + rows % 2

    def operand(self, rows: int, width: int) -> PackedOperand:
        panels = self._panels(width, rows)
        if self.group == 1:
            return PackedOperand(panels, panels, self.group)
        # a line beyond an even width: rows that are 4096 bytes apart would share a cache set
        values = torch.zeros(rows, width + width % 2 + 32, dtype=torch.bfloat16)
        return PackedOperand(values, panels, self.group, values)

    def refresh(self) -> None:
        for layer, forward, adjoint in zip(self.layers, self.forward, self.adjoint, strict=True):
            self.ops.packed_pack_(layer.weight.detach(), self.set, forward, adjoint)

    def load_(self, out: PackedOperand, values: Tensor) -> None:
        self.ops.packed_load_(values, self.set, out.values, out.panels)

    def load_output_(self, out: PackedOperand, gradient: Tensor, output: Tensor) -> None:
        self.ops.packed_load_output_(gradient, output, self.set, self.activation, out.values, out.panels)

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
        weights = self.forward[which], self.biases[which], self.set, self.widths[which.start : which.stop + 1]
        key = reference.key_of(int(first.seed), first.step)
        place = len(first.streams), key, first.step & reference.WORD, first.first_row
        self.ops.packed_linear_(values, panels, *weights, self.slopes[which], thresholds, self.scales[which], streams, *place)

    def output_(self, out: Tensor, x: PackedOperand) -> None:
        inputs = self.widths[-2]
        self.ops.packed_output_(x.values, self.forward[-1], self.biases[-1], self.set, inputs, self.activation, out)

    def adjoint_(self, index: int, out: PackedOperand, upstream: PackedOperand, activations: PackedOperand) -> None:
        self._adjoint_([index], [upstream, out], [activations])

    def descend_(self, adjoints: Sequence[PackedOperand], inputs: Sequence[PackedOperand]) -> None:
        self._adjoint_(range(len(adjoints) - 2, -1, -1), adjoints[::-1], inputs[:0:-1])

    def _adjoint_(self, which: Sequence[int], operands: Sequence[PackedOperand], activations: Sequence[PackedOperand]) -> None:
        if not which:
            return
        values, panels = [x.values for x in operands], [x.panels for x in operands[1:]]
        packs, made = [self.adjoint[index + 1] for index in which], [x.values for x in activations]
        widths = [self.widths[which[0] + 2], *(self.widths[index + 1] for index in which)]
        constants = ([of[index] for index in which] for of in (self.slopes, self.scales))
        self.ops.packed_adjoint_(values, panels, packs, made, self.set, widths, *constants)

    def input_gradient_(self, out: Tensor, upstream: PackedOperand) -> None:
        self.ops.packed_output_(upstream.values, self.adjoint[0], None, self.set, self.widths[1], 0, out)

    def load_tangent_(self, out: PackedOperand, tangent: Tensor, values: Tensor, coefficient: Tensor) -> None:
        self.ops.packed_load_tangent_(tangent, values, coefficient, self.set, out.tangents, out.panels)

    def tangent_(self, index: int, out: PackedOperand, x: PackedOperand, coefficient: Tensor) -> None:
        self._tangent_(slice(index, index + 1), [x, out], coefficient)

    def tangents_(self, inputs: Sequence[PackedOperand], coefficient: Tensor) -> None:
        self._tangent_(slice(0, len(inputs) - 1), inputs, coefficient)

    def _tangent_(self, which: slice, operands: Sequence[PackedOperand], coefficient: Tensor) -> None:
        tangents, panels = [x.tangents for x in operands], [x.panels for x in operands[1:]]
        constants = self.set, self.widths[which.start : which.stop + 1], self.slopes[which], self.scales[which]
        made = [x.values for x in operands[1:]]
        self.ops.packed_tangent_(tangents, panels, self.forward[which], made, coefficient, *constants)

    def gradient_(
        self, index: int, weight: Tensor, bias: Tensor | None, upstream: PackedOperand, x: PackedOperand, coefficient: Tensor
    ) -> None:
        self.ops.packed_gradient_(upstream.panels, x.panels, coefficient, self.set, weight, bias)

    def update_operands(
        self, upstream: Sequence[PackedOperand], x: Sequence[PackedOperand], coefficient: Tensor
    ) -> dict[str, Any]:
        """What torch.ops.fastgan.packed_update_ takes beside an optimizer: gradients never reach memory."""
        chain = dict(set=self.set, weights=self.weights, biases=self.biases, coefficient=coefficient)
        chain |= dict(upstream=[operand.panels for operand in upstream], x=[operand.panels for operand in x])
        return chain | dict(forward=self.forward, adjoint=self.adjoint)


_NO_MASKS = sample.MaskCounter(0, 0, (0,), 0)
