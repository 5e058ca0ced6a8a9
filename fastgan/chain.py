"""A chain of layers on stacked passes of rows: forward, adjoint, tangent and weight gradients, without an autograd graph.

With m_l the slope of layer l at a row, read back from A_l, and a seed u and a coefficient c for every row:

    forward    A_l = m_l * (A_{l-1} W_l^T + b_l)
    adjoint    U_L = u,  U_l = m_l * (U_{l+1} W_{l+1}),  g = U_1 W_1
    tangent    T_0 = v,  T_l = m_l * (T_{l-1} W_l^T)
    update     dW_l = U_l^T (c * A_{l-1} + T_{l-1}),  db_l = U_l^T c

docs/closed-form-step.md derives them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

from .distributed import World, sum_
from .flat import FlatNetwork
from .layers import FusedLinear
from .ops.dense import Layer, Products
from .ops.sample import Masks

ALONE = World()
_SLOPES = {"identity": 1.0, "relu": 0.0}


def read_layers(chain: Sequence[FusedLinear]) -> list[Layer]:
    """What products need to know of a chain of fused layers; parameters are shared."""
    *hidden, last = chain
    read = [Layer(x.weight, x.bias, _SLOPES.get(x.activation, x.negative_slope), x.dropout) for x in hidden]
    return [*read, Layer(last.weight, last.bias, output=last.activation)]


class Passes:
    """Stacked passes of `rows` rows over one chain; passes[a:b] are some of them, in the same memory.

    output [passes, rows, out] and gradient [passes, rows, in] are fp32 or wider; seed and coefficient hold [rows] for each.
    """

    def __init__(self, products: Products, count: int, rows: int) -> None:
        layers, stride = products.layers, products.stride(rows)
        sizes = [layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in layers)]
        like = layers[0].weight.detach()
        self.products, self.rows, self.stride = products, rows, stride
        self.inputs = [products.operand(count * stride, width) for width in sizes[:-1]]  # A_0 .. A_{L-1}
        self.adjoints = [products.operand(count * stride, width) for width in sizes[1:]]  # U_1 .. U_L
        self._stacked = {
            "output": like.new_empty(count * stride, sizes[-1]),
            "gradient": like.new_empty(count * stride, sizes[0]),
            "seed": like.new_zeros(count * stride),
            "coefficient": like.new_ones(count * stride),
        }
        self._divide()

    def _divide(self) -> None:
        self._parts: dict[tuple[int, int], Passes] = {}
        self._count = len(self._stacked["seed"]) // self.stride
        by_pass = {name: x.unflatten(0, (-1, self.stride))[:, : self.rows] for name, x in self._stacked.items()}
        self.output, self.gradient = by_pass["output"], by_pass["gradient"]
        self.seed, self.coefficient = by_pass["seed"].unbind(), by_pass["coefficient"].unbind()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: slice) -> Passes:
        first, last, _ = which.indices(self._count)
        if (first, last) not in self._parts:
            self._parts[first, last] = self._part(slice(first * self.stride, last * self.stride))
        return self._parts[first, last]

    def _part(self, rows: slice) -> Passes:
        part = object.__new__(Passes)
        part.products, part.rows, part.stride = self.products, self.rows, self.stride
        part.inputs = [operand.part(rows) for operand in self.inputs]
        part.adjoints = [operand.part(rows) for operand in self.adjoints]
        part._stacked = {name: x[rows] for name, x in self._stacked.items()}
        part._divide()
        return part

    def load(self, values: Tensor) -> None:
        """The input rows [rows, in] of this one pass."""
        self.products.load_(self.inputs[0], values)

    def forward(self, masks_of: Callable[[int], Masks]) -> Tensor:
        """Runs the chain; returns `output`. masks_of: the passes' masks of a dropout layer, the first, second, ..."""
        dropped = itertools.count()
        masks = [masks_of(next(dropped)) if layer.dropout else None for layer in self.products.layers[:-1]]
        self.products.forward_(self.inputs, self._stacked["output"], masks)
        return self.output

    def adjoint(self) -> None:
        """From the seed down to U_1, for a chain with one output and no activation at its end."""
        self.products.load_(self.adjoints[-1], self._stacked["seed"].unsqueeze(1))
        self.products.descend_(self.adjoints, self.inputs)

    def adjoint_from(self, gradient: Tensor) -> None:
        """From gradients [rows, out] by this one pass's output, as an ordinary backward pass."""
        self.products.load_output_(self.adjoints[-1], gradient, self.output[0])
        self.products.descend_(self.adjoints, self.inputs)

    def input_gradient(self) -> Tensor:
        """g for every row; returns `gradient`."""
        self.products.input_gradient_(self._stacked["gradient"], self.adjoints[0])
        return self.gradient

    def tangent(self, push: Tensor, values: Tensor) -> None:
        """Turns this one pass's activations into c * A + T; push, values (what was loaded): [rows, in]."""
        coefficient = self._stacked["coefficient"]
        self.products.load_tangent_(self.inputs[0], push, values, coefficient)
        self.products.tangents_(self.inputs, coefficient)

    def gradients(self, into: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """dW and db of each layer, into tensors like its weight and bias."""
        coefficient = self._stacked["coefficient"]
        for index, (weight, bias) in enumerate(into):
            self.products.gradient_(index, weight, bias, self.adjoints[index], self.inputs[index], coefficient)

    @functools.cached_property
    def _update_all(self) -> Callable[..., Tensor] | None:
        """Gradients and the optimizer's step in one, where there is such a thing."""
        return self.products.updater(self.adjoints, self.inputs, self._stacked["coefficient"])

    def update(self, network: FlatNetwork, withhold: Tensor, step: int, world: World = ALONE) -> Tensor:
        """One optimizer step of the network whose layers these are; returns the statistics of `ops.update.update_`."""
        products = self.products
        if self._update_all and world.size == 1:
            return network.update(withhold, step, self._update_all)
        bias_of = [None if layer.bias is None else network.gradient_of(layer.bias) for layer in products.layers]
        self.gradients(list(zip((network.gradient_of(layer.weight) for layer in products.layers), bias_of, strict=True)))
        sum_(network.gradient, world.size)
        statistics = network.update(withhold, step)
        products.refresh()
        return statistics
