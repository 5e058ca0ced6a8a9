"""One run of a trainer: the loop, what it reports and when, checkpoints, interruption and resumption."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .._version import __version__
from ..runtime import distributed
from ..runtime.arguments import describe
from ..runtime.distributed import World
from . import checkpoint
from .arguments import check_switch, check_whole
from .device_metrics import Reading, mark, seconds
from .pictures import drawing
from .report import RunFolder, display
from .signals import Interrupted, Interrupts

log = logging.getLogger("fastgan")

SIGNAL_STRIDE = 16  # steps between the moments at which several processes agree to stop
PREVIEW_IMAGES, PREVIEW_POINTS = 64, 1000


class Trainable(Protocol):
    """What a run needs of a trainer."""

    step_count: int
    batch_size: int
    d_steps: int
    device: torch.device
    precision: str
    world: World

    @property
    def engine(self) -> str: ...

    @property
    def stride(self) -> int: ...

    @property
    def skips(self) -> Tensor: ...

    @property
    def skipped(self) -> int: ...

    def step(self, n: int = 1) -> Mapping[str, Tensor]: ...

    def sample(self, n: int) -> Tensor: ...

    def save(self, folder: Path) -> None: ...

    def restore(self, folder: Path) -> None: ...

    def config(self) -> dict[str, Any]: ...


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Inside, the garbage collector leaves alone what exists already: a walk through all of torch takes a sixth of a second."""
    theirs = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not theirs:
            gc.unfreeze()


class NonFiniteError(FloatingPointError):
    """A logit, penalty or gradient was not finite; the update was withheld and the weights are those before it.

    Example:
        >>> critic = mlp.MLP((2, 16, 1), activation="leaky_relu")
        >>> trainer = Trainer(mlp.MLP((2, 16, 2)), critic, g_optimizer=optim.SGD(1e38), seed=0, device="cpu")
        >>> try:
        ...     trainer.fit(torch.zeros(64, 2), steps=8, batch_size=8, progress=False)
        ... except NonFiniteError as error:
        ...     print(error)
        by step 8, ... updates or weights were left alone: not finite (on_nonfinite='skip' goes on)
    """


