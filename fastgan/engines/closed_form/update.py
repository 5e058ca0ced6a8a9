"""An update in closed form: the loss and its gradients by the logits, penalties on the input gradient, the optimizer's step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ...chain.passes import Buffers, Passes
from ...chain.products import Products
from ...ops import loss as loss_ops
from ...ops.cpp.update import update_with_gradients_
from ...ops.objective import Objective
from ...ops.sample import MaskCounter
from ...penalties import Penalty
from ...runtime.distributed import World, all_rows, sum_
from .result import UpdateResult
from .update_log import HostUpdateLog, UpdateLog


class TrainingPasses(Protocol):
    """What a step asks of the passes over a network that it trains: `HostPasses`, or `FusedPasses` where launches cost."""

    @property
    def log(self) -> UpdateLog:
        """Of the network whose update they are for."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice) -> Self:
        """Some of the passes, in the same memory."""

    def for_updates(self, count: int, generator: Self) -> list[Self]:
        """A critic's passes for `count` updates of its own and one of a generator: these buffers, but inputs of their own."""

    def load(self, values: Tensor) -> None:
        """The input rows [rows, in] of this one pass."""

    def forward(self, masks_of: Callable[[int], MaskCounter], into: Sequence[Self] = ()) -> object:
        """Runs the chain; see Passes.forward."""

    def loss_and_gradients(
        self, objective: Objective, *, real: bool, penalized: Collection[int] = (), of: slice = slice(None)
    ) -> UpdateResult:
        """The objective of the logits of all processes' rows, and the adjoints of the passes `of` down to U_1.

        real: whether the first pass is of real rows and the next of fake ones, else the first is of fake ones. Where g is asked
        for (penalized), U_L = 1 and A has the coefficient s, which is 0 at a penalty's own points; elsewhere s is the seed.
        """

    def add_penalties(self, penalties: Sequence[Penalty], result: UpdateResult) -> None:
        """Adds the penalties of this one pass's input gradient to the result; leaves their tangents in the activations."""

    def adjoint_from(self, critic: Self) -> None:
        """From a critic's input gradient at this one pass's output, as an ordinary backward pass."""

    def update(self, result: UpdateResult, step: int | Tensor) -> None:
        """One optimizer step of the network whose layers these are."""


class HostPasses(Passes):
    """Passes whose every product is a call of its own, over a network that is trained."""

    def __init__(self, products: Products[Any], rows: int, buffers: Buffers, count: int, log: HostUpdateLog) -> None:
        super().__init__(products, rows, buffers, count)
        self.log = log
        self._constants: tuple[int, ...] = ()  # what the seeds and coefficients of all passes are filled for

    def _on(self, buffers: Buffers, count: int, log: HostUpdateLog | None = None) -> Self:
        return type(self)(self.products, self.rows, buffers, count, log or self.log)

    def for_updates(self, count: int, generator: Self) -> list[Self]:
        """See TrainingPasses."""
        return [self._on(self._own_inputs(), len(self), log) for log in [*[self.log] * count, generator.log]]

    def _own_inputs(self) -> Buffers:
        shared = self.buffers
        first = self.products.operand(len(shared.seed), self.gradient.shape[-1])
        inputs, seed, coefficient = [first, *shared.inputs[1:]], shared.seed.clone(), shared.coefficient.clone()
        return replace(shared, inputs=inputs, seed=seed, coefficient=coefficient)

    def loss_and_gradients(
        self, objective: Objective, *, real: bool, penalized: Collection[int] = (), of: slice = slice(None)
    ) -> UpdateResult:
        """The objective of the logits, and the adjoints of the passes `of` down to U_1; see TrainingPasses."""
        logits, into = self.output, self._gradient_buffers(1 + real, penalized)
        fake, real_logits = logits[int(real)], logits[0] if real else None
        result = loss_and_gradients(real_logits, fake, into[0] if real else None, into[-1], objective, self.log.world)
        self[of].adjoint()
        return result

    def _gradient_buffers(self, count: int, penalized: Collection[int]) -> list[Tensor]:
        """Where dLoss/dlogit of the first `count` passes goes; the constants beside it are filled in."""
        root = self._root
        if root._constants != (constants := (len(self), *penalized)):
            for number in range(len(self)):
                (self.seed if number in penalized else self.coefficient)[number].fill_(1.0)
            for points in self.coefficient[count:]:
                points.fill_(0.0)
            root._constants = constants
        return [(self.coefficient if number in penalized else self.seed)[number] for number in range(count)]

    def add_penalties(self, penalties: Sequence[Penalty], result: UpdateResult) -> None:
        """Adds the penalties of this one pass's input gradient to the result; leaves their tangents in the activations."""
        gradient, processes = self.input_gradient()[0], self.log.world.size
        pairs = [penalty.penalty_gradient(gradient, penalty.every / processes) for penalty in penalties]
        values, derivatives = zip(*pairs, strict=True)
        self.tangent(sum(derivatives[1:], derivatives[0]), self.loaded)
        value = sum_(sum(values[1:], values[0]), processes)
        result.penalty = value if result.penalty is None else result.penalty + value

    @functools.cached_property
    def _update_all(self) -> Callable[..., Tensor] | None:
        """Gradients and the optimizer's step in one, where there is such a thing."""
        operands = self.products.update_operands(self.adjoints, self.inputs, self.buffers.coefficient)
        return None if operands is None else functools.partial(update_with_gradients_, operands=operands)

    def update(self, result: UpdateResult, step: int | Tensor) -> None:
        """One optimizer step of the network whose layers these are."""
        network, products, finite_check = self.log.network, self.products, result.finite_check()
        if self._update_all and self.log.world.size == 1:
            result.statistics = network.update(finite_check, step, self._update_all)
        else:
            bias_of = [None if layer.bias is None else network.gradient_of(layer.bias) for layer in products.layers]
            weight_of = (network.gradient_of(layer.weight) for layer in products.layers)
            self.gradients(list(zip(weight_of, bias_of, strict=True)))
            sum_(network.gradient, self.log.world.size)
            result.statistics = network.update(finite_check, step)
            products.refresh()
        network.record_update(finite_check, result.statistics)


def loss_and_gradients(
    real: Tensor | None,
    fake: Tensor,
    real_gradient: Tensor | None,
    fake_gradient: Tensor,
    objective: Objective,
    world: World,
) -> UpdateResult:
    """The objective of all processes' logits; writes the gradients of this one's rows."""
    if world.size == 1:
        return _result(*loss_ops.loss_gradients_(real, fake, real_gradient, fake_gradient, objective))
    all_real, all_fake = (None if x is None else all_rows(x.flatten().clone(), world) for x in (real, fake))
    assert all_fake is not None
    all_real_gradient = None if all_real is None else torch.empty_like(all_real)
    all_fake_gradient = torch.empty_like(all_fake)
    result = _result(*loss_ops.loss_gradients_(all_real, all_fake, all_real_gradient, all_fake_gradient, objective))
    own = slice(world.rank * len(fake_gradient), (world.rank + 1) * len(fake_gradient))
    fake_gradient.copy_(all_fake_gradient[own])
    if real_gradient is not None and all_real_gradient is not None:
        real_gradient.copy_(all_real_gradient[own])
    return result


def _result(value: Tensor, statistics: Tensor) -> UpdateResult:
    return UpdateResult(value, statistics[:2])
