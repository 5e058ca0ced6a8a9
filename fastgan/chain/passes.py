"""A chain of layers on stacked passes of rows: forward, adjoint, tangent and weight gradients, without an autograd graph.

With m_l the slope of layer l at a row, read back from A_l, and a seed u and a coefficient c for every row:

    forward    A_l = m_l * (A_{l-1} W_l^T + b_l)
    adjoint    U_L = u,  U_l = m_l * (U_{l+1} W_{l+1}),  g = U_1 W_1
    tangent    T_0 = v,  T_l = m_l * (T_{l-1} W_l^T)
    update     dW_l = U_l^T (c * A_{l-1} + T_{l-1}),  db_l = U_l^T c

docs/closed-form-step.md derives them.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor

from ..layers import FusedLinear
from ..ops.linear import Layer
from ..ops.sample import MaskCounter
from .products import Operand, Products

_SLOPES = {"identity": 1.0, "relu": 0.0}


def read_layers(chain: Sequence[FusedLinear]) -> list[Layer]:
    """What products need to know of a chain of fused layers; parameters are shared."""
    *hidden, last = chain
    read = [Layer(x.weight, x.bias, _SLOPES.get(x.activation, x.negative_slope), x.dropout) for x in hidden]
    return [*read, Layer(last.weight, last.bias, output=last.activation)]


class RowBuffers(Protocol):
    """Memory for rows, of which `rows` gives some."""

    def rows(self, rows: slice) -> Self: ...


B = TypeVar("B", bound=RowBuffers)


class Stack(ABC, Generic[B]):
    """Stacked passes over a chain, `stride` rows of the buffers each; stack[a:b] are some of them, in the same memory."""

    def __init__(self, buffers: B, count: int, stride: int) -> None:
        self.buffers, self.stride = buffers, stride
        self._count, self._first = count, 0
        self._root: Any = self  # Self
        self._parts: dict[tuple[int, int], Self] = {}

    @abstractmethod
    def _on(self, buffers: B, count: int) -> Self:
        """As many passes like these, on other buffers."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: slice) -> Self:
        first, last, _ = which.indices(self._count)
        return self._root._part(self._first + first, self._first + last)

    def _part(self, first: int, last: int) -> Self:
        if (first, last) not in self._parts:  # made once: a step asks for the same ones again and again
            part = self._on(self.buffers.rows(slice(first * self.stride, last * self.stride)), last - first)
            part._root, part._first = self, first
            self._parts[first, last] = part
        return self._parts[first, last]


@dataclass
class Buffers:
    """Operands A_0 .. A_{L-1} and U_1 .. U_L; matrices [rows, ...] in fp32 or wider; a seed and a coefficient for each row."""

    inputs: list[Operand]
    adjoints: list[Operand]
    output: Tensor
    gradient: Tensor
    seed: Tensor
    coefficient: Tensor

    def rows(self, rows: slice) -> Buffers:
        """Some of the rows, in the same memory."""
        operands = [x.rows(rows) for x in self.inputs], [x.rows(rows) for x in self.adjoints]
        return Buffers(*operands, self.output[rows], self.gradient[rows], self.seed[rows], self.coefficient[rows])


class Passes(Stack[Buffers]):
    """Passes whose every product is a call of its own.

    output [passes, rows, out] and gradient [passes, rows, in] are fp32 or wider; seed and coefficient hold [rows] for each.
    """

    def __init__(self, products: Products[Any], rows: int, buffers: Buffers, count: int) -> None:
        super().__init__(buffers, count, products.stride(rows))
        self.products, self.rows = products, rows
        self.inputs, self.adjoints = buffers.inputs, buffers.adjoints
        self.output, self.gradient = self._by_pass(buffers.output), self._by_pass(buffers.gradient)
        self.seed, self.coefficient = self._by_pass(buffers.seed).unbind(), self._by_pass(buffers.coefficient).unbind()

    @staticmethod
    def allocate(products: Products[Any], count: int, rows: int) -> Buffers:
        """Buffers for `count` passes of so many rows."""
        sizes = [products.layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in products.layers)]
        like, all_rows = products.layers[0].weight.detach(), count * products.stride(rows)
        return Buffers(
            inputs=[products.operand(all_rows, width) for width in sizes[:-1]],
            adjoints=[products.operand(all_rows, width) for width in sizes[1:]],
            output=like.new_empty(all_rows, sizes[-1]),
            gradient=like.new_empty(all_rows, sizes[0]),
            seed=like.new_zeros(all_rows),
            coefficient=like.new_ones(all_rows),
        )

    def _on(self, buffers: Buffers, count: int) -> Self:
        return type(self)(self.products, self.rows, buffers, count)

    def _by_pass(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, self.stride))[:, : self.rows]

    def load(self, values: Tensor) -> None:
        """The input rows [rows, in] of this one pass."""
        self.products.load_(self.inputs[0], values)
        self.loaded = values

    def forward(self, masks_of: Callable[[int], MaskCounter], into: Sequence[Self] = ()) -> Tensor:
        """Runs the chain; returns `output`. masks_of: the passes' masks of a dropout layer, the first, second, ...

        into: one pass of another chain for each of these, whose input rows the output will be.
        """
        dropped = itertools.count()
        masks = [masks_of(next(dropped)) if layer.dropout else None for layer in self.products.layers[:-1]]
        self.products.forward_(self.inputs, self.buffers.output, masks)
        if into:  # to walk through a tensor costs more than it looks
            for one, rows in zip(into, self.output.unbind(), strict=True):
                one.load(rows)
        return self.output

    def adjoint(self) -> None:
        """From the seed down to U_1, for a chain with one output and no activation at its end."""
        self.products.load_(self.adjoints[-1], self.buffers.seed.unsqueeze(1))
        self.products.descend_(self.adjoints, self.inputs)

    def adjoint_from(self, critic: Self) -> None:
        """From a critic's input gradient at this one pass's output, as an ordinary backward pass."""
        self.products.load_output_(self.adjoints[-1], critic.input_gradient()[0], self.output[0])
        self.products.descend_(self.adjoints, self.inputs)

    def input_gradient(self) -> Tensor:
        """g for every row; returns `gradient`."""
        self.products.input_gradient_(self.buffers.gradient, self.adjoints[0])
        return self.gradient

    def tangent(self, start: Tensor, values: Tensor) -> None:
        """Turns this one pass's activations into c * A + T, from T_0 = start; start, values (what was loaded): [rows, in]."""
        self.products.load_tangent_(self.inputs[0], start, values, self.buffers.coefficient)
        self.products.tangents_(self.inputs, self.buffers.coefficient)

    def gradients(self, into: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """dW and db of each layer, into tensors like its weight and bias."""
        for index, (weight, bias) in enumerate(into):
            upstream, x = self.adjoints[index], self.inputs[index]
            self.products.gradient_(index, weight, bias, upstream, x, self.buffers.coefficient)
