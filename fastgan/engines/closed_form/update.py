"""An update in closed form: the loss and its gradients by the logits, penalties on the input gradient, the optimizer's step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...chain.passes import Passes
from ...ops import loss as loss_ops
from ...ops.penalty import PenaltyForm
from ...runtime.distributed import ALONE, World, all_rows, sum_
from ..flat_network import FlatNetwork


class HasPenaltyGradient(Protocol):
    """What is asked of a penalty (penalties.Penalty)."""

    every: int

    def form(self, times: float = 1.0) -> PenaltyForm | None: ...

    def penalty_gradient(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]: ...


@dataclass
class UpdateResult:
    """What an update leaves behind: the objective's value, 0-d, and the mean real and fake logits [2]; then the penalties'
    value, 0-d, or None, and what the optimizer's step returned (`ops.update.update_`)."""

    value: Tensor
    means: Tensor
    penalty: Tensor | None = None
    statistics: Tensor | None = None

    def finite_check(self) -> Tensor:
        """Numbers that are finite where all logits, their gradients and penalties are."""
        return self.means if self.penalty is None else self.means + self.penalty

    def penalty_value(self) -> Tensor:
        """The penalties' value, 0-d; 0 without any."""
        return torch.zeros_like(self.value) if self.penalty is None else self.penalty

    def norm(self) -> Tensor:
        """The norm of the network's gradient, 0-d."""
        assert self.statistics is not None
        return self.statistics[0].sqrt()


class TrainingPasses(Passes):
    """Passes over a network that is trained: what its updates need besides the passes themselves."""

    def with_own_inputs(self, count: int) -> list[TrainingPasses]:
        """As many passes over these buffers, each with input rows, seeds and coefficients of its own."""
        return [self._with_own_inputs() for _ in range(count)]

    def _with_own_inputs(self) -> TrainingPasses:
        first = self.products.operand(len(self._seeds), self.gradient.shape[-1])
        own = {name: self.buffers[name].clone() for name in ("seed", "coefficient")}
        return self._like(self._count, self.buffers | own | {"inputs": [first, *self.inputs[1:]]})

    def loss_and_gradients(
        self,
        network: FlatNetwork,
        objective: loss_ops.Objective,
        world: World,
        *,
        real: bool,
        penalized: Collection[int] = (),
        of: slice = slice(None),
    ) -> UpdateResult:
        """The objective of the logits of all processes' rows, and the adjoints of the passes `of` down to U_1.

        network: whose update this is for; real: whether the first pass is of real rows and the next of fake ones, else the
        first is of fake ones. Where g is asked for (penalized), U_L = 1 and A has the coefficient s, which is 0 at a penalty's
        own points; elsewhere s is the seed.
        """
        logits, places = self.output, self._gradient_buffers(1 + real, penalized)
        fake, real_logits = logits[int(real)], logits[0] if real else None
        result = loss_and_gradients(real_logits, fake, places[0] if real else None, places[-1], objective, world)
        self[of].adjoint()
        return result

    def _gradient_buffers(self, count: int, penalized: Collection[int]) -> list[Tensor]:
        root: TrainingPasses = self._root
        if root._constants != (constants := (self._count, *penalized)):
            for number in range(self._count):
                (self.seed if number in penalized else self.coefficient)[number].fill_(1.0)
            for points in self.coefficient[count:]:
                points.fill_(0.0)
            root._constants = constants
        return [(self.coefficient if number in penalized else self.seed)[number] for number in range(count)]

    def add_penalties(
        self, penalties: Sequence[HasPenaltyGradient], network: FlatNetwork, result: UpdateResult, world: World
    ) -> None:
        """Adds the penalties of this one pass's input gradient to the result; leaves their tangents in the activations."""
        gradient = self.input_gradient()[0]
        pairs = [penalty.penalty_gradient(gradient, penalty.every / world.size) for penalty in penalties]
        values, derivatives = zip(*pairs, strict=True)
        self.tangent(sum(derivatives[1:], derivatives[0]), self.loaded)
        value = sum_(sum(values[1:], values[0]), world.size)
        result.penalty = value if result.penalty is None else result.penalty + value

    @functools.cached_property
    def _update_all(self) -> Callable[..., Tensor] | None:
        """Gradients and the optimizer's step in one, where there is such a thing."""
        return self.products.updater(self.adjoints, self.inputs, self._coefficients)

    def update(self, network: FlatNetwork, result: UpdateResult, step: int | Tensor, world: World = ALONE) -> None:
        """One optimizer step of the network whose layers these are."""
        products, finite_check = self.products, result.finite_check()
        if self._update_all and world.size == 1:
            result.statistics = network.update(finite_check, step, self._update_all)
        else:
            bias_of = [None if layer.bias is None else network.gradient_of(layer.bias) for layer in products.layers]
            weight_of = (network.gradient_of(layer.weight) for layer in products.layers)
            self.gradients(list(zip(weight_of, bias_of, strict=True)))
            sum_(network.gradient, world.size)
            result.statistics = network.update(finite_check, step)
            products.refresh()
        network.note(finite_check, result.statistics)

    def flush(self, network: FlatNetwork, counter: int | Tensor) -> None:
        """Counts what updates left alone, before a captured run ends: what was noted is then gone."""
        if isinstance(counter, Tensor):
            network.add_up()


def loss_and_gradients(
    real: Tensor | None,
    fake: Tensor,
    real_gradient: Tensor | None,
    fake_gradient: Tensor,
    objective: loss_ops.Objective,
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
