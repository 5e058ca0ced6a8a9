"""The alternating update in closed form, for networks that are chains of linear layers: no graph, no double backward.

For a critic with activation slopes m_l and activations A_l, s = dLoss/dlogit and v = dPenalty/dg at every row
(docs/closed-form-step.md):

    forward    A_l = m_l * (A_{l-1} W_l^T + b_l)
    adjoint    U_L = 1,  U_l = m_l * (U_{l+1} W_{l+1}),  g = U_1 W_1
    tangent    T_0 = v,  T_l = m_l * (T_{l-1} W_l^T)
    update     dW_l = U_l^T (s * A_{l-1} + T_{l-1}),  db_l = sum of s * U_l

A row whose g nobody asks for starts its adjoint from s instead of 1, and its A_{l-1} then has the coefficient 1 instead of s.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...chain.packed import PackedProducts
from ...chain.passes import read_layers
from ...chain.products import Products, fused_products
from ...chain.products import products as products_of
from ...chain.recognition import NotAnMLP, read, recognise
from ...chain.triton_tiles import TritonProducts
from ...ops.linear import Layer
from ...ops.objective import d_objective, g_objective
from ...ops.sample import masks
from ...penalties import Penalty
from ...runtime.precision import matmul_precision
from ..flat_network import FlatNetwork
from ..game import FAKE, FOR_CRITIC, GENERATOR, OWN_UPDATE, REAL, Game, Metrics, StepIndex
from .fused_passes import FusedPasses
from .fused_update import FusedUpdate
from .inputs import FusedInputLoader, HostInputLoader, InputLoader
from .result import UpdateResult
from .update import HostPasses, TrainingPasses
from .update_log import HostUpdateLog

POINTS = 2  # after the real and the fake rows' passes over the critic, those of the penalties with points of their own


class NoClosedForm(ValueError):
    """A game that only autograd plays; the message says why."""


def _chain(module: nn.Module) -> list[Layer]:
    try:
        return read_layers(recognise(module).layers)
    except NotAnMLP as reason:
        raise NoClosedForm(str(reason)) from None


def _has_hooks(network: FlatNetwork) -> bool:
    return any([p._backward_hooks or p._post_accumulate_grad_hooks for p in network.parameters])


class ClosedFormStep:
    """d_steps discriminator updates, then one of the generator, on buffers that are made once.

    read_logits: whether the logits before a critic's last Sigmoid are what its loss reads; make_products, make_update: of the
    parts that launch kernels.
    """

    name = "closed-form"
    foreign = False  # what it recognises draws by counters

    def __init__(
        self,
        game: Game,
        *,
        read_logits: bool,
        make_products: Callable[[Sequence[Layer], str], TritonProducts | None] = fused_products,
        make_update: Callable[[TritonProducts, int], FusedUpdate] = FusedUpdate,
    ) -> None:
        self.game, self.read_logits = game, read_logits
        self.make_products, self.make_update = make_products, make_update
        self.generation = 0
        self.networks = [game.generator, game.discriminator]
        self._check_game()
        self._read_networks()

    def _check_game(self) -> None:
        if self.game.precision == "fp16":
            raise NoClosedForm("fp16 needs a loss scale")
        for penalty in self.game.penalties:
            if not penalty.has_penalty_gradient():
                raise NoClosedForm(f"{type(penalty).__name__} does not define its penalty_gradient")

    def _read_networks(self) -> None:
        with self.game.training_mode():
            generator, critic = (_chain(network.module) for network in self.networks)
            self.readings = [read(network.module) for network in self.networks]
        if critic[-1].weight.shape[0] != 1:
            raise NoClosedForm(f"the discriminator has {critic[-1].weight.shape[0]} outputs, not one")
        self.sigmoid = critic[-1].output == "sigmoid"
        if critic[-1].output != "identity" and not (self.sigmoid and self.read_logits):
            raise NoClosedForm(f"{self.game.loss} is not computed on the logits before the discriminator's {critic[-1].output}")
        critic[-1] = critic[-1]._replace(output="identity")
        self.parameters = [network.parameters for network in self.networks]
        self.chains = chains = (generator, critic)
        fused = [products for layers in chains if (products := self.make_products(layers, self.game.precision))]
        self.fused = fused if len(fused) == len(chains) else None  # else one of them is a single layer
        self.unfused = [] if self.fused else [products_of(layers, self.game.precision) for layers in chains]
        self.products: Sequence[Products[Any] | TritonProducts] = self.fused or self.unfused
        self.versions = [network.version() for network in self.networks]
        self.rows = 0
        self.generation += 1

    @property
    def instruction_set(self) -> str | None:
        """See Engine."""
        first = self.products[0]
        return first.instruction_set.name if isinstance(first, PackedProducts) else None

    def __call__(self, images: Tensor, index: StepIndex, rows: int) -> Metrics:
        """Runs one step on `rows` rows of this process; images [N, ...] on the game's device."""
        self.follow_networks()
        if rows != self.rows:
            self._make_buffers(rows)
        index = self.inputs.on_device(index)
        with matmul_precision(self.game.precision):
            self._load_inputs(images, index)
            for d_step in range(self.game.d_steps):
                d_result = self._update_discriminator(index, d_step)
            g_result = self._update_generator(index)
            if index.last:
                self.critic.log.flush(index.counter)
                self.generator.log.flush(index.counter)
        return _metrics(d_result, g_result)

    def find_ends(self, latents: Tensor, samples: Tensor, read_logits: bool) -> bool:
        """Whether steps read the logits before a Sigmoid.

        Raises NoClosedForm where a network's views fold a row of these into several, or several into one.
        """
        made, read = ((layers[0].weight.shape[1], layers[-1].weight.shape[0]) for layers in self.chains)
        for role, what, width, rows in (
            ("generator", "takes", made[0], latents),
            ("generator", "makes", made[1], samples),
            ("discriminator", "takes", read[0], samples),
        ):
            if rows[0].numel() != width:
                raise NoClosedForm(f"the {role} {what} rows of {width} numbers, and is given rows of {rows[0].numel()}")
        return self.sigmoid

    def find_draws(self, samples: Tensor) -> None:
        """Nothing to find: what it recognises draws by counters."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the step keeps besides the networks: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to load."""

    def follow_networks(self) -> None:
        """Sees what somebody has changed since the last step: weights, parameters, and what a network computes of them.

        Raises NoClosedForm where it is no chain any more.
        """
        if not self._are_as_read():
            self._read_networks()
        for number, network in enumerate(self.networks):
            if (version := network.version()) != self.versions[number]:
                self.products[number].refresh()
                self.versions[number] = version

    def _are_as_read(self) -> bool:
        same = all(map(operator.is_, (network.parameters for network in self.networks), self.parameters))
        with self.game.training_mode():
            holds = [reading.holds(network.module) for network, reading in zip(self.networks, self.readings, strict=True)]
        return same and all(holds) and not any(map(_has_hooks, self.networks))

    def _make_buffers(self, rows: int) -> None:
        game = self.game
        counts = game.d_steps + 1, POINTS + sum(spec.at is None for spec in game.penalties)
        self.generator: TrainingPasses
        self.critic: TrainingPasses
        self.critic_passes: Sequence[TrainingPasses]
        self.inputs: InputLoader
        if self.fused:
            (g_products, d_products), allocate = self.fused, partial(FusedPasses.allocate, make_update=self.make_update)
            generator = allocate(g_products, game.generator, counts[0], rows, game.world, is_critic=False)
            critic = allocate(d_products, game.discriminator, counts[1], rows, game.world, is_critic=True)
            fused_passes = critic.for_updates(game.d_steps, generator)
            self.inputs = FusedInputLoader(game, generator, fused_passes, rows)
            self.generator, self.critic, self.critic_passes = generator, critic, fused_passes
        else:
            g, d = (self._host_passes(number, count, rows) for number, count in enumerate(counts))
            passes = d.for_updates(game.d_steps, g)
            self.inputs = HostInputLoader(game, g, passes, rows)
            self.generator, self.critic, self.critic_passes = g, d, passes
        self.rows = rows
        self.reserve(1)
        self.generation += 1

    def _host_passes(self, number: int, count: int, rows: int) -> HostPasses:
        products, log = self.unfused[number], HostUpdateLog(self.networks[number], self.game.world)
        return HostPasses(products, rows, HostPasses.allocate(products, count, rows), count, log)

    def reserve(self, steps: int) -> None:
        """Allocates the update logs of so many steps between two flushes."""
        self.critic.log.reserve(steps * self.game.d_steps)
        self.generator.log.reserve(steps)

    def _load_inputs(self, images: Tensor, index: StepIndex) -> None:
        """All rows of a step, the generator's among them: its weights do not change between the discriminator's updates."""
        game, last = self.game, self.game.d_steps
        self.draws = [game.draws(index, min(update, last - 1), self.rows) for update in range(last + 1)]
        self.inputs.latents(self.draws)
        self.inputs.real(images, index)
        drawn = [(draws, OWN_UPDATE if update == last else FOR_CRITIC) for update, draws in enumerate(self.draws)]
        self.generator.forward(partial(masks, drawn), [passes[FAKE : FAKE + 1] for passes in self.critic_passes])
        self.inputs.points(images, self.draws, index)

    def _update_discriminator(self, index: StepIndex, d_step: int) -> UpdateResult:
        passes, penalized = self._arrange(index, d_step)
        critic = self.critic_passes[d_step][: len(passes)]
        critic.forward(partial(masks, [(self.draws[d_step], number) for number in passes]))
        result = critic.loss_and_gradients(d_objective(self.game.loss), real=True, penalized=penalized)
        for number, penalties in penalized.items():
            critic[number : number + 1].add_penalties(penalties, result)
        critic.update(result, index.counter)
        return result

    def _arrange(self, index: StepIndex, d_step: int) -> tuple[list[int], dict[int, list[Penalty]]]:
        """A discriminator update's passes over the critic: their numbers, and the penalties on some of them."""
        passes = [REAL, FAKE]
        penalized: dict[int, list[Penalty]] = {}
        for number, spec in self.game.due_penalties(index, d_step):
            place = self.game.pass_of(number, spec)
            if spec.at is None:
                passes.append(place)
            penalized.setdefault(passes.index(place), []).append(spec)
        return passes, penalized

    def _update_generator(self, index: StepIndex) -> UpdateResult:
        game, last = self.game, self.game.d_steps
        first = REAL if game.relativistic else FAKE
        passes = [(self.draws[last], REAL), (self.draws[last], GENERATOR)][first:]
        critic, fake = self.critic_passes[last][first:POINTS], slice(FAKE - first, POINTS - first)
        critic.forward(partial(masks, passes))
        result = critic.loss_and_gradients(g_objective(game.loss), real=game.relativistic, of=fake)
        generator = self.generator[last:]
        generator.adjoint_from(critic[fake])
        generator.update(result, index.counter)
        return result


def _metrics(d: UpdateResult, g: UpdateResult) -> Metrics:
    return Metrics(
        {
            "d_loss": lambda: d.value + d.penalty_value(),
            "d_real": lambda: d.means[0],
            "d_fake": lambda: d.means[1],
            "penalty": d.penalty_value,
            "d_grad_norm": d.norm,
            "g_loss": lambda: g.value,
            "g_grad_norm": g.norm,
        }
    )
