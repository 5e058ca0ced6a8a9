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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .distributed import World, all_rows, sum_
from .flat import FlatNetwork
from .layers import FusedLinear
from .ops import loss as loss_ops
from .ops.dense import Layer, Products
from .ops.penalty import Form
from .ops.sample import Masks

ALONE = World()
_SLOPES = {"identity": 1.0, "relu": 0.0}


def read_layers(chain: Sequence[FusedLinear]) -> list[Layer]:
    """What products need to know of a chain of fused layers; parameters are shared."""
    *hidden, last = chain
    read = [Layer(x.weight, x.bias, _SLOPES.get(x.activation, x.negative_slope), x.dropout) for x in hidden]
    return [*read, Layer(last.weight, last.bias, output=last.activation)]


class Pushing(Protocol):
    """What is asked of a penalty (penalties.Penalty)."""

    every: int

    def kernel_form(self, times: float = 1.0) -> Form | None: ...

    def push(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]: ...


@dataclass
class Outcome:
    """What an update leaves behind: the objective's value, 0-d, and the mean real and fake logits [2]; then the penalties'
    price, 0-d, or None, and what the optimizer's step returned (`ops.update.update_`)."""

    value: Tensor
    means: Tensor
    penalty: Tensor | None = None
    statistics: Tensor | None = None

    def doubt(self) -> Tensor:
        """Numbers that are finite where all logits, slopes and pushes are."""
        return self.means if self.penalty is None else self.means + self.penalty

    def price(self) -> Tensor:
        """The penalties' price, 0-d."""
        return torch.zeros_like(self.value) if self.penalty is None else self.penalty

    def norm(self) -> Tensor:
        """The norm of the network's gradient, 0-d."""
        assert self.statistics is not None
        return self.statistics[0].sqrt()


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

    def __init__(
        self,
        products: Products,
        network: FlatNetwork | None,
        count: int,
        rows: int,
        world: World = ALONE,
        *,
        judged: bool = False,
    ) -> None:
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

    def hands(self, count: int) -> list[Passes]:
        """As many passes over these buffers, each with input rows, seeds and coefficients of its own."""
        return [self._hand() for _ in range(count)]

    def _hand(self) -> Passes:
        first = self.products.operand(len(self._seeds), self.gradient.shape[-1])
        own = {name: self.buffers[name].clone() for name in ("seed", "coefficient")}
        return self._like(self._count, self.buffers | own | {"inputs": [first, *self.inputs[1:]]})

    def load(self, values: Tensor) -> None:
        """The input rows [rows, in] of this one pass."""
        self.products.load_(self.inputs[0], values)
        self.loaded = values

    def forward(self, masks_of: Callable[[int], Masks], into: Sequence[Passes] = ()) -> Tensor:
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

    def judge(
        self,
        network: FlatNetwork,
        objective: loss_ops.Objective,
        world: World,
        *,
        real: bool,
        priced: Collection[int] = (),
        of: slice = slice(None),
    ) -> Outcome:
        """The objective of the logits of all processes' rows, and the adjoints of the passes `of` down to U_1.

        network: whose update this is for; real: whether the first pass is of real rows and the next of fake ones, else the
        first is of fake ones. Where g is asked for (priced), U_L = 1 and A has the coefficient s, which is 0 at a penalty's own
        points; elsewhere s is the seed.
        """
        logits, places = self.output, self._slope_places(1 + real, priced)
        fake, real_logits = logits[int(real)], logits[0] if real else None
        outcome = judge(real_logits, fake, places[0] if real else None, places[-1], objective, world)
        self[of].adjoint()
        return outcome

    def _slope_places(self, judged: int, priced: Collection[int]) -> list[Tensor]:
        root: Passes = self._root
        if root._constants != (constants := (self._count, *priced)):
            for number in range(self._count):
                (self.seed if number in priced else self.coefficient)[number].fill_(1.0)
            for points in self.coefficient[judged:]:
                points.fill_(0.0)
            root._constants = constants
        return [(self.coefficient if number in priced else self.seed)[number] for number in range(judged)]

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

    def push(self, penalties: Sequence[Pushing], network: FlatNetwork, outcome: Outcome, world: World) -> None:
        """Adds the price that penalties put on this one pass's input gradient; leaves their tangents in the activations."""
        gradient = self.input_gradient()[0]
        prices, pushes = zip(*(penalty.push(gradient, penalty.every / world.size) for penalty in penalties), strict=True)
        self.tangent(sum(pushes[1:], pushes[0]), self.loaded)
        price = sum_(sum(prices[1:], prices[0]), world.size)
        outcome.penalty = price if outcome.penalty is None else outcome.penalty + price

    def tangent(self, push: Tensor, values: Tensor) -> None:
        """Turns this one pass's activations into c * A + T; push, values (what was loaded): [rows, in]."""
        coefficient = self._coefficients
        self.products.load_tangent_(self.inputs[0], push, values, coefficient)
        self.products.tangents_(self.inputs, coefficient)

    def gradients(self, into: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """dW and db of each layer, into tensors like its weight and bias."""
        coefficient = self._coefficients
        for index, (weight, bias) in enumerate(into):
            self.products.gradient_(index, weight, bias, self.adjoints[index], self.inputs[index], coefficient)

    @functools.cached_property
    def _update_all(self) -> Callable[..., Tensor] | None:
        """Gradients and the optimizer's step in one, where there is such a thing."""
        return self.products.updater(self.adjoints, self.inputs, self._coefficients)

    def update(self, network: FlatNetwork, outcome: Outcome, step: int | Tensor, world: World = ALONE) -> None:
        """One optimizer step of the network whose layers these are."""
        products, doubt = self.products, outcome.doubt()
        if self._update_all and world.size == 1:
            outcome.statistics = network.update(doubt, step, self._update_all)
        else:
            bias_of = [None if layer.bias is None else network.gradient_of(layer.bias) for layer in products.layers]
            weight_of = (network.gradient_of(layer.weight) for layer in products.layers)
            self.gradients(list(zip(weight_of, bias_of, strict=True)))
            sum_(network.gradient, world.size)
            outcome.statistics = network.update(doubt, step)
            products.refresh()
        network.note(doubt, outcome.statistics)

    def settle(self, network: FlatNetwork, counter: int | Tensor) -> None:
        """Counts what updates left alone, before a captured run ends: what was noted is then gone."""
        if isinstance(counter, Tensor):
            network.add_up()


def judge(
    real: Tensor | None,
    fake: Tensor,
    real_slope: Tensor | None,
    fake_slope: Tensor,
    objective: loss_ops.Objective,
    world: World,
) -> Outcome:
    """The objective of all processes' logits; writes the slopes of this one's rows."""
    if world.size == 1:
        return _outcome(*loss_ops.slopes_(real, fake, real_slope, fake_slope, objective))
    all_real, all_fake = (None if x is None else all_rows(x.flatten().clone(), world) for x in (real, fake))
    assert all_fake is not None
    all_real_slope = None if all_real is None else torch.empty_like(all_real)
    all_fake_slope = torch.empty_like(all_fake)
    outcome = _outcome(*loss_ops.slopes_(all_real, all_fake, all_real_slope, all_fake_slope, objective))
    own = slice(world.rank * len(fake_slope), (world.rank + 1) * len(fake_slope))
    fake_slope.copy_(all_fake_slope[own])
    if real_slope is not None and all_real_slope is not None:
        real_slope.copy_(all_real_slope[own])
    return outcome


def _outcome(value: Tensor, statistics: Tensor) -> Outcome:
    return Outcome(value, statistics[:2])
