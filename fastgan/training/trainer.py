"""The trainer: takes two networks and an objective, runs the alternating step many times, reports, and loses nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex

import torch
from torch import Tensor, nn

from .. import penalties
from ..data import ImageSet, as_image_set
from ..engines.flat_network import FlatNetwork
from ..optim import Optimizer
from ..penalties import Spec
from ..runtime import distributed
from ..runtime.device import resolve_device
from ..runtime.precision import resolve_precision
from . import checkpoint, preview, run_state, saved_config, setup
from .arguments import check, check_whole, is_whole
from .checkpoint import Checkpoint
from .fit import Fit
from .options import FitOptions
from .presets import preset
from .runner import Runner

log = logging.getLogger("fastgan")


class Trainer:
    """Trains a generator against a discriminator; a run is a function of (configuration, data, seed, step).

    The networks train in place: their parameters become views of one flat buffer per network. fastgan's own networks that were
    given no seed and that nobody has changed start from weights drawn from this trainer's seed.

    Args:
        generator: any module, latents [B, z] or [B, z, 1, 1] -> samples; an attribute `z_dim` says z where no layer does.
        discriminator: any module, samples [B, ...] -> logits.
        loss: a preset (see `presets.PRESETS`).
        penalty: one spec of fastgan.penalties or several, () for none; None for the preset's.
        g_optimizer: a spec of fastgan.optim; None for the preset's.
        d_optimizer: the same for the discriminator.
        d_steps: discriminator updates per step, 1 to 65,535; None for the preset's.
        ema: decay in [0, 1) of the generator's weight average; None for no average.
        precision: of matrix products: auto, fp32, tf32, bf16, fp16 or fp64.
        engine: "closed-form" (for pairs of MLPs), "autograd", or "auto".
        capture: "auto" for CUDA graphs on a GPU with Triton, or "off".
        steps_per_graph: steps in one CUDA graph, at least 1.
        seed: of every draw, 0 <= seed < 2^63.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        ValueError, TypeError: anything that cannot be: a value out of its range, networks that share parameters, an engine,
            precision or device that is not there, a penalty that is no spec.

    Example:
        >>> generator = mlp.MLP((2, 16, 2), output="tanh")
        >>> critic = mlp.MLP((2, 16, 1), activation="leaky_relu")
        >>> trainer = Trainer(generator, critic, loss="hinge", ema=0.9, seed=0, device="cpu")
        >>> trainer.fit(data.load("ring"), steps=2, batch_size=8, progress=False)["steps"]
        2
        >>> sorted(trainer.step(3))
        ['d_fake', 'd_grad_norm', 'd_loss', 'd_real', 'g_grad_norm', 'g_loss', 'penalty']
        >>> trainer.engine, trainer.step_count, trainer.skipped, trainer.sample(4).shape
        ('closed-form', 5, 0, torch.Size([4, 2]))
        >>> trainer.save("checkpoint")
        >>> again = Trainer.load("checkpoint", mlp.MLP((2, 16, 2), output="tanh"), critic, device="cpu")
        >>> torch.equal(again.sample(4), trainer.sample(4))
        True
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
        optimizers = {"g_optimizer": g_optimizer, "d_optimizer": d_optimizer}
        setup.check_kinds(generator, discriminator, loss, optimizers, ema)
        chosen = preset(loss)
        d_steps = chosen.d_steps if d_steps is None else d_steps
        setup.check_choices(d_steps, seed, ema, engine, capture, steps_per_graph)
        self.loss, self.seed, self.d_steps, self.ema = loss, seed, d_steps, ema
        self.penalties = penalties.as_specs(chosen.penalty if penalty is None else penalty)
        self.device = resolve_device(device)
        self.world = distributed.world()
        dtype = setup.place((generator, discriminator), seed, self.device, precision)
        self.generator, self.discriminator = generator, discriminator
        self.precision = resolve_precision(precision, self.device, dtype)
        self.step_count = 0
        self.background_save: Callable[[Any, Checkpoint], None] | None = None  # set by a run that writes beside its steps
        self._data: ImageSet | None = None
        self._trained_on: dict[str, Any] = {}
        clip = setup.clip_bound(self.penalties)
        self._game = setup.make_game(
            FlatNetwork(generator, g_optimizer or chosen.g_optimizer, ema_decay=ema),
            FlatNetwork(discriminator, d_optimizer or chosen.d_optimizer, clip=clip),
            self.penalties,
            loss=chosen.loss,
            d_steps=d_steps,
            seed=seed,
            precision=self.precision,
            world=self.world,
        )
        self._runner = Runner(self._game, engine, capture, steps_per_graph)

    @property
    def engine(self) -> str:
        """Which step runs: "closed-form" or "autograd"."""
        return self._runner.engine.name

    @property
    def stride(self) -> int:
        """How many steps run best in one call of `step`: those of a graph."""
        return self._runner.player.stride

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

        Args:
            data: what `data.as_image_set` takes.
            batch_size: rows of a D update, over all processes.

        Returns:
            The trainer itself.

        Raises:
            ValueError: the generator's samples, the data and the critic do not fit each other, in size or layout (flat rows fit
                any), or the batch the processes or the memory.
            DataError: data that cannot be used.
        """
        rows = distributed.local_rows(batch_size, self.world.size)
        images = as_image_set(data)
        with setup.memory_for(batch_size, self.device):
            self._runner.try_networks(images, rows)
        self._data, self._rows, self.batch_size = images.to(self.device), rows, batch_size
        now = self._data_config()
        if self._trained_on and self._trained_on != now:
            log.warning("this run was trained on other data or another batch size so far: %s, now %s", self._trained_on, now)
        self._trained_on = now
        return self

    def steps_per_epoch(self) -> int:
        """Steps in which D sees the data once.

        Returns:
            ceil(N / (batch_size * d_steps)).

        Raises:
            RuntimeError: no data is attached.
        """
        return -(-self._attached().size // (self.batch_size * self.d_steps))

    def _attached(self) -> ImageSet:
        if self._data is None:
            raise RuntimeError("there is no data yet: call attach(data, batch_size) or fit(data, ...)")
        return self._data

    def step(self, n: int = 1) -> Mapping[str, Tensor]:
        """Runs steps on the attached data, without waiting for the device.

        Args:
            n: how many, at least 1.

        Returns:
            The last one's metrics as 0-d tensors on the device: d_loss (penalty included), g_loss, d_real, d_fake (mean
            logits), penalty, d_grad_norm, g_grad_norm.

        Raises:
            ValueError: an n below 1.
            RuntimeError: no data is attached.
        """
        check(is_whole(n, 1), f"n must be a whole number >= 1, got {n!r}")
        images = self._attached().images
        for network in (self._game.generator, self._game.discriminator):
            network.ensure_views()
        metrics: Mapping[str, Tensor] = {}
        left = n
        while left:
            done, metrics = self._runner.play(images, self.step_count, left, self._rows)
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
        """Trains until the run has had `epochs` epochs or `steps` steps in all: `attach`, `prepare` and run.

        Args:
            data: what `data.as_image_set` takes.
            epochs: of the whole run, at least 0.
            steps: of the whole run, instead of epochs.
            batch_size: rows of a D update, over all processes.
            out: a new run folder for metrics, samples, loss curves and checkpoints; None writes nothing.
            **reporting: resume, log_every, sample_every, checkpoint_every, keep, on_nonfinite, progress, as `fit.FitOptions`
                has them.

        Returns:
            A summary: fastgan's version, steps, epochs, seconds, images_per_second, device, precision, engine, and the last
            metrics.

        Raises:
            ValueError: bad arguments, data that do not fit, or a run folder that is not new.
            NonFiniteError: an update was withheld and on_nonfinite is "raise"; after a checkpoint.
            Interrupted: SIGINT or SIGTERM; after a checkpoint.
        """
        return self.attach(data, batch_size).prepare(epochs=epochs, steps=steps, out=out, **reporting).run()

    def prepare(
        self, *, epochs: int | None = None, steps: int | None = None, out: str | Path | None = None, **reporting: Any
    ) -> Fit:
        """What `fit` is about to run on the attached data, with its arguments checked and its run folder claimed.

        Args:
            epochs: of the whole run, at least 0.
            steps: of the whole run, instead of epochs.
            out: a new run folder; None writes nothing.
            **reporting: as in `fit`.

        Returns:
            The run; its `run()` trains and returns the summary.

        Raises:
            ValueError: bad arguments, or a run folder that is not new.
            RuntimeError: no data is attached.
        """
        setup.check_reporting(reporting)
        check((epochs is None) != (steps is None), "give either epochs or steps, the total of the whole run")
        if epochs is not None:
            check_whole("epochs", epochs, 0)
        if out is not None:
            checkpoint.check_savable(run_state.network_states(self._game))
        epoch_steps = self.steps_per_epoch()
        total = epochs * epoch_steps if epochs is not None else steps
        assert total is not None
        return Fit(self, FitOptions(total, epoch_steps, out=out, **reporting))

    @torch.no_grad()
    def sample(self, n: int, ema: bool = True, *, seed: int | None = None) -> Tensor:
        """Samples from fixed latents.

        Args:
            n: how many, at least 1.
            ema: whether from the averaged weights, where there are any.
            seed: of the latents; None for the trainer's.

        Returns:
            Numbers in [-1, 1] in the shape of the data's samples: [n, 1, 28, 28] for MNIST, [n, features] for points.

        Raises:
            ValueError: an n below 1, a seed that is none, or a generator that takes no such latents.
        """
        check(is_whole(n, 1), f"n must be a whole number >= 1, got {n!r}")
        check(seed is None or is_whole(seed, 0, 2**63 - 1), f"seed must be None or a whole number in [0, 2^63), got {seed!r}")
        seed = self.seed if seed is None else seed
        self._game.generator.ensure_views(frozen=True)
        weights = preview.ema_weights(self._game.generator) if ema else {}
        return preview.make_samples(self._game, n, seed, weights)

    def config(self) -> dict[str, Any]:
        """Everything that a run is a function of, besides the data's content.

        Returns:
            Plain data, as checkpoints have it.
        """
        found = run_state.configuration(self._game, self.loss, self.penalties, self._trained_on)
        return found | self._runner.arguments | {"instruction_set": self._runner.engine.instruction_set}

    def _data_config(self) -> dict[str, Any]:
        data = self._attached()
        return {"name": data.name, "fingerprint": data.fingerprint(), "batch_size": self.batch_size}

    def state_dict(self) -> dict[str, Any]:
        """All that training changes: weights, optimizer states, the average, counters.

        Returns:
            Tensors and plain data.
        """
        return run_state.network_states(self._game) | run_state.progress(self._game, self._runner.player, self.step_count)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state, in place.

        Args:
            state: what `state_dict` returned.

        Raises:
            CheckpointError: it does not fit the networks, the optimizers, the average or the precision.
            TypeError: a path, or anything else that is no state.
        """
        run_state.check_form(state)
        run_state.check_state(self._game, self._runner.player, state)
        self.step_count = run_state.take_over(self._game, self._runner.player, state)
        if self._data is None:
            self._game.sample_shape = state.get("sample_shape")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # the networks' parts of one buffer, and what engines have read of them, would come back as strangers to each other
        raise TypeError("a Trainer cannot be pickled or copied: save(folder) it, and Trainer.load(folder, ...) another one")

    def save(self, folder: str | Path) -> None:
        """Writes a checkpoint, whole or not at all; of several processes the first one writes.

        Args:
            folder: its place; a checkpoint that stands there is replaced.

        Raises:
            CheckpointError: something else stands there, or nothing can, or a network has an extra state that is no plain data.
            TypeError: no path.
        """
        if self.world.rank:
            return
        write = self.background_save or checkpoint.save
        write(folder, run_state.gathered(self._game, self._runner.player, self.step_count, self.config()))

    def restore(self, folder: str | Path) -> None:
        """Takes over a checkpoint of a trainer like this one, in place.

        Args:
            folder: a checkpoint, or a run folder for its newest one.

        Raises:
            CheckpointError: none there, a damaged one, or one of another architecture, configuration or data set: the run would
                not be the same.
        """
        checkpoint.taken(folder, saved_config.check_whole, lambda saved: self._take_over(folder, saved))

    def _take_over(self, folder: str | Path, saved: Checkpoint) -> None:
        with saved_config.understood("state"):
            run_state.check_same_run(folder, saved, self._game, self.config())
            self.load_state_dict({**saved.weights, **saved.state})

    @classmethod
    def load(
        cls,
        folder: str | Path,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        *,
        penalty: Spec | Iterable[Spec] | None = None,
        device: str | torch.device = "auto",
    ) -> Trainer:
        """The trainer of a checkpoint.

        Args:
            folder: a checkpoint, or a run folder for its newest one.
            generator: one like the saved one; must be given where that is not fastgan's own.
            discriminator: the same for the discriminator.
            penalty: the saved one; must be given where it is of one's own.
            device: auto, cpu, cuda or cuda:N.

        Returns:
            A new trainer, as it was when it was saved.

        Raises:
            CheckpointError: none there, a damaged one, or one of another architecture or penalty; or a network or a penalty is
                not fastgan's own and none was given.
        """

        def made(saved: Checkpoint) -> Trainer:
            trainer = cls(**saved_config.arguments(saved, generator, discriminator, penalty), device=device)
            trainer._take_over(folder, saved)
            trainer._trained_on = saved.config["data"]
            return trainer

        return checkpoint.taken(folder, saved_config.check_whole, made)
