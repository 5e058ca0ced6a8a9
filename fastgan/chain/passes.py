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
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..layers import FusedLinear
from ..ops.linear import Layer
from ..ops.sample import MaskCounter
from .products import Products

_SLOPES = {"identity": 1.0, "relu": 0.0}


def read_layers(chain: Sequence[FusedLinear]) -> list[Layer]:
    """What products need to know of a chain of fused layers; parameters are shared."""
    *hidden, last = chain
    read = [Layer(x.weight, x.bias, _SLOPES.get(x.activation, x.negative_slope), x.dropout) for x in hidden]
    return [*read, Layer(last.weight, last.bias, output=last.activation)]


class Stack:
    """Stacked passes of `rows` rows over a chain, and their rows' buffers; stack[a:b] are some of them, in the same memory."""

    def __init__(self, products: Any, rows: int, stride: int, count: int, buffers: dict[str, Any]) -> None:
        self.products, self.rows, self.stride = products, rows, stride
        self._take(count, buffers, self, 0)

    def _take(self, count: int, buffers: dict[str, Any], root: Any, first: int) -> None:
        self._count, self.buffers, self._root, self._first = count, buffers, root, first
        self._parts: dict[tuple[int, int], Any] = {}
        self._name_buffers()

    def _name_buffers(self) -> None:
        """Called once for each stack and each part of one."""

    def _like(self, count: int, buffers: dict[str, Any], root: Stack | None = None, first: int = 0) -> Any:
        other = object.__new__(type(self))
        other.products, other.rows, other.stride = self.products, self.rows, self.stride
        other._take(count, buffers, root or other, first)
        return other

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: slice) -> Any:
        first, last, _ = which.indices(self._count)
        return self._root._part(self._first + first, self._first + last)

    def _part(self, first: int, last: int) -> Any:
        if (first, last) not in self._parts:
            rows = slice(first * self.stride, last * self.stride)
            buffers = {name: _narrow(buffer, rows) for name, buffer in self.buffers.items()}
            self._parts[first, last] = self._like(last - first, buffers, self, first)
        return self._parts[first, last]


def _narrow(buffer: Any, rows: slice) -> Any:
    if isinstance(buffer, list):
        return [_narrow(each, rows) for each in buffer]
    return buffer.part(rows) if hasattr(buffer, "part") else buffer[rows]


class Passes(Stack):
    """Passes whose every product is a call of its own.

    output [passes, rows, out] and gradient [passes, rows, in] are fp32 or wider; seed and coefficient hold [rows] for each.
    """

    def __init__(self, products: Products, count: int, rows: int) -> None:
        layers, stride = products.layers, products.stride(rows)
        sizes = [layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in layers)]
        like, all_rows = layers[0].weight.detach(), count * stride
        buffers = {
            "inputs": [products.operand(all_rows, width) for width in sizes[:-1]],  # A_0 .. A_{L-1}
            "adjoints": [products.operand(all_rows, width) for width in sizes[1:]],  # U_1 .. U_L
            "output": like.new_empty(all_rows, sizes[-1]),
            "gradient": like.new_empty(all_rows, sizes[0]),
            "seed": like.new_zeros(all_rows),
            "coefficient": like.new_ones(all_rows),
        }
        super().__init__(products, rows, stride, count, buffers)

    def _name_buffers(self) -> None:
        self.inputs, self.adjoints = self.buffers["inputs"], self.buffers["adjoints"]
        self._seeds, self._coefficients = self.buffers["seed"], self.buffers["coefficient"]
        by_pass = {
            name: self.buffers[name].unflatten(0, (-1, self.stride))[:, : self.rows]
            for name in ("output", "gradient", "seed", "coefficient")
        }
        self.output, self.gradient = by_pass["output"], by_pass["gradient"]
        self.seed, self.coefficient = by_pass["seed"].unbind(), by_pass["coefficient"].unbind()
        self._constants: tuple[int, ...] = ()  # what the seeds and coefficients of all passes are filled for

    def load(self, values: Tensor) -> None:
        """The input rows [rows, in] of this one pass."""
        self.products.load_(self.inputs[0], values)
        self.loaded = values

    def forward(self, masks_of: Callable[[int], MaskCounter], into: Sequence[Passes] = ()) -> Tensor:
        """Runs the chain; returns `output`. masks_of: the passes' masks of a dropout layer, the first, second, ...

        into: one pass of another chain for each of these, whose input rows the output will be.
        """
        dropped = itertools.count()
        masks = [masks_of(next(dropped)) if layer.dropout else None for layer in self.products.layers[:-1]]
        self.products.forward_(self.inputs, self.buffers["output"], masks)
        if into:  # to walk through a tensor costs more than it looks
            for one, rows in zip(into, self.output.unbind(), strict=True):
                one.load(rows)
        return self.output

    def adjoint(self) -> None:
        """From the seed down to U_1, for a chain with one output and no activation at its end."""
        self.products.load_(self.adjoints[-1], self._seeds.unsqueeze(1))
        self.products.descend_(self.adjoints, self.inputs)

    def adjoint_from(self, critic: Passes) -> None:
        """From a critic's input gradient at this one pass's output, as an ordinary backward pass."""
        self.products.load_output_(self.adjoints[-1], critic.input_gradient()[0], self.output[0])
        self.products.descend_(self.adjoints, self.inputs)

    def input_gradient(self) -> Tensor:
        """g for every row; returns `gradient`."""
        self.products.input_gradient_(self.buffers["gradient"], self.adjoints[0])
        return self.gradient

    def tangent(self, start: Tensor, values: Tensor) -> None:
        """Turns this one pass's activations into c * A + T, from T_0 = start; start, values (what was loaded): [rows, in]."""
        coefficient = self._coefficients
        self.products.load_tangent_(self.inputs[0], start, values, coefficient)
        self.products.tangents_(self.inputs, coefficient)

    def gradients(self, into: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """dW and db of each layer, into tensors like its weight and bias."""
        coefficient = self._coefficients
        for index, (weight, bias) in enumerate(into):
            self.products.gradient_(index, weight, bias, self.adjoints[index], self.inputs[index], coefficient)
