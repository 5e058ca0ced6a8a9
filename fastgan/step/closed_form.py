"""The alternating update in closed form, for networks that are chains of linear layers: no graph, no double backward.

For a critic with slopes m_l and activations A_l, s = dLoss/dlogit and v = dPenalty/dg at every row (docs/closed-form-step.md):

    forward    A_l = m_l * (A_{l-1} W_l^T + b_l)
    adjoint    U_L = 1,  U_l = m_l * (U_{l+1} W_{l+1}),  g = U_1 W_1
    tangent    T_0 = v,  T_l = m_l * (T_{l-1} W_l^T)
    update     dW_l = U_l^T (s * A_{l-1} + T_{l-1}),  db_l = sum of s * U_l

A row whose g nobody asks for starts its adjoint from s instead of 1, and its A_{l-1} then has the coefficient 1 instead of s.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from ..chain import Passes, read_layers
from ..distributed import all_rows, sum_
from ..flat import FlatNetwork
from ..hardware import matmul_precision
from ..ops import linear
from ..ops import loss as loss_ops
from ..ops.sample import Role, masks
from ..penalties import Penalty
from ..recognition import NotAnMLP, recognise
from .game import FAKE, GENERATOR, LEARNING, MAKING, REAL, Game

POINTS = 2  # after the real and the fake rows' passes over the critic, those of the penalties with points of their own


class NoClosedForm(ValueError):
    """A game that only autograd plays; the message says why."""


def _chain(module: nn.Module) -> list[linear.Layer]:
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
        self.versions = [-1, -1]
        self.rows = 0

    def __call__(self, images: Tensor, step: int, rows: int) -> dict[str, Tensor]:
        """Runs one step on `rows` rows of this process; images [N, ...] on the game's device. Metrics as 0-d tensors."""
        self._follow_networks()
        if rows != self.rows:
            self._make_buffers(rows)
        metrics: dict[str, Tensor] = {}
        with matmul_precision(self.game.precision):
            fake = self._generate(step)
            for d_step in range(self.game.d_steps):
                metrics = self._update_discriminator(images, step, d_step, fake[d_step])
            metrics |= self._update_generator(step, fake[-1])
        self.versions = [network.version() for network in self.networks]
        return metrics

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
        for products, network, version in zip(self.products, self.networks, self.versions, strict=True):
            if network.version() != version:
                products.refresh()

    def _make_buffers(self, rows: int) -> None:
        points = sum(spec.at is None for spec in self.game.penalties)
        self.generator = Passes(self.products[0], self.game.d_steps + 1, rows)
        self.critic = Passes(self.products[1], POINTS + points, rows)
        self.rows = rows

    def _generate(self, step: int) -> Tensor:
        """Fake rows for all updates of a step, [d_steps + 1, rows, features]; the weights do not change between them."""
        game, drawn = self.game, []
        for update in range(game.d_steps + 1):
            last = update == game.d_steps
            draws = game.draws(step, min(update, game.d_steps - 1), self.rows)
            role = Role.GENERATOR_LATENT if last else Role.LATENT
            self.generator[update : update + 1].load(game.latents(draws, self.rows, role).flatten(1))
            drawn.append((draws, LEARNING if last else MAKING))
        return self.generator.forward(partial(masks, drawn))

    def _update_discriminator(self, images: Tensor, step: int, d_step: int, fake: Tensor) -> dict[str, Tensor]:
        game, draws = self.game, self.game.draws(step, d_step, self.rows)
        self.real = real = game.real_rows(images, step, d_step, self.rows)
        rows, passes = [real, fake], [REAL, FAKE]
        priced: dict[int, list[Penalty]] = {}
        for number, spec in game.due_penalties(step, d_step):
            place = game.place(number, spec)
            if spec.at is None:
                passes.append(place)
                rows.append(spec.points(real, fake, draws, number))
            priced.setdefault(passes.index(place), []).append(spec)
        critic = self.critic[: len(passes)]
        for number, values in enumerate(rows):
            critic[number : number + 1].load(values)
        logits = critic.forward(partial(masks, [(draws, number) for number in passes]))
        slopes = self._slopes(logits[REAL], logits[FAKE], loss_ops.d_objective(game.loss))
        self._seed(critic, slopes, set(priced))
        critic.adjoint()
        penalty = self._push(critic, rows, priced)
        statistics = self._update(critic, game.discriminator, slopes.means.sum() + penalty, step)
        return {
            "d_loss": slopes.value + penalty,
            "d_real": slopes.means[0],
            "d_fake": slopes.means[1],
            "penalty": penalty,
            "d_grad_norm": statistics[0].sqrt(),
        }

    def _update(self, passes: Passes, network: FlatNetwork, doubt: Tensor, step: int) -> Tensor:
        """The optimizer's step, withheld where a number is not finite that all others went into."""
        withhold = (doubt - doubt) != 0.0  # nan for nan and for inf
        statistics = passes.update(network, withhold, step, self.game.world)
        self.game.skipped += withhold + statistics[1].long()
        return statistics

    def _slopes(self, real: Tensor | None, fake: Tensor, objective: loss_ops.Objective) -> loss_ops.Slopes:
        """The objective of all processes' logits, with the slopes of this one's rows."""
        world = self.game.world
        if world.size == 1:
            return loss_ops.with_slopes(real, fake, objective)
        everyones_real = None if real is None else all_rows(real.clone(), world)
        slopes = loss_ops.with_slopes(everyones_real, all_rows(fake.clone(), world), objective)
        own = slice(world.rank * self.rows, (world.rank + 1) * self.rows)
        return slopes._replace(real=None if slopes.real is None else slopes.real[own], fake=slopes.fake[own])

    @staticmethod
    def _seed(critic: Passes, slopes: loss_ops.Slopes, priced: set[int]) -> None:
        """Where g is asked for, U_L = 1 and A has the coefficient s, which is 0 at points of the penalties' own."""
        for number in range(len(critic)):
            slope = {REAL: slopes.real, FAKE: slopes.fake}.get(number)
            ones, other = (critic.seed, critic.coefficient) if number in priced else (critic.coefficient, critic.seed)
            ones[number] = 1.0
            other[number] = 0.0 if slope is None else slope.flatten()

    def _push(self, critic: Passes, rows: list[Tensor], priced: dict[int, list[Penalty]]) -> Tensor:
        """The penalties' price; leaves their tangents in the critic's passes."""
        size, total = self.game.world.size, critic.seed.new_zeros(())
        for number, penalties in priced.items():
            at = critic[number : number + 1]
            gradient = at.input_gradient()[0]
            prices, pushes = zip(*(penalty.push(gradient, penalty.every / size) for penalty in penalties), strict=True)
            total = total + sum(prices)
            at.tangent(sum(pushes[1:], pushes[0]), rows[number])
        return sum_(total, size)

    def _update_generator(self, step: int, fake: Tensor) -> dict[str, Tensor]:
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
        slopes = self._slopes(logits[0] if relativistic else None, logits[-1], loss_ops.g_objective(game.loss))
        critic.seed[0] = slopes.fake.flatten()
        critic.adjoint()
        generator = self.generator[last + 1 :]
        generator.adjoint_from(critic.input_gradient()[0])
        doubt = slopes.means.sum() if relativistic else slopes.means[1]
        statistics = self._update(generator, game.generator, doubt, step)
        return {"g_loss": slopes.value, "g_grad_norm": statistics[0].sqrt()}