@dataclass
class FitOptions:
    """What a run is asked to do and to report.

    Args:
        steps: the whole run's total, at least 0.
        epoch_steps: steps in an epoch.
        out: a run folder; None writes nothing.
        resume: whether to go on with the run in that folder.
        log_every: steps between rows of metrics, at least 1.
        sample_every: steps between sample grids; None for 20 in a run, 0 for none.
        checkpoint_every: steps between checkpoints; None for 5 in a run, 0 for only the first and the last.
        keep: newest checkpoints that are kept, besides the first, at least 1.
        on_nonfinite: "raise" stops the run where an update was withheld, "skip" goes on.
        progress: whether progress is shown.
        command: the command line's own configuration, for config.json.

    Raises:
        ValueError: a value out of its range.
        TypeError: resume or progress that is neither True nor False, a command that is no dict.
    """

    steps: int
    epoch_steps: int
    out: str | Path | None = None
    resume: bool = False
    log_every: int = 100
    sample_every: int | None = None
    checkpoint_every: int | None = None
    keep: int = 3
    on_nonfinite: str = "raise"
    progress: bool = True
    command: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_nonfinite not in ("raise", "skip"):
            raise ValueError(f'on_nonfinite must be "raise" or "skip", got {self.on_nonfinite!r}')
        for name, least in {"steps": 0, "log_every": 1, "keep": 1}.items():
            check_whole(name, getattr(self, name), least)
        for name in ("sample_every", "checkpoint_every"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 0)
        for name in ("resume", "progress"):
            check_switch(name, getattr(self, name))
        if not isinstance(self.command, dict):
            raise TypeError(f"command must be a dict of the command line's flags, got {describe(self.command)}")
        self.sample_every = max(1, self.steps // 20) if self.sample_every is None else self.sample_every
        self.checkpoint_every = max(1, self.steps // 5) if self.checkpoint_every is None else self.checkpoint_every


def prepare(trainer: Trainable, options: FitOptions) -> RunFolder | None:
    """Claims the run folder, or continues the run in it; errors come before any training and leave it untouched.

    Args:
        trainer: takes over the newest checkpoint of a run that is resumed.
        options: which folder, and whether to resume.

    Returns:
        The folder; None where nothing is written, and in all processes but the first.

    Raises:
        RunFolderError: a folder that is taken, holds no run to resume, or cannot be written.
        CheckpointError: a checkpoint of another run.
    """
    if options.out is None:
        return None
    folder = RunFolder(options.out)
    newest = checkpoint.latest(folder.checkpoints) if options.resume else None
    if newest is not None:
        trainer.restore(newest)
        log.info("resumed %s at step %d", folder.path, trainer.step_count)
    elif options.resume:
        if trainer.world.rank == 0:
            folder.check_can_begin()
        log.info("no checkpoint in %s: starting at step 0", folder.path)
    elif trainer.world.rank == 0:
        folder.check_free()
    if trainer.world.rank:
        return None
    folder.create()
    checkpoint.sweep(folder.checkpoints)
    folder.cut_after(trainer.step_count if newest else -1)
    folder.write_json("config.json", {"fastgan": __version__, **trainer.config(), "command": options.command})
    return folder


class Fit:
    """Runs a trainer until its total of steps, with everything a run reports.

    Args:
        trainer: with its data attached.
        options: how far, and what to report.

    Raises:
        ValueError: as `prepare` does.
    """

    def __init__(self, trainer: Trainable, options: FitOptions) -> None:
        self.trainer, self.options = trainer, options
        self.folder = prepare(trainer, options)
        self.skipped = trainer.skipped
        self.train_seconds = 0.0
        self.last: dict[str, Any] = {}
        self._unfinished: Callable[[], None] | None = None

    def run(self) -> dict[str, Any]:
        """Trains.

        Returns:
            The summary (`Trainer.fit`).

        Raises:
            Interrupted: after a signal and a checkpoint.
            NonFiniteError: an update was withheld and on_nonfinite is "raise"; after a checkpoint.
        """
        trainer, options = self.trainer, self.options
        if trainer.step_count >= options.steps:
            log.info("nothing to do: the run is at step %d of %d", trainer.step_count, options.steps)
            return self._summary()
        show = options.progress and trainer.world.rank == 0
        self.display = display(show, trainer.step_count, options.steps, options.epoch_steps)
        if trainer.step_count == 0:
            self._save()
            self._sample()
        try:
            with Interrupts() as interrupts, frozen_heap():
                received = self._train(interrupts)
        finally:
            self.display.close()
        return self._end(received)

    def _train(self, interrupts: Interrupts) -> int | None:
        trainer, options = self.trainer, self.options
        self.logged_step, self.clock, self.spent = trainer.step_count, mark(trainer.device), 0.0
        while trainer.step_count < options.steps:
            metrics = trainer.step(self._stride())
            step = trainer.step_count
            self.display.advance(step)
            last = step == options.steps
            if last or step % options.log_every == 0:
                self._log(metrics)
            if last or self._due(step, options.sample_every):
                self._pause(self._sample)
            if not last and self._due(step, options.checkpoint_every):
                self._pause(self._save)
            if received := self._received(interrupts, step):
                self._end_log()
                return received
        self._end_log()
        return None

    def _stride(self) -> int:
        """Steps until something has to be done, or as many as a graph has."""
        options, step = self.options, self.trainer.step_count
        periods = [options.log_every, options.sample_every, options.checkpoint_every]
        periods.append(SIGNAL_STRIDE if self.trainer.world.size > 1 else 0)
        stops = [period - step % period for period in periods if period]
        return min(self.trainer.stride, options.steps - step, *stops)

    @staticmethod
    def _due(step: int, every: int | None) -> bool:
        return bool(every and step % every == 0)

    def _pause(self, report: Any) -> None:
        """Reports off the clock: throughput is that of the steps alone."""
        self._synchronise()
        self._end_log()
        stopped = mark(self.trainer.device)
        self._synchronise()
        self.spent += seconds(self.clock, stopped)
        report()
        self.clock = mark(self.trainer.device)

    def _synchronise(self) -> None:
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)

    def _received(self, interrupts: Interrupts, step: int) -> int | None:
        """The signal to stop on; several processes stop at the same step."""
        world = self.trainer.world
        if world.size == 1:
            return interrupts.received
        if step % SIGNAL_STRIDE:
            return None
        flag = torch.tensor(float(interrupts.received or 0), device=self.trainer.device)
        return int(distributed.max_(flag, world.size)) or None

    def _log(self, metrics: Mapping[str, Tensor]) -> None:
        """Begins to log the step just run; on a GPU the row is written when the next one begins, so that no step waits."""
        step, reading = self.trainer.step_count, Reading({**metrics, "skipped": self.trainer.skips})
        self._end_log()
        self._unfinished = lambda: self._write_row(step, reading)
        if self.trainer.device.type == "cpu":
            self._end_log()

    def _end_log(self) -> None:
        write, self._unfinished = self._unfinished, None
        if write:
            write()

    def _write_row(self, step: int, reading: Reading) -> None:
        trainer, options = self.trainer, self.options
        row: dict[str, Any] = {"step": step, "epoch": step / options.epoch_steps, **reading.numbers()}
        spent = self.spent + seconds(self.clock, reading.arrived)
        self.train_seconds += spent
        images = (step - self.logged_step) * trainer.batch_size * trainer.d_steps
        row |= {"images_per_second": images / max(spent, 1e-9), "seconds": self.train_seconds}
        self.logged_step, self.clock, self.spent = step, reading.arrived, 0.0
        self.last = row
        self._check_finite(row)
        self.display.metrics(row)
        if self.folder:
            self.folder.append_metrics(row)

    def _check_finite(self, row: dict[str, Any]) -> None:
        row["skipped"] = skipped = int(row["skipped"])
        if skipped == self.skipped:
            return
        message = f"by step {row['step']}, {skipped - self.skipped} updates or weights were left alone: not finite"
        self.skipped = skipped
        if self.options.on_nonfinite == "raise":
            self._save()
            raise NonFiniteError(f"{message} (on_nonfinite='skip' goes on)")
        log.warning(message)

    def _sample(self) -> None:
        if self.folder and self.options.sample_every:
            samples = self.trainer.sample(PREVIEW_IMAGES)
            if drawing(samples.shape[1:]) == "points":
                samples = self.trainer.sample(PREVIEW_POINTS)
            self.folder.write_samples(self.trainer.step_count, samples)

    def _save(self) -> None:
        if self.folder:
            self.trainer.save(checkpoint.step_folder(self.folder.checkpoints, self.trainer.step_count))
            checkpoint.prune(self.folder.checkpoints, self.options.keep)

    def _end(self, received: int | None) -> dict[str, Any]:
        self._save()
        summary = self._summary()
        if self.folder:
            self.folder.finish(summary)
        if received:
            raise Interrupted(received)
        return summary

    def _summary(self) -> dict[str, Any]:
        trainer = self.trainer
        place = {"device": str(trainer.device), "precision": trainer.precision, "engine": trainer.engine}
        images = self.last.get("images_per_second", 0.0)
        facts = {"fastgan": __version__, "steps": trainer.step_count, "epochs": trainer.step_count / self.options.epoch_steps}
        return facts | {"seconds": self.train_seconds, "images_per_second": images, **place, "last": self.last}
