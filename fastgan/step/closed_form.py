"""The alternating update in closed form, for networks that are chains of linear layers: no graph, no double backward.

For a critic with slopes m_l and activations A_l, s = dLoss/dlogit and v = dPenalty/dg at every row (docs/closed-form-step.md):

    forward    A_l = m_l * (A_{l-1} W_l^T + b_l)
    adjoint    U_L = 1,  U_l = m_l * (U_{l+1} W_{l+1}),  g = U_1 W_1
    tangent    T_0 = v,  T_l = m_l * (T_{l-1} W_l^T)
    update     dW_l = U_l^T (s * A_{l-1} + T_{l-1}),  db_l = sum of s * U_l

A row whose g nobody asks for starts its adjoint from s instead of 1, and its A_{l-1} then has the coefficient 1 instead of s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from ..chain import Passes, read_layers
from ..distributed import all_rows, sum_
from ..hardware import matmul_precision
from ..ops import linear
from ..ops import loss as loss_ops
from ..ops.dense import Layer
from ..ops.sample import Draws, Role, masks
from ..penalties import Penalty
from ..recognition import NotAnMLP, recognise
from .game import FAKE, GENERATOR, LEARNING, MAKING, REAL, Game, Metrics

Parts = dict[str, Callable[[], Tensor]]
POINTS = 2  # after the real and the fake rows' passes over the critic, those of the penalties with points of their own


class NoClosedForm(ValueError):
    """A game that only autograd plays; the message says why."""


def _chain(module: nn.Module) -> list[Layer]:
    try:
        return read_layers(recognise(module).layers)
    except NotAnMLP as reason:
        raise NoClosedForm(str(reason)) from None


class ClosedFormStep:
    """d_steps discriminator updates, then one of the generator, on buffers that are made once."""

    name = "closed-form"

    def __init__(self, game: Game, *, read_logits: bool) -> None:
        self.game, self.read_logits = game, read_logits
        self.networks = [game.generator, game.discriminator]
        self._check_game()
        self._read_networks()

    def _check_game(self) -> None:
        if self.game.precision == "fp16":
            raise NoClosedForm("fp16 needs a loss scale")
        for penalty in self.game.penalties:
            if type(penalty).push is Penalty.push:
                raise NoClosedForm(f"{type(penalty).__name__} does not define its push")

    def _read_networks(self) -> None:
        generator, critic = (_chain(network.module) for network in self.networks)
        if critic[-1].weight.shape[0] != 1:
            raise NoClosedForm(f"the discriminator has {critic[-1].weight.shape[0]} outputs, not one")
        self.sigmoid = critic[-1].output == "sigmoid"
        if critic[-1].output != "identity" and not (self.sigmoid and self.read_logits):
            raise NoClosedForm(f"{self.game.loss} is not computed on the logits before the discriminator's {critic[-1].output}")
        critic[-1] = critic[-1]._replace(output="identity")
        self.parameters = [network.parameters for network in self.networks]
        self.products = [linear.products(layers, self.game.precision) for layers in (generator, critic)]
        self.versions = [network.version() for network in self.networks]
        self.rows = 0

    def __call__(self, images: Tensor, step: int, rows: int) -> Metrics:
        """Runs one step on `rows` rows of this process; images [N, ...] on the game's device."""
        self._follow_networks()
        if rows != self.rows:
            self._make_buffers(rows)
        metrics: Parts = {}
        with matmul_precision(self.game.precision):
            fake = self._generate(step)
            for d_step in range(self.game.d_steps):
                metrics = self._update_discriminator(images, step, d_step, fake[d_step])
            metrics |= self._update_generator(step, fake[-1])
        return Metrics(metrics)

    def find_ends(self, latents: Tensor, samples: Tensor, read_logits: bool) -> bool:
        """Whether steps read the logits before a Sigmoid."""
        return self.sigmoid

    def state_dict(self) -> dict[str, Tensor]:
        """What the step keeps besides the networks: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to load."""

    def _follow_networks(self) -> None:
        """Sees weights that somebody has changed since the last step, by loading others, and parameters that were replaced."""
        if any(network.parameters is not ours for network, ours in zip(self.networks, self.parameters, strict=True)):
            self._read_networks()
        for number, network in enumerate(self.networks):
            if (version := network.version()) != self.versions[number]:
                self.products[number].refresh()
                self.versions[number] = version

    def _make_buffers(self, rows: int) -> None:
        points = sum(spec.at is None for spec in self.game.penalties)
        self.generator = Passes(self.products[0], self.game.d_steps + 1, rows)
        self.critic = Passes(self.products[1], POINTS + points, rows)
        self.real = self.critic.output.new_empty(rows, self.critic.gradient.shape[-1])
        self.zero = self.critic.output.new_zeros(())
        self.constants: tuple[int, ...] = ()  # what the critic's seeds and coefficients are filled for
        self.rows = rows

    def _generate(self, step: int) -> Tensor:
        """Fake rows for all updates of a step, [d_steps + 1, rows, features]; the weights do not change between them."""
        game, drawn = self.game, []
        for update in range(game.d_steps + 1):
            last = update == game.d_steps
            draws = game.draws(step, min(update, game.d_steps - 1), self.rows)
            role = Role.GENERATOR_LATENT if last else Role.LATENT
            self.generator[update : update + 1].load(draws.latents(self.rows, self.generator.gradient.shape[-1], role))
            drawn.append((draws, LEARNING if last else MAKING))
        return self.generator.forward(partial(masks, drawn))

    def _update_discriminator(self, images: Tensor, step: int, d_step: int, fake: Tensor) -> Parts:
        game, draws = self.game, self.game.draws(step, d_step, self.rows)
        real = game.real_rows(images, step, d_step, self.rows, out=self.real)
        passes, rows, priced = self._arrange(real, fake, draws, game.due_penalties(step, d_step))
        critic = self.critic[: len(passes)]
        for number, values in enumerate(rows):
            critic[number : number + 1].load(values)
        logits = critic.forward(partial(masks, [(draws, number) for number in passes]))
        objective = loss_ops.d_objective(game.loss)
        real_slope, fake_slope = self._slope_places(critic, priced)
        value, means = self._slopes(logits[REAL], logits[FAKE], real_slope, fake_slope, objective)
        critic.adjoint()
        penalty = self._push(critic, rows, priced) if priced else self.zero
        statistics = critic.update(game.discriminator, doubt := means + penalty, step, game.world)
        game.note(doubt, statistics)
        return {
            "d_loss": lambda: value + penalty,
            "d_real": lambda: means[0],
            "d_fake": lambda: means[1],
            "penalty": lambda: penalty,
            "d_grad_norm": lambda: statistics[0].sqrt(),
        }

    def _arrange(
        self, real: Tensor, fake: Tensor, draws: Draws, due: list[tuple[int, Penalty]]
    ) -> tuple[list[int], list[Tensor], dict[int, list[Penalty]]]:
        """A discriminator update's passes over the critic: their numbers, their rows, and the penalties on some of them."""
        passes, rows = [REAL, FAKE], [real, fake]
        priced: dict[int, list[Penalty]] = {}
        for number, spec in due:
            place = self.game.place(number, spec)
            if spec.at is None:
                passes.append(place)
                rows.append(spec.points(real, fake, draws, number))
            priced.setdefault(passes.index(place), []).append(spec)
        return passes, rows, priced

    def _slope_places(self, critic: Passes, priced: Iterable[int]) -> list[Tensor]:
        """Where s goes: where g is asked for, U_L = 1 and A has the coefficient s, which is 0 at a penalty's own points."""
        if (constants := (len(critic), *priced)) != self.constants:
            for number in range(len(critic)):
                (critic.seed if number in priced else critic.coefficient)[number].fill_(1.0)
            for points in critic.coefficient[POINTS:]:
                points.fill_(0.0)
            self.constants = constants
        return [(critic.coefficient if number in priced else critic.seed)[number] for number in (REAL, FAKE)]

    def _slopes(
        self, real: Tensor | None, fake: Tensor, real_slope: Tensor | None, fake_slope: Tensor, objective: loss_ops.Objective
    ) -> tuple[Tensor, Tensor]:
        """The objective of all processes' logits; writes the slopes of this one's rows."""
        world = self.game.world
        if world.size == 1:
            return loss_ops.slopes_(real, fake, real_slope, fake_slope, objective)
        all_real, all_fake = (None if x is None else all_rows(x.flatten().clone(), world) for x in (real, fake))
        assert all_fake is not None
        all_real_slope = None if all_real is None else torch.empty_like(all_real)
        all_fake_slope = torch.empty_like(all_fake)
        value, means = loss_ops.slopes_(all_real, all_fake, all_real_slope, all_fake_slope, objective)
        own = slice(world.rank * self.rows, (world.rank + 1) * self.rows)
        fake_slope.copy_(all_fake_slope[own])
        if real_slope is not None and all_real_slope is not None:
            real_slope.copy_(all_real_slope[own])
        return value, means

    def _push(self, critic: Passes, rows: list[Tensor], priced: dict[int, list[Penalty]]) -> Tensor:
        """The penalties' price; leaves their tangents in the critic's passes."""
        size, total = self.game.world.size, self.zero
        for number, penalties in priced.items():
            at = critic[number : number + 1]
            gradient = at.input_gradient()[0]
            prices, pushes = zip(*(penalty.push(gradient, penalty.every / size) for penalty in penalties), strict=True)
            total = total + sum(prices)
            at.tangent(sum(pushes[1:], pushes[0]), rows[number])
        return sum_(total, size)

    def _update_generator(self, step: int, fake: Tensor) -> Parts:
        game, last = self.game, self.game.d_steps - 1
        draws = game.draws(step, last, self.rows)
        relativistic = game.loss in loss_ops.RELATIVISTIC_KINDS
        critic, judged = self.critic[FAKE : FAKE + 1], [(draws, GENERATOR)]
        critic.load(fake)
        if relativistic:
            self.critic[REAL : REAL + 1].load(self.real)
            logits = self.critic[:POINTS].forward(partial(masks, [(draws, REAL), *judged]))
        else:
            logits = critic.forward(partial(masks, judged))
        real_logits, real_slope = (logits[0], torch.empty_like(critic.seed[0])) if relativistic else (None, None)
        objective = loss_ops.g_objective(game.loss)
        value, means = self._slopes(real_logits, logits[-1], real_slope, critic.seed[0], objective)
        if FAKE in self.constants[1:]:
            self.constants = ()  # ones were overwritten
        critic.adjoint()
        generator = self.generator[last + 1 :]
        generator.adjoint_from(critic.input_gradient()[0])
        statistics = generator.update(game.generator, means, step, game.world)
        game.note(means, statistics)
        return {"g_loss": lambda: value, "g_grad_norm": lambda: statistics[0].sqrt()}
