"""Passes over a chain of layers in as few launches as depend on each other, for devices where a launch is what costs.

The formulas are those of chain/passes.py. What one launch can do on the way of another has no launch of its own: the critic's
last layer and U_{L-1} come out of the last hidden layer, the loss is evaluated beside the first adjoint product, a penalty's
gradient is a factor in the first tangent product, and weight gradients stay in the registers of the optimizer's step. Nothing
waits for the device; what an update leaves behind stays there (update_log.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ...chain.passes import Stack
from ...chain.triton_tiles import LossArgs, TritonProducts
from ...ops.objective import Objective
from ...ops.penalty import PenaltyForm
from ...ops.sample import MaskCounter
from ...ops.triton.update import FINITE_CHECK, PENALTY_VALUES, VALUE, OptimizerArgs, optimizer_args
from ...penalties import Penalty
from ...runtime.distributed import World, sum_
from ..flat_network import FlatNetwork
from .fused_update import FusedUpdate
from .result import UpdateResult
from .update import loss_and_gradients
from .update_log import DeviceUpdateLog

BIAS, INPUT, OTHERS = range(3)  # a row's coefficients, by what a weight gradient takes with them


@dataclass
class CriticBuffers:
    """What only a critic's passes have: parts of logits, g in fp32 and filled up, and the tangents of hidden layers."""

    partials: list[Tensor]
    gradient: Tensor
    tangents: list[Tensor]

    def rows(self, rows: slice) -> CriticBuffers:
        """Some of the rows, in the same memory."""
        return CriticBuffers([x[rows] for x in self.partials], self.gradient[rows], [x[rows] for x in self.tangents])


