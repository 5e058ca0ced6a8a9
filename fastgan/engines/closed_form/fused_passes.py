"""Passes over a chain of layers in as few launches as depend on each other, for devices where a launch is what costs.

The formulas are those of chain/passes.py. What one launch can do on the way of another has no launch of its own: the critic's
last layer and U_{L-1} come out of the last hidden layer, the loss is evaluated beside the first adjoint product, a penalty's
gradient is a factor in the first tangent product, and weight gradients stay in the registers of the optimizer's step. Nothing
waits for the device; what an update leaves behind stays there (update_log.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ...chain.passes import Stack
from ...chain.triton_tiles import TritonProducts
from ...ops.objective import DEFAULTS, Objective
from ...ops.penalty import PenaltyForm
from ...ops.sample import MaskCounter
from ...ops.triton.update import VALUE, OptimizerArgs, optimizer_args, programs, step_
from ...runtime.distributed import ALONE, World, sum_
from ..flat_network import FlatNetwork
from .update import HasPenaltyGradient, UpdateResult, loss_and_gradients
from .update_log import UpdateLog

BIAS, INPUT, OTHERS = range(3)  # a row's coefficients, by what a weight gradient takes with them


class FusedPasses(Stack):
    """Passes of one network, `is_critic` where it is a critic whose logits are an objective's.

    inputs: A_0 .. A_{L-1}; adjoints: U_1 .. U_L, a critic's U_L = 1; coefficient: three numbers for every row (BIAS, ...).
    output [passes, rows, out], fp32, of a network that is no critic; gradient: a critic's g, fp32, filled up.
    """

    def __init__(
        self, products: TritonProducts, network: FlatNetwork, count: int, rows: int, world: World, *, is_critic: bool
    ) -> None:
        super().__init__(products, rows, rows, count, self._allocate(products, count * rows, is_critic))
        apart = world.size > 1 or self.tile.splits > 1
        parts = programs(network.weight.numel()) if apart else products.update_programs(self.tile)
        network.update_log = UpdateLog(products, network, count * rows if is_critic else 0, parts)

    @staticmethod
    def _allocate(products: TritonProducts, rows: int, is_critic: bool) -> dict[str, Any]:
        sizes = [products.shapes[0][1], *(outputs for outputs, _ in products.shapes)]
        coefficient = torch.ones(3, rows, device=products.device)
        buffers: dict[str, Any] = {
            "inputs": [products.operand(rows, width) for width in sizes[:-1]],
            "adjoints": [products.operand(rows, width) for width in sizes[1:]],
            "coefficient": list(coefficient.unbind()),
        }
        if not is_critic:
            return buffers | {"output": torch.zeros(rows, sizes[-1], device=products.device)}
        buffers["adjoints"][-1][:, 0] = 1.0
        coefficient[BIAS] = 0.0
        partials = torch.zeros(-(-sizes[-2] // 16), rows, device=products.device)
        gradient = products.operand(rows, sizes[0], torch.float32)
        tangents = [products.operand(rows, width) for width in sizes[1:-1]]
        return buffers | {"partials": list(partials.unbind()), "gradient": gradient, "tangents": tangents}

    def _name_buffers(self) -> None:
        self.inputs, self.adjoints, self.coefficient = (self.buffers[name] for name in ("inputs", "adjoints", "coefficient"))
        self.all_rows = len(self._root.buffers["inputs"][0])
        self.is_critic = "output" not in self.buffers
        if not self.is_critic:
            self.output = self.buffers["output"].unflatten(0, (-1, self.rows))
        learning = self.all_rows if self.is_critic else self.rows  # of a generator's passes one is its own update's
        self.tile = self.products.update_tile(learning)
        self._table: Tensor | None = None

    def with_own_inputs(self, count: int) -> list[FusedPasses]:
        """As many passes over these buffers, each with input rows and coefficients of its own; input rows in one matrix."""
        inputs = self.products.operand(count * self.all_rows, self.products.shapes[0][1])
        critic_passes = []
        for number in range(count):
            coefficient = torch.stack(self.coefficient)
            first = inputs[number * self.all_rows : (number + 1) * self.all_rows]
            own = {"inputs": [first, *self.inputs[1:]], "coefficient": list(coefficient.unbind())}
            critic_passes.append(self._like(self._count, self.buffers | own))
        return critic_passes

    def load(self, values: Tensor) -> None:
        """The input rows [rows, in] of this one pass."""
        self.products.load(self.inputs[0], values)

    def forward(self, masks_of: Callable[[int], MaskCounter], into: Sequence[FusedPasses] = ()) -> None:
        """Runs the chain; see Passes.forward."""
        products, dropped = self.products, itertools.count()
        last = len(products.layers) - 2
        for index, layer in enumerate(products.layers[:-1]):
            masks = masks_of(next(dropped)) if layer.dropout else None
            head = (
                (self.adjoints[last], self.buffers["partials"][0], self.all_rows) if self.is_critic and index == last else None
            )
            products.hidden(index, self.inputs[index + 1], self.inputs[index], masks, head)
        if not self.is_critic:
            copy = (into[0].inputs[0], self.rows, into[0].all_rows) if into else None
            products.output(self.buffers["output"], self.inputs[-1], copy)

    def loss_and_gradients(
        self,
        network: FlatNetwork,
        objective: Objective,
        world: World,
        *,
        real: bool,
        penalized: Collection[int] = (),
        of: slice = slice(None),
    ) -> UpdateResult:
        """The objective of the logits, and the adjoints of the passes `of` down to U_1; see Passes.loss_and_gradients."""
        assert objective.arguments is not None, "the mean of every objective has a kernel"
        record, products = network.update_log.begin(), self.products
        given = objective.arguments
        form, fake_target, real_target, scale, _ = given + DEFAULTS[len(given) - 1 :]
        parts, partials = products.parts(len(self) * self.rows), self.buffers["partials"]
        places = record, self.coefficient[BIAS], partials[0], parts, self.all_rows, products.biases[-1], self.rows
        flags = (int(0 in penalized), int(1 in penalized)) if real else (0, 0)
        block = min(1024, max(16, 1 << (self.rows - 1).bit_length()))
        loss = (*places, fake_target, real_target, scale, *flags), dict(FORM=form, REAL=real, LOSS_BLOCK=block)
        beside_adjoints = world.size == 1 and len(products.layers) > 2
        if world.size > 1:
            self._loss_of_all_processes(record, objective, world, real, flags, parts)
        elif not beside_adjoints:
            products.loss_and_gradients(*loss)
        self[of]._descend(len(products.layers) - 3, loss if beside_adjoints else None)
        return network.update_log.result()

    def _loss_of_all_processes(
        self, record: Tensor, objective: Objective, world: World, real: bool, penalized: tuple[int, int], parts: int
    ) -> None:
        """The objective of the logits of all processes."""
        logits = torch.stack(self.buffers["partials"][:parts]).sum(0) + self.products.biases[-1]
        loss_gradients = self.coefficient[BIAS]
        sides = [slice(number * self.rows, (number + 1) * self.rows) for number in range(1 + real)]
        fake = sides[-1]
        result = loss_and_gradients(
            logits[sides[0]] if real else None,
            logits[fake],
            loss_gradients[sides[0]] if real else None,
            loss_gradients[fake],
            objective,
            world,
        )
        record[VALUE].copy_(result.value)
        record[2:4].copy_(result.means)
        for side, is_penalized in zip(sides, penalized if real else penalized[1:], strict=True):
            for kind in (INPUT, OTHERS):
                self.coefficient[kind][side].copy_(
                    torch.ones_like(loss_gradients[side]) if is_penalized else loss_gradients[side]
                )

    def _descend(self, first: int, loss: tuple | None = None) -> None:
        for index in range(first, -1, -1):
            self.products.adjoint(index, self.adjoints[index], self.adjoints[index + 1], self.inputs[index + 1], loss)
            loss = None

    def adjoint_from(self, critic: FusedPasses) -> None:
        """From a critic's input gradient at this one pass's output; its rows are weighed by the critic's dLoss/dlogit."""
        output, activation = self.output[0], self.products.layers[-1].output
        loss_gradients = critic.coefficient[BIAS]
        given = dict(coefficient=loss_gradients, y=output, activation=activation)
        critic.products.input_gradient(self.adjoints[-1], critic.adjoints[0], "generator", **given)
        self._descend(len(self.products.layers) - 2)

    def add_penalties(
        self, penalties: Sequence[HasPenaltyGradient], network: FlatNetwork, result: UpdateResult, world: World
    ) -> None:
        """The tangents of penalties on this one pass's input gradient, and their values; see TrainingPasses.add_penalties."""
        forms = [penalty.form(penalty.every / world.size) for penalty in penalties]
        known = [form for form in forms if form is not None]
        if len(known) == len(forms) and all(form.squared for form in known):
            first, form = "square", known[0]._replace(weight=sum(form.weight for form in known))
        elif len(known) == len(forms) == 1 and self._first >= 2:  # at points of its own, where s is 0
            first, form = "norm", known[0]
        else:
            self._add_by_torch(penalties, network, world)
            return
        penalty_values = (
            network.update_log.penalty_values(self.rows) if world.size == 1 else torch.empty_like(self.coefficient[BIAS])
        )
        self._add_by_form(first, form, penalty_values)
        if world.size > 1:
            network.update_log.penalty_values(1).copy_(sum_(penalty_values.sum().view(1), world.size))

    def _add_by_form(self, first: str, form: PenaltyForm, penalty_values: Tensor) -> None:
        weight = form.weight / self.rows
        mode = dict(mode="square", factor=weight) if first == "square" else dict(mode="points")
        gradient, x = self.buffers["gradient"], self.inputs[0]
        self.products.input_gradient(gradient, self.adjoints[0], x=x, coefficient=self.coefficient[BIAS], **mode)
        self._tangents(gradient, first, penalty_values, (weight, form.target, form.one_sided))

    def _add_by_torch(self, penalties: Sequence[HasPenaltyGradient], network: FlatNetwork, world: World) -> None:
        """Penalties that are no kernel's: their own derivative, and what weight gradients take of the input, by torch."""
        self.products.input_gradient(self.buffers["gradient"], self.adjoints[0], mode="plain")
        x, width = self.inputs[0], self.products.shapes[0][1]
        gradient = self.buffers["gradient"][:, :width]
        pairs = [penalty.penalty_gradient(gradient.contiguous(), penalty.every / world.size) for penalty in penalties]
        gradient.copy_(torch.stack([penalty_gradient for _, penalty_gradient in pairs]).sum(0))
        x[:, :width] = gradient.addcmul(x[:, :width].float(), self.coefficient[BIAS].unsqueeze(1)).to(x.dtype)
        self.coefficient[INPUT].fill_(1.0)
        penalty_value = torch.stack([penalty_value for penalty_value, _ in pairs]).sum().view(1)
        network.update_log.penalty_values(1).copy_(sum_(penalty_value, world.size))
        self._tangents(self.buffers["gradient"], "tangent", None, (0.0, 0.0, False))

    def _tangents(self, x: Tensor, first: str, penalty_values: Tensor | None, form: tuple[float, float, bool]) -> None:
        coefficient, activations = self.coefficient[BIAS], self.inputs[1:]
        for index, made in enumerate(activations):
            out = self.buffers["tangents"][index]
            self.products.tangent(index, out, x, made, coefficient, self.all_rows, first, penalty_values, form)
            x, first = out, ""

    def update(self, network: FlatNetwork, result: UpdateResult, step: int | Tensor, world: World = ALONE) -> None:
        """One optimizer step of the network whose layers these are."""
        network.set_rate(step)
        products, update_log, optimizer = self.products, network.update_log, _optimizer_args(network)
        if self._table is None:  # made once for each part
            self._table = products.update_table(self.tile, self.adjoints, self.inputs, network.weight)
        operands = self._table, self.coefficient[BIAS], self.all_rows, len(self) * self.rows, self.tile, update_log.flags
        if world.size == 1 and self.tile.splits == 1:
            products.update(optimizer, *operands, update_log.location())
            return
        gradients = network.gradient.unsqueeze(0)
        if world.size == 1:
            gradients = products.parts_of(network.weight.numel(), self.tile.splits)
        location = update_log.location()
        products.update(optimizer, *operands, location, gradients)
        step_(products.launch, optimizer, sum_(gradients, world.size), location, update_log.flags)
        products.refresh()

    def flush(self, network: FlatNetwork, counter: int | Tensor) -> None:
        """Counts what updates did, and shows the last one's result."""
        network.update_log.flush()


def _optimizer_args(network: FlatNetwork) -> OptimizerArgs:
    rule: dict[str, Any] = dict(rule=network.spec.rule, options=network.options, clip=network.clip)
    ema: dict[str, Any] = dict(ema=network.ema, ema_decay=network.ema_decay or 0.0)
    return optimizer_args(network.weight, network.state, network.lr, network.count, **rule, **ema)
