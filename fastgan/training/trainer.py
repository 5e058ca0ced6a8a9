"""The trainer: takes two networks and an objective, runs the alternating step many times, reports, and loses nothing."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import models, optim, penalties
from ..data import ImageSet, as_image_set
from ..engines.autograd import AutogradStep
from ..engines.closed_form.step import ClosedFormStep, NoClosedForm
from ..engines.cuda_graph import Captured, Eager
from ..engines.flat_network import FlatNetwork
from ..engines.game import Game
from ..models import Network
from ..ops import backend
from ..ops.sample import Draws, Role
from ..optim import Optimizer
from ..penalties import Penalty, Spec, WeightClip
from ..runtime import distributed
from ..runtime.device import resolve_device
from ..runtime.precision import resolve_precision
from . import checkpoint
from .checkpoint import Checkpoint, CheckpointError
from .fit import Fit, FitOptions
from .presets import preset

log = logging.getLogger("fastgan")

# kinds in which a probability p enters only as the logit before the sigmoid that made it
LOGIT_KINDS = ("minimax", "nonsaturating", "relativistic")
ENGINES = ("auto", "closed-form", "autograd")
CAPTURES = ("auto", "off")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _whole(value: object, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


class Trainer:
    """Trains a generator against a discriminator; a run is a function of (configuration, data, seed, step).

    generator: latents [B, z] -> samples; discriminator: samples [B, ...] -> logits, any modules. They train in place: their
    parameters become views of one flat buffer per network. fastgan's own networks that were given no seed and that nobody has
    changed start from weights drawn from this trainer's seed.
    loss: a preset (see `presets.PRESETS`); penalty, g_optimizer, d_optimizer, d_steps: None for the preset's; penalty=() is
    none. ema: decay of the generator's weight average, or None. precision, of matrix products: auto, fp32, tf32, bf16, fp16,
    fp64. engine: "closed-form" (for pairs of MLPs), "autograd", or "auto". capture, steps_per_graph: CUDA graphs of that many
    steps. seed: 0 <= seed < 2^63. device: auto, cpu, cuda, cuda:N. Raises ValueError or TypeError for anything that cannot be.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        loss: str = "nonsaturating",
        penalty: Spec | Iterable[Spec] | None = None,
        g_optimizer: Optimizer | None = None,
        d_optimizer: Optimizer | None = None,
        d_steps: int | None = None,
        ema: float | None = None,
        precision: str = "auto",
        engine: str = "auto",
        capture: str = "auto",
        steps_per_graph: int = 16,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        chosen = preset(loss)
        d_steps = chosen.d_steps if d_steps is None else d_steps
        _check(_whole(d_steps, 1, 2**16 - 1), f"d_steps must be a whole number >= 1, got {d_steps!r}")
        _check(_whole(seed, 0, 2**63 - 1), f"seed must be a whole number in [0, 2^63), got {seed!r}")
        _check(ema is None or 0.0 <= ema < 1.0, f"ema must be None or a decay in [0, 1), got {ema!r}")
        _check(engine in ENGINES, f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
        _check(capture in CAPTURES, f"unknown capture {capture!r}; choose one of {', '.join(CAPTURES)}")
        _check(_whole(steps_per_graph, 1), f"steps_per_graph must be a whole number >= 1, got {steps_per_graph!r}")
        self.loss, self.seed, self.d_steps, self.ema = loss, seed, d_steps, ema
        self.penalties = penalties.as_specs(chosen.penalty if penalty is None else penalty)
        self.device = resolve_device(device)
        self.world = distributed.world()
        self.generator, self.discriminator = self._take(generator, discriminator, precision)
        self.step_count = 0
        self._data: ImageSet | None = None
        self._trained_on: dict[str, Any] = {}
        self._reads_logits = False
        self._game = self._make_game(chosen.loss, g_optimizer or chosen.g_optimizer, d_optimizer or chosen.d_optimizer)
        self._step = self._make_step(engine)
        captures = capture == "auto" and self.device.type == "cuda" and not backend.triton_problem()
        self._player = Captured(self._step, self._game, steps_per_graph) if captures else Eager(self._step)

    def _make_step(self, engine: str) -> ClosedFormStep | AutogradStep:
        if engine != "autograd":
            try:
                return ClosedFormStep(self._game, read_logits=self._game.loss in LOGIT_KINDS)
            except NoClosedForm as reason:
                if engine == "closed-form":
                    raise
                log.info("the autograd engine runs: %s", reason)
        return AutogradStep(self._game)

    def _take(self, generator: nn.Module, discriminator: nn.Module, precision: str) -> tuple[nn.Module, nn.Module]:
        networks = (generator, discriminator)
        shared = {id(p) for p in generator.parameters()} & {id(p) for p in discriminator.parameters()}
        _check(not shared, "the generator and the discriminator share parameters")
        for network in networks:
            if isinstance(network, Network) and network.is_untouched():
                network.reset_parameters(self.seed)
            network.to(self.device, torch.float64 if precision == "fp64" else None)
        dtype = next(iter(generator.parameters()), torch.empty(0)).dtype
        self.precision = resolve_precision(precision, self.device, dtype)
        return networks

    def _make_game(self, kind: str, g_optimizer: Optimizer, d_optimizer: Optimizer) -> Game:
        clip = next((spec.bound for spec in self.penalties if isinstance(spec, WeightClip)), 0.0)
        game = Game(
            generator=FlatNetwork(self.generator, g_optimizer, ema_decay=self.ema),
            discriminator=FlatNetwork(self.discriminator, d_optimizer, clip=clip),
            loss=kind,
            penalties=tuple(spec for spec in self.penalties if isinstance(spec, Penalty)),
            d_steps=self.d_steps,
            seed=self.seed,
            precision=self.precision,
            latent_shape=models.latent_shape(self.generator),
            world=self.world,
        )
        for network in (game.generator, game.discriminator):
            for tensor in (network.weight, *network.module.buffers()):
                distributed.broadcast_(tensor, self.world.size)
        return game

    @property
    def engine(self) -> str:
        """Which step runs."""
        return self._step.name

    @property
    def stride(self) -> int:
        """How many steps run best in one call of `step`: those of a graph."""
        return self._player.stride

    @property
    def skips(self) -> Tensor:
        """Updates withheld and weights left alone so far because something was not finite, 0-d int64 on the device."""
        return self._game.skipped

    @property
    def skipped(self) -> int:
        """The same as a number (waits for the device)."""
        return int(self.skips)

    def attach(self, data: Any, batch_size: int = 64) -> Trainer:
        """Puts a data set on the device; `step` runs on it.

        data: what `data.as_image_set` takes; batch_size: rows of a D update, over all processes.
        Raises ValueError where the generator's samples, the data and the critic do not fit each other.
        """
        rows = distributed.local_rows(batch_size, self.world.size)
        images = as_image_set(data)
        self._try_networks(images)
        self._data, self._rows, self.batch_size = images.to(self.device), rows, batch_size
        now = self._data_config()
        if self._trained_on and self._trained_on != now:
            log.warning("this run was trained on other data or another batch size so far: %s, now %s", self._trained_on, now)
        self._trained_on = now
        return self

    @torch.no_grad()
    def _try_networks(self, images: ImageSet) -> None:
        modes = [(network, network.training) for network in (self.generator, self.discriminator)]
        try:
            for network, _ in modes:
                network.eval()
            draws = Draws(self.seed, 0, device=self.device, dtype=self._game.dtype)
            latents = self._game.latents(draws, 2, Role.PREVIEW)
            fake = self.generator(latents)
            made, wanted = fake[0].numel(), images.features
            _check(made == wanted, f"the generator makes samples of {made} numbers, but {images.name} has {wanted}")
            self._find_ends(latents, fake)
        finally:
            for network, training in modes:
                network.train(training)

    def _find_ends(self, latents: Tensor, fake: Tensor) -> None:
        reads = self._step.find_ends(latents, fake, read_logits=self._game.loss in LOGIT_KINDS)
        if reads and not self._reads_logits:
            log.warning("the discriminator ends in a Sigmoid: %s is computed on the logits before it", self._game.loss)
        self._reads_logits = reads

    def steps_per_epoch(self) -> int:
        """Steps in which D sees the data once: ceil(N / (batch_size * d_steps))."""
        return -(-self._attached().size // (self.batch_size * self.d_steps))

    def _attached(self) -> ImageSet:
        if self._data is None:
            raise RuntimeError("there is no data yet: call attach(data, batch_size) or fit(data, ...)")
        return self._data

    def step(self, n: int = 1) -> Mapping[str, Tensor]:
        """Runs n steps; returns the last one's metrics as 0-d tensors on the device, without waiting for it.

        d_loss (penalty included), g_loss, d_real, d_fake (mean logits), penalty, d_grad_norm, g_grad_norm.
        """
        _check(_whole(n, 1), f"n must be a whole number >= 1, got {n!r}")
        images = self._attached().images
        for network in (self._game.generator, self._game.discriminator):
            network.ensure_views()
        metrics: Mapping[str, Tensor] = {}
        left = n
        while left:
            done, metrics = self._player.play(images, self.step_count, left, self._rows)
            self.step_count += done
            left -= done
        return metrics

    def fit(
        self,
        data: Any,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int = 64,
        out: str | Path | None = None,
        **reporting: Any,
    ) -> dict[str, Any]:
        """Trains until the run has had `epochs` epochs or `steps` steps in all; returns a summary.

        out: a new run folder for metrics, samples, loss curves and checkpoints; None writes nothing. reporting: resume,
        log_every, sample_every, checkpoint_every, keep, on_nonfinite, progress, as in `fit.FitOptions`.
        Raises NonFiniteError, Interrupted (after a checkpoint), and ValueError for bad arguments.
        """
        return self.attach(data, batch_size).prepare(epochs=epochs, steps=steps, out=out, **reporting).run()

    def prepare(
        self, *, epochs: int | None = None, steps: int | None = None, out: str | Path | None = None, **reporting: Any
    ) -> Fit:
        """What `fit` is about to run on the attached data, with its arguments checked and its run folder claimed."""
        _check((epochs is None) != (steps is None), "give either epochs or steps, the total of the whole run")
        for name, value in (("epochs", epochs), ("steps", steps)):
            _check(value is None or _whole(value, 0), f"{name} must be a whole number >= 0, got {value!r}")
        epoch_steps = self.steps_per_epoch()
        total = epochs * epoch_steps if epochs is not None else steps
        assert total is not None
        return Fit(self, FitOptions(total, epoch_steps, out=None if out is None else Path(out), **reporting))

    @torch.no_grad()
    def sample(self, n: int, ema: bool = True, *, seed: int | None = None) -> Tensor:
        """n samples in [-1, 1] from fixed latents: [n, 1, 28, 28] for the article's networks, [n, features] for points.

        ema: from the averaged weights, where there are any; seed: of the latents, None for the trainer's.
        """
        _check(_whole(n, 1), f"n must be a whole number >= 1, got {n!r}")
        self._game.generator.ensure_views()
        draws = Draws(self.seed if seed is None else seed, 0, device=self.device, dtype=self._game.dtype)
        latents = self._game.latents(draws, n, Role.PREVIEW)
        training = self.generator.training
        try:
            images = torch.func.functional_call(self.generator.eval(), self._shown_weights(ema), (latents,))
        finally:
            self.generator.train(training)
        return images.view(n, *self._sample_shape(images))

    def _shown_weights(self, ema: bool) -> dict[str, Tensor]:
        network = self._game.generator
        if not ema or network.ema is None:
            return {}
        names = [name for name, parameter in self.generator.named_parameters() if parameter.requires_grad]
        return dict(zip(names, network.views(network.ema), strict=True))

    def _sample_shape(self, images: Tensor) -> tuple[int, ...]:
        if images.dim() > 2:
            return tuple(images.shape[1:])
        if self._data is not None:
            return tuple(self._data.shape)
        side = math.isqrt(images.shape[1])
        return (1, side, side) if side * side == images.shape[1] else (images.shape[1],)

    def config(self) -> dict[str, Any]:
        """Everything that a run is a function of, besides the data's content, as plain data."""
        game = self._game
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return {
            "loss": self.loss,
            "penalty": penalties.to_config(self.penalties),
            "g_optimizer": optim.to_config(game.generator.spec),
            "d_optimizer": optim.to_config(game.discriminator.spec),
            "d_steps": self.d_steps,
            "ema": self.ema,
            "precision": self.precision,
            "seed": self.seed,
            "networks": {role: models.describe(network) for role, network in networks.items()},
            "data": self._trained_on,
        }

    def _data_config(self) -> dict[str, Any]:
        data = self._attached()
        return {"name": data.name, "fingerprint": data.fingerprint(), "batch_size": self.batch_size}

    def state_dict(self) -> dict[str, Any]:
        """All that training changes: weights, optimizer states, the average, counters; tensors and plain data."""
        return {"generator": self.generator.state_dict(), "discriminator": self.discriminator.state_dict(), **self._progress()}

    def _progress(self) -> dict[str, Any]:
        return {
            "step_count": self.step_count,
            "skipped": self._game.skipped,
            "g_optimizer": self._game.generator.state_dict(),
            "d_optimizer": self._game.discriminator.state_dict(),
            "step": self._player.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a `state_dict`, in place; CheckpointError where it does not fit the networks or optimizers."""
        self._check_state(state)
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self._game.generator.load_state_dict(state["g_optimizer"])
        self._game.discriminator.load_state_dict(state["d_optimizer"])
        self._player.load_state_dict(state["step"])
        self._game.generator.skipped.copy_(state["skipped"])
        self._game.discriminator.skipped.zero_()
        self.step_count = int(state["step_count"])

    def _check_state(self, state: dict[str, Any]) -> None:
        for role, network in (("generator", self._game.generator), ("discriminator", self._game.discriminator)):
            network.ensure_views()
            checkpoint.check_fit(role, network.module.state_dict(), state[role])
        for name, network in (("g_optimizer", self._game.generator), ("d_optimizer", self._game.discriminator)):
            network.check_state(state[name])

    def save(self, folder: str | Path) -> None:
        """Writes a checkpoint, whole or not at all; of several processes the first one writes."""
        if self.world.rank:
            return
        weights = {"generator": self.generator.state_dict(), "discriminator": self.discriminator.state_dict()}
        if self.ema is not None:
            weights["average"] = self._shown_weights(ema=True)
        checkpoint.save(Path(folder), Checkpoint(weights, self._progress(), self.config()))

    def restore(self, folder: str | Path) -> None:
        """Takes over a checkpoint (or a run folder's newest one) of a trainer like this one, in place.

        CheckpointError for one of another architecture, configuration or data set: the run would not be the same.
        """
        saved = checkpoint.load(Path(folder))
        self._check_state(saved.weights | saved.state)
        mine = json.loads(json.dumps(self.config()))
        for name in ("loss", "penalty", "g_optimizer", "d_optimizer", "d_steps", "ema", "seed", "data"):
            there, here = saved.config[name], mine[name]
            if there != here and not (name == "data" and {} in (there, here)):
                raise CheckpointError(f"{folder} was trained with another {name}: {there} there, {here} here")
        self.load_state_dict({**saved.weights, **saved.state})

    @classmethod
    def load(
        cls,
        folder: str | Path,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> Trainer:
        """The trainer of a checkpoint, or of a run folder's newest one.

        Networks that are not fastgan's own must be given. CheckpointError for a damaged or a different checkpoint.
        """
        saved = checkpoint.load(Path(folder))
        config = saved.config
        generator = generator or models.build(config["networks"]["generator"], "generator")
        discriminator = discriminator or models.build(config["networks"]["discriminator"], "discriminator")
        same: dict[str, Any] = {name: config[name] for name in ("loss", "d_steps", "ema", "precision", "seed")}
        same |= {name: optim.from_config(config[name]) for name in ("g_optimizer", "d_optimizer")}
        same |= {"penalty": penalties.from_config(config["penalty"])}
        trainer = cls(generator, discriminator, device=device, **same)
        trainer.load_state_dict({**saved.weights, **saved.state})
        trainer._trained_on = config["data"]
        return trainer
