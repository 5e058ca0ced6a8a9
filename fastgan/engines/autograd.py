"""The alternating update by autograd, for any pair of modules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from .. import losses
from ..layers import drawing
from ..ops import loss as loss_ops
from ..ops.sample import Draws, Role
from ..runtime import second_order
from ..runtime.distributed import all_rows, sum_
from ..runtime.input_gradient import input_gradient
from ..runtime.precision import matmul_precision
from ..runtime.randomness import OwnDraws, is_compiled, seeded
from .buffers import KeptBuffers
from .ends import SIGMOID, TANH, End, look, returns_probabilities
from .flat_network import FlatNetwork
from .game import FAKE, FOR_CRITIC, GENERATOR, OWN_UPDATE, REAL, Game, StepIndex, at, mix

log = logging.getLogger("fastgan")

ROLES = ("discriminator", "generator")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NoGradient(ValueError):
    """A network's loss does not depend on its parameters."""


class LossScale:
    """fp16's dynamic loss scale, decided on the device (torch.amp.GradScaler's rule, without its host synchronisation).

    It stays between LEAST and MOST: an overflow at the least scale is one that none mends.
    """

    LEAST, MOST = 2.0**-32, 2.0**64

    def __init__(self, device: torch.device, dtype: torch.dtype, *, growth_interval: int = 2000) -> None:
        self.scale = torch.full((), 65536.0, device=device)
        self.clean_updates = torch.zeros((), dtype=torch.int32, device=device)
        self.growth_interval = growth_interval
        self.dtype = dtype

    def unscale_(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Divides a flat gradient by the scale, which follows.

        Returns whether anything overflowed, and whether it did so at the least scale: 0-d bool.
        """
        overflow = ~gradient.isfinite().all()
        final = overflow & ~(self.scale > self.LEAST)
        gradient.div_(self.scale)
        torch._amp_update_scale_(self.scale, self.clean_updates, overflow.float(), 2.0, 0.5, self.growth_interval)
        self.scale.clamp_(self.LEAST, self.MOST)
        return overflow, final


def _draws_by_counters(network: nn.Module) -> bool:
    """Whether all of a network is fastgan's own, whose draws are no business of torch's generator."""
    return all(type(part).__module__.startswith(("fastgan.", "torch.nn.modules.container")) for part in network.modules())


class AutogradStep:
    """d_steps discriminator updates, then one of the generator; real and fake rows pass the critic separately.

    A Sigmoid at the critic's end is read as logits and a Tanh at the generator's end runs in fp32, for as long as a step runs.
    """

    name = "autograd"
    instruction_set = None

    def __init__(self, game: Game) -> None:
        self.game = game
        self.foreign = not all(map(_draws_by_counters, (game.generator.module, game.discriminator.module)))
        self.own_draws: OwnDraws | None = None  # where something was seen to draw from torch's generator
        self._drawing: OwnDraws | None = None  # the same while an update runs that is not captured
        self.generation = 0
        self.sigmoid: End | None = None
        self.tanh: End | None = None
        half = game.precision == "fp16"
        self.scales = [LossScale(game.device, game.dtype) for _ in range(2)] if half else None

    def __call__(self, images: Tensor, index: StepIndex, rows: int) -> dict[str, Tensor]:
        """Runs one step on `rows` rows of this process; images [N, ...] on the game's device. Metrics as 0-d tensors."""
        with self._modes(), self.game.training_mode(), self._ends(), matmul_precision(self.game.precision):
            metrics: dict[str, Tensor] = {}
            for d_step in range(self.game.d_steps):
                metrics = self._update_discriminator(images, index, d_step, rows)
            metrics |= self._update_generator(images, index, rows)
        if isinstance(index.counter, Tensor) and index.last:
            for network in (self.game.generator, self.game.discriminator):
                network.count_skipped()
        return metrics

    @contextmanager
    def _modes(self) -> Iterator[None]:
        """A step is the same one whatever modes of torch its caller is in."""
        device = self.game.device.type
        autocast = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), autocast:
            yield

    def _update_discriminator(self, images: Tensor, index: StepIndex, d_step: int, rows: int) -> dict[str, Tensor]:
        game, draws, buffers = self.game, self.game.draws(index, d_step, rows), self._kept_buffers()
        with self._randomness(index, d_step):
            with self._arithmetic():
                with torch.no_grad():
                    fake = self._generate(game.latents(draws, rows), draws, FOR_CRITIC)
                real = game.real_rows(images, index, d_step, rows).view_as(fake)
                real_logits = self._critic_logits(real, draws, REAL)
                fake_logits = self._critic_logits(fake, draws, FAKE)
            loss = losses.d_loss(real_logits, fake_logits, game.loss)
            penalty = self._penalty(real, fake, draws, index, d_step) / game.world.size
            gradients = self._gradients(loss + penalty, game.discriminator, 0)
        penalty = sum_(penalty.detach().clone(), game.world.size)
        finite = real_logits.isfinite().all() & fake_logits.isfinite().all() & penalty.isfinite()
        buffers.restore(~finite)
        norm = self._apply(game.discriminator, gradients, ~finite, index, 0)
        return {
            "d_loss": loss.detach() + penalty,
            "d_real": real_logits.detach().mean(),
            "d_fake": fake_logits.detach().mean(),
            "penalty": penalty,
            "d_grad_norm": norm,
        }

    def _update_generator(self, images: Tensor, index: StepIndex, rows: int) -> dict[str, Tensor]:
        game, last = self.game, self.game.d_steps - 1
        draws, buffers = game.draws(index, last, rows), self._kept_buffers()
        with self._randomness(index, game.d_steps):
            with self._arithmetic():
                fake = self._generate(game.latents(draws, rows, Role.GENERATOR_LATENT), draws, OWN_UPDATE)
                fake_logits = self._critic_logits(fake, draws, GENERATOR)
                real_logits = None
                if game.loss in loss_ops.RELATIVISTIC_KINDS:
                    with torch.no_grad():
                        real_logits = self._critic_logits(game.real_rows(images, index, last, rows).view_as(fake), draws, REAL)
            loss = losses.g_loss(fake_logits, real_logits, game.loss)
            gradients = self._gradients(loss, game.generator, 1)
        finite = fake_logits.isfinite().all()
        if real_logits is not None:
            finite = finite & real_logits.isfinite().all()
        buffers.restore(~finite)
        norm = self._apply(game.generator, gradients, ~finite, index, 1)
        return {"g_loss": loss.detach(), "g_grad_norm": norm}

    def _kept_buffers(self) -> KeptBuffers:
        return KeptBuffers([self.game.generator, self.game.discriminator])

    def _generate(self, latents: Tensor, draws: Draws, pass_: int) -> Tensor:
        with drawing(draws, pass_):
            fake = self._samples(latents)
        # images stay fp32 for the critic's input gradient and for the penalties' points
        return fake.to(self.game.dtype)

    def _samples(self, latents: Tensor) -> Tensor:
        """What the generator makes; a tanh that it calls last runs in fp32."""
        with self._own_generators(), self._replaced(self.tanh, lambda x: torch.tanh(x.to(self.game.dtype))):
            return self.game.generator.module(latents)

    @property
    def _critic(self) -> Callable[[Tensor], Tensor]:
        """The network, without a sigmoid that it calls last, on the update's own generators.

        Penalties look at what a critic is made of: it is the module itself, or a function written around it.
        """
        critic, sigmoid = self.game.discriminator.module, self.sigmoid
        if self._drawing is None and (sigmoid is None or sigmoid.module):
            return critic

        def logits(rows: Tensor) -> Tensor:
            with self._own_generators(), self._replaced(sigmoid, lambda x: x):
                return critic(rows)

        return logits

    @staticmethod
    def _replaced(end: End | None, instead: Callable[[Tensor], Tensor]) -> AbstractContextManager:
        """Around a pass over a network that ends in a function; modules are seen to while steps run (`_ends`)."""
        return end.replaced(instead) if end and not end.module else nullcontext()

    def _own_generators(self) -> AbstractContextManager:
        """Around what may draw from torch's generator: the update's own generators, if it has some."""
        return self._drawing or nullcontext()

    def _critic_logits(self, rows: Tensor, draws: Draws, pass_: int) -> Tensor:
        """The logits of all processes' rows."""
        with drawing(draws, pass_):
            logits = self._critic(rows)
        return all_rows(logits, self.game.world)

    def _penalty(self, real: Tensor, fake: Tensor, draws: Draws, index: StepIndex, d_step: int) -> Tensor:
        total = real.new_zeros(())
        for number, spec in self.game.due_penalties(index, d_step):
            with self._own_generators():
                points = spec.points(real, fake, draws, number)
            with self._arithmetic(), drawing(draws, self.game.pass_of(number, spec)):
                gradient = input_gradient(self._critic, points)
            with self._own_generators():
                total = total + spec.every * spec.value(gradient)
        return total

    def _gradients(self, loss: Tensor, network: FlatNetwork, which: int) -> Sequence[Tensor | None]:
        if self.scales:
            loss = loss * self.scales[which].scale
        gradients = torch.autograd.grad(loss, network.parameters, allow_unused=True) if loss.requires_grad else ()
        if all(gradient is None for gradient in gradients):
            raise NoGradient(
                f"no parameter of the {ROLES[which]} gets a gradient of its loss: a result on the way is detached, computed "
                "under no_grad, or rounded to integers"
            )
        return gradients

    def _apply(
        self, network: FlatNetwork, gradients: Sequence[Tensor | None], withhold: Tensor, index: StepIndex, which: int
    ) -> Tensor:
        """Adds up the processes' gradients and takes the optimizer's step; returns the gradient's norm."""
        network.collect(gradients)
        sum_(network.gradient, self.game.world.size)
        if self.scales:
            # an overflow is the loss scale's to mend, and no fault of the run as long as there is a smaller one
            overflow, final = self.scales[which].unscale_(network.gradient)
            network.gradient.masked_fill_(overflow, 0.0)
            withhold = withhold | final
        else:
            overflow = torch.zeros_like(withhold)
        statistics = network.update(withhold | overflow, index.counter)
        network.record_update(withhold, statistics)
        return statistics[0].sqrt()

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Passes in half precision, where it is the game's. Those that share one context share one cast of the weights."""
        dtype = HALF.get(self.game.precision)
        if dtype is None:
            yield
            return
        with torch.autocast(self.game.device.type, dtype):
            yield
        torch.clear_autocast_cache()  # inside another autocast torch would keep the casts

    @contextmanager
    def _randomness(self, index: StepIndex, d_step: int) -> Iterator[None]:
        """Around an update: what modules draw for themselves is a function of the seed, and nothing of it is left behind.

        A captured step takes torch's generator as it is: a replay moves it on, and nothing can seed it in between.
        """
        if isinstance(index.counter, Tensor) or not (self.foreign or self.own_draws):
            yield
            return
        seed = mix(self.game.seed, index.step, d_step, self.game.world.rank)
        if self.own_draws is None:
            with seeded(seed, self.game.device):
                yield
            return
        self._drawing = self.own_draws.begin(seed)
        try:
            yield
        finally:
            self._drawing = None
        if self.own_draws.replayed:
            raise RuntimeError(
                "a network draws random numbers that its backward pass draws again, as activation checkpointing does, and did "
                "not when data were attached: attach the data again"
            )

    @torch.inference_mode(False)
    def find_draws(self, samples: Tensor) -> None:
        """Plays a step with copies of the networks: where something draws, steps get generators of their own.

        Others share torch's with all threads: networks that draw in a backward pass, and compiled ones. ValueError where an
        update fails, as the first one would.
        """
        self.own_draws, draws = None, OwnDraws()
        if any(is_compiled(network.module) for network in (self.game.generator, self.game.discriminator)):
            return
        try:
            trial = AutogradStep(self.game.copied())
        except Exception as reason:
            log.debug("torch's generator is seeded for each update: a network has no copy: %s", reason)
            return
        trial.own_draws = draws  # its updates are refused where a backward pass draws
        second_order.leave_unexamined(trial.game.discriminator.module)
        try:
            with draws:
                trial(samples.clone(), at(0), len(samples))
        except (NoGradient, torch.OutOfMemoryError):  # a copy may share parameters; and it needs memory of its own
            return
        except Exception as error:
            if draws.replayed:
                return
            line = str(error).partition("\n")[0]
            raise ValueError(f"an update of these networks fails: {type(error).__name__}: {line}") from error
        self.own_draws = draws if draws.drawn else None

    def find_ends(self, latents: Tensor, samples: Tensor, read_logits: bool) -> bool:
        """Looks at both networks' ends; returns whether steps will read the logits before a Sigmoid."""
        # a tanh in bf16 rounds to 1 beyond 3, its slope to 0: a picture's background would never learn again
        half = self.game.precision in HALF
        self.tanh = look(self.game.generator.module, TANH, latents).end if half else None
        self.sigmoid = None
        if read_logits:
            seen = look(self.game.discriminator.module, SIGMOID, samples)
            self.sigmoid = seen.end
            if returns_probabilities(self.game.discriminator.module, samples, seen):
                log.warning(
                    "the discriminator returns numbers in [0, 1]%s, and %s takes them for logits: end it before what maps them "
                    "there, such as a sigmoid",
                    " before its last Sigmoid" if seen.end else "",
                    self.game.loss,
                )
        self.generation += 1
        return self.sigmoid is not None

    def follow_networks(self) -> None:
        """Nothing to do: modules read their weights where they are."""

    def reserve(self, steps: int) -> None:
        """Nothing to do: what updates leave behind is added up as they go."""

    @contextmanager
    def _ends(self) -> Iterator[None]:
        hooks = []
        if self.sigmoid and self.sigmoid.module:
            hooks.append(self.sigmoid.module.register_forward_hook(lambda module, inputs, output: inputs[0]))
        if self.tanh and self.tanh.module:
            cast = self.tanh.module.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(self.game.dtype),))
            hooks.append(cast)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def state_dict(self) -> dict[str, Tensor]:
        """What the step keeps besides the networks: fp16's loss scales."""
        pairs = enumerate(self.scales or ())
        return {f"{name}.{number}": getattr(scale, name) for number, scale in pairs for name in ("scale", "clean_updates")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over a `state_dict`, in place."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