@dataclass
class FusedBuffers:
    """Operands A_0 .. A_{L-1} and U_1 .. U_L, a critic's U_L being 1; three coefficients for every row (BIAS, ...).

    output [rows, out], fp32, of a network that is no critic.
    """

    inputs: list[Tensor]
    adjoints: list[Tensor]
    coefficient: list[Tensor]
    output: Tensor | None = None
    critic: CriticBuffers | None = None

    def rows(self, rows: slice) -> FusedBuffers:
        """Some of the rows, in the same memory."""
        inputs, adjoints, coefficient = ([x[rows] for x in y] for y in (self.inputs, self.adjoints, self.coefficient))
        output, critic = self.output, self.critic
        output, critic = None if output is None else output[rows], None if critic is None else critic.rows(rows)
        return FusedBuffers(inputs, adjoints, coefficient, output, critic)

    @classmethod
    def allocate(cls, products: TritonProducts, rows: int, *, is_critic: bool) -> FusedBuffers:
        """Buffers for so many rows of all passes."""
        sizes = [products.shapes[0][1], *(outputs for outputs, _ in products.shapes)]
        coefficient = torch.ones(3, rows, device=products.device)
        inputs = [products.operand(rows, width) for width in sizes[:-1]]
        adjoints = [products.operand(rows, width) for width in sizes[1:]]
        if not is_critic:
            output = torch.zeros(rows, sizes[-1], device=products.device)
            return cls(inputs, adjoints, list(coefficient.unbind()), output)
        adjoints[-1][:, 0] = 1.0
        coefficient[BIAS] = 0.0
        partials = torch.zeros(-(-sizes[-2] // 16), rows, device=products.device)
        gradient = products.operand(rows, sizes[0], torch.float32)
        tangents = [products.operand(rows, width) for width in sizes[1:-1]]
        critic = CriticBuffers(list(partials.unbind()), gradient, tangents)
        return cls(inputs, adjoints, list(coefficient.unbind()), critic=critic)


class FusedPasses(Stack[FusedBuffers]):
    """Passes over one network that is trained; see update.TrainingPasses for what a step asks of them.

    rows: of one pass; all_rows: of all passes over these buffers, which is how far two kinds of coefficients are apart.
    """

    def __init__(
        self,
        products: TritonProducts,
        rows: int,
        buffers: FusedBuffers,
        count: int,
        *,
        all_rows: int,
        updates: FusedUpdate,
        log: DeviceUpdateLog,
    ) -> None:
        super().__init__(buffers, count, rows)
        self.products, self.rows, self.all_rows = products, rows, all_rows
        self.updates, self.log = updates, log
        self.inputs, self.adjoints, self.coefficient = buffers.inputs, buffers.adjoints, buffers.coefficient
        self.is_critic = buffers.critic is not None

    @classmethod
    def allocate(
        cls,
        products: TritonProducts,
        network: FlatNetwork,
        count: int,
        rows: int,
        world: World,
        *,
        is_critic: bool,
        make_update: Callable[[TritonProducts, int], FusedUpdate] = FusedUpdate,
    ) -> Self:
        """`count` passes of so many rows each, on buffers of their own."""
        all_rows = count * rows
        updates = make_update(products, all_rows if is_critic else rows)  # of a generator's passes one is its own update's
        programs = updates.last_programs(network.weight.numel(), world.size)
        log = DeviceUpdateLog(products.launch, network, world, all_rows if is_critic else 0, programs)
        buffers = FusedBuffers.allocate(products, all_rows, is_critic=is_critic)
        return cls(products, rows, buffers, count, all_rows=all_rows, updates=updates, log=log)

    def _on(self, buffers: FusedBuffers, count: int, log: DeviceUpdateLog | None = None) -> Self:
        shared = dict(all_rows=self.all_rows, updates=self.updates)
        return type(self)(self.products, self.rows, buffers, count, **shared, log=log or self.log)  # type: ignore[arg-type]

    def for_updates(self, count: int, generator: Self) -> list[Self]:
        """See TrainingPasses.

        The input rows of all of them are one matrix, which one launch fills.
        """
        logs = [*[self.log] * count, generator.log]
        inputs = self.products.operand(len(logs) * self.all_rows, self.products.shapes[0][1])
        return [
            self._on(self._own(first), len(self), log) for log, first in zip(logs, inputs.split(self.all_rows), strict=True)
        ]

    def _own(self, inputs: Tensor) -> FusedBuffers:
        coefficient = list(torch.stack(self.coefficient).unbind())
        return replace(self.buffers, inputs=[inputs, *self.inputs[1:]], coefficient=coefficient)

    @property
    def output(self) -> Tensor:
        """What comes out of a network that is no critic, [passes, rows, out], fp32."""
        assert self.buffers.output is not None
        return self.buffers.output.unflatten(0, (-1, self.rows))

    @property
    def critic(self) -> CriticBuffers:
        """The buffers that only a critic has."""
        assert self.buffers.critic is not None
        return self.buffers.critic

    def load(self, values: Tensor) -> None:
        """The input rows [rows, in] of this one pass."""
        self.products.load(self.inputs[0], values)

    def forward(self, masks_of: Callable[[int], MaskCounter], into: Sequence[Self] = ()) -> None:
        """Runs the chain; see Passes.forward."""
        products, dropped = self.products, itertools.count()
        last = len(products.layers) - 2
        for index, layer in enumerate(products.layers[:-1]):
            masks = masks_of(next(dropped)) if layer.dropout else None
            head = (self.adjoints[last], self.critic.partials[0], self.all_rows) if self.is_critic and index == last else None
            products.hidden(index, self.inputs[index + 1], self.inputs[index], masks, head)
        if self.buffers.output is not None:
            copy = (into[0].inputs[0], self.rows, into[0].all_rows) if into else None
            products.output(self.buffers.output, self.inputs[-1], copy)

    def loss_and_gradients(
        self, objective: Objective, *, real: bool, penalized: Collection[int] = (), of: slice = slice(None)
    ) -> UpdateResult:
        """The objective of the logits, and the adjoints of the passes `of` down to U_1; see TrainingPasses."""
        flags = (int(0 in penalized), int(1 in penalized)) if real else (0, 0)
        loss = self._loss(objective, self.log.begin(), real, flags)
        layers, alone = len(self.products.layers), self.log.world.size == 1
        if not alone:
            self._loss_of_all_processes(loss, objective)
        elif layers <= 2:
            self.products.loss_and_gradients(loss)
        self[of]._descend(layers - 3, loss if alone and layers > 2 else None)
        return self.log.result()

    def _loss(self, objective: Objective, record: Tensor, real: bool, flags: tuple[int, int]) -> LossArgs:
        form, fake_target, real_target, scale = objective.terms
        parts, bias = self.products.parts(len(self) * self.rows), self.products.biases[-1]
        logits = record, self.coefficient[BIAS], self.critic.partials[0], parts, self.all_rows, bias, self.rows
        block = min(1024, max(16, 1 << (self.rows - 1).bit_length()))
        return LossArgs(*logits, fake_target, real_target, scale, *flags, form=form, real=real, block=block)

    def _loss_of_all_processes(self, loss: LossArgs, objective: Objective) -> None:
        """The objective of the logits of all processes."""
        logits = torch.stack(self.critic.partials[: loss.parts]).sum(0) + loss.bias
        gradients = self.coefficient[BIAS]
        sides = [slice(number * self.rows, (number + 1) * self.rows) for number in range(1 + loss.real)]
        fake, penalized = sides[-1], (loss.real_penalized, loss.fake_penalized)
        real_logits, real_gradient = (logits[sides[0]], gradients[sides[0]]) if loss.real else (None, None)
        result = loss_and_gradients(real_logits, logits[fake], real_gradient, gradients[fake], objective, self.log.world)
        loss.record[VALUE].copy_(result.value)
        loss.record[FINITE_CHECK:PENALTY_VALUES].copy_(result.means)
        for side, is_penalized in zip(sides, penalized if loss.real else penalized[1:], strict=True):
            for kind in (INPUT, OTHERS):
                self.coefficient[kind][side].copy_(torch.ones_like(gradients[side]) if is_penalized else gradients[side])

    def _descend(self, first: int, loss: LossArgs | None = None) -> None:
        for index in range(first, -1, -1):
            self.products.adjoint(index, self.adjoints[index], self.adjoints[index + 1], self.inputs[index + 1], loss)
            loss = None

    def adjoint_from(self, critic: Self) -> None:
        """From a critic's input gradient at this one pass's output; its rows are weighed by the critic's dLoss/dlogit."""
        coefficient, y, activation = critic.coefficient[BIAS], self.output[0], self.products.layers[-1].output
        critic.products.input_gradient(
            self.adjoints[-1], critic.adjoints[0], "generator", coefficient=coefficient, y=y, activation=activation
        )
        self._descend(len(self.products.layers) - 2)

    def add_penalties(self, penalties: Sequence[Penalty], result: UpdateResult) -> None:
        """The tangents of penalties on this one pass's input gradient, and their values; see TrainingPasses."""
        processes = self.log.world.size
        forms = [penalty.form(penalty.every / processes) for penalty in penalties]
        known = [form for form in forms if form is not None]
        if len(known) == len(forms) and all(form.squared for form in known):
            first, form = "square", known[0]._replace(weight=sum(form.weight for form in known))
        elif len(known) == len(forms) == 1 and self._first >= 2:  # at points of its own, where s is 0
            first, form = "norm", known[0]
        else:
            self._add_by_torch(penalties)
            return
        values = self.log.penalty_values(self.rows) if processes == 1 else torch.empty_like(self.coefficient[BIAS])
        self._add_by_form(first, form, values)
        if processes > 1:
            self.log.penalty_values(1).copy_(sum_(values.sum().view(1), processes))

    def _add_by_form(self, first: str, form: PenaltyForm, values: Tensor) -> None:
        form = form._replace(weight=form.weight / self.rows)
        mode, factor = ("square", form.weight) if first == "square" else ("points", 0.0)
        gradient, x, coefficient = self.critic.gradient, self.inputs[0], self.coefficient[BIAS]
        self.products.input_gradient(gradient, self.adjoints[0], mode, x=x, coefficient=coefficient, factor=factor)
        self._tangents(gradient, first, values, form)

    def _add_by_torch(self, penalties: Sequence[Penalty]) -> None:
        """Penalties that are no kernel's: their own derivative, and what weight gradients take of the input, by torch."""
        buffer, processes = self.critic.gradient, self.log.world.size
        self.products.input_gradient(buffer, self.adjoints[0], mode="plain")
        x, width = self.inputs[0], self.products.shapes[0][1]
        gradient = buffer[:, :width]
        pairs = [penalty.penalty_gradient(gradient.contiguous(), penalty.every / processes) for penalty in penalties]
        gradient.copy_(torch.stack([derivative for _, derivative in pairs]).sum(0))
        x[:, :width] = gradient.addcmul(x[:, :width].float(), self.coefficient[BIAS].unsqueeze(1)).to(x.dtype)
        self.coefficient[INPUT].fill_(1.0)
        value = torch.stack([value for value, _ in pairs]).sum().view(1)
        self.log.penalty_values(1).copy_(sum_(value, processes))
        self._tangents(buffer, "tangent")

    def _tangents(self, x: Tensor, first: str, values: Tensor | None = None, form: PenaltyForm | None = None) -> None:
        rows: dict[str, Any] = dict(coefficient=self.coefficient[BIAS], all_rows=self.all_rows)
        of_input: dict[str, Any] = dict(first=first, penalty_values=values, form=form)
        for index, (out, made) in enumerate(zip(self.critic.tangents, self.inputs[1:], strict=True)):
            self.products.tangent(index, out, x, made, **rows, **(of_input if index == 0 else {}))
            x = out

    def update(self, result: UpdateResult, step: int | Tensor) -> None:
        """One optimizer step of the network whose layers these are."""
        network = self.log.network
        network.set_rate(step)
        rows: dict[str, Any] = dict(coefficient=self.coefficient[BIAS], all_rows=self.all_rows, rows=len(self) * self.rows)
        self.updates.step(self.log, _optimizer_args(network), self.adjoints, self.inputs, **rows)


def _optimizer_args(network: FlatNetwork) -> OptimizerArgs:
    """A network's optimizer as kernels take it."""
    buffers = network.weight, network.state, network.lr, network.count
    rule = dict(rule=network.spec.rule, options=network.options, clip=network.clip)
    return optimizer_args(*buffers, **rule, ema=network.ema, ema_decay=network.ema_decay or 0.0)  # type: ignore[arg-type]
