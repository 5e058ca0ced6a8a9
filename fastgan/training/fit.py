"""One run of a trainer: the loop, what it reports and when, checkpoints, interruption and resumption."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .._version import __version__
from ..runtime import distributed
from ..runtime.distributed import World
from . import checkpoint, files, saved_config
from .checkpoint import Checkpoint
from .device_metrics import Reading, mark, seconds
from .display import display
from .options import FitOptions
from .pictures import drawing
from .report import RunFolder
from .signals import Interrupted, Interrupts
from .writer import Writer

log = logging.getLogger("fastgan")

# several processes agree to stop at the same step: so many steps apart, or so many seconds
SIGNAL_STRIDE, SIGNAL_SECONDS = 16, 1.0
PREVIEW_IMAGES, PREVIEW_POINTS = 64, 1000


class Trainable(Protocol):
    """What a run needs of a trainer."""

    step_count: int
    batch_size: int
    d_steps: int
    device: torch.device
    precision: str
    world: World
    background_save: Callable[[Any, Checkpoint], None] | None

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


def prepare(trainer: Trainable, options: FitOptions) -> RunFolder | None:
    """Claims the run folder, or continues the run in it; errors come before any training and leave it untouched.

    Args:
        trainer: takes over the newest checkpoint of a run that is resumed.
        options: which folder, and whether to resume.

    Returns:
        The folder, locked; None where nothing is written, and in all processes but the first.

    Raises:
        RunFolderError: a folder that is taken, in use, holds no run to resume, or cannot be written.
        CheckpointError: a checkpoint of another run.
    """
    if options.out is None:
        return None
    folder = RunFolder(options.out)
    if trainer.world.rank:
        _resume(trainer, folder, options)
        return None
    with folder.accessed():
        _check_place(folder, options)  # before anything is made there, and again once nobody else can
        folder.lock()
        try:
            resumed = _resume(trainer, folder, options)
            if not resumed:
                _check_place(folder, options, begins=True)
            folder.create()
            folder.sweep()
            folder.cut_after(trainer.step_count if resumed else -1)
            folder.write_json("config.json", {"fastgan": __version__, **trainer.config(), "command": options.command})
        except BaseException:
            folder.unlock()
            raise
    return folder


def _check_place(folder: RunFolder, options: FitOptions, begins: bool = False) -> None:
    if not options.resume:
        folder.check_free()
    elif begins or not folder.has_checkpoints():
        folder.check_can_begin()


def _resume(trainer: Trainable, folder: RunFolder, options: FitOptions) -> bool:
    """Takes over the newest whole checkpoint of a run that is resumed; False where there is none."""
    newest = checkpoint.latest(folder.checkpoints, saved_config.check_whole) if options.resume else None
    if newest is not None:
        trainer.restore(folder.path)
        log.info("resumed %s at step %d", folder.path, trainer.step_count)
    elif options.resume and not folder.has_checkpoints():
        log.info("no checkpoint in %s: starting at step 0", folder.path)
    return newest is not None


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
        rows = self.folder.read_metrics() if self.folder else []
        self.last: dict[str, Any] = rows[-1] if rows else {}
        self.train_seconds = self.last.get("seconds") or 0.0
        self._unfinished: Callable[[], None] | None = None
        self._saved_step = trainer.step_count or None  # at which a checkpoint stands
        self._failing: set[str] = set()  # reports that cannot be written at the moment

    def run(self) -> dict[str, Any]:
        """Trains.

        Returns:
            The summary (`Trainer.fit`).

        Raises:
            Interrupted: after a signal and a checkpoint; after a third signal at once.
            NonFiniteError: an update was withheld and on_nonfinite is "raise"; after a checkpoint.
            CheckpointError: a checkpoint could not be written.
            RunFolderError: the summary could not be written, or rows of metrics.
        """
        try:
            with Interrupts() as self.interrupts, frozen_heap(), Writer() as self.writer:
                self.trainer.background_save = self._begin_write
                return self._run()
        finally:
            self.trainer.background_save = None
            if self.folder:
                self.folder.unlock()

    def _run(self) -> dict[str, Any]:
        trainer, options = self.trainer, self.options
        if trainer.step_count >= options.steps:
            log.info("nothing to do: the run is at step %d of %d", trainer.step_count, options.steps)
            return self._finish()
        show = options.progress and trainer.world.rank == 0
        unread = lambda: self.interrupts.note(signal.SIGPIPE)  # noqa: E731
        self.display = display(show, trainer.step_count, options.steps, options.epoch_steps, unread)
        if trainer.step_count == 0:
            self._save()
            self.writer.wait()  # a run can be resumed from here on, and whatever else it leaves is of a run that can
            self._sample()
        try:
            received = self._train()
        finally:
            self.display.close()
        self._save()
        self.writer.wait()
        if received:
            raise Interrupted(received)
        return self._finish()

    def _train(self) -> int | None:
        """Trains to the end, or to a signal, which is returned."""
        trainer, options = self.trainer, self.options
        self.logged_step, self.clock, self.spent = trainer.step_count, mark(trainer.device), 0.0
        self._agreed = self._next_agreement = trainer.step_count
        self._agreed_at = time.monotonic()
        while trainer.step_count < options.steps:
            if received := self._received():
                break
            metrics = trainer.step(self._stride())
            self.writer.check()
            step = trainer.step_count
            self.display.advance(step)
            last = step == options.steps
            if last or step % options.log_every == 0:
                self._log(metrics)
            if last or self._due(step, options.sample_every):
                self._pause(self._sample)
            if not last and self._due(step, options.checkpoint_every):
                self._pause(self._save)
        self._end_log()
        return received

    def _stride(self) -> int:
        """Steps until something has to be done, or as many as a graph has."""
        options, step = self.options, self.trainer.step_count
        periods = [options.log_every, options.sample_every, options.checkpoint_every]
        stops = [period - step % period for period in periods if period]
        if self.trainer.world.size > 1:
            stops.append(self._next_agreement - step)
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

    def _received(self) -> int | None:
        """The signal to stop on; several processes stop at the same step."""
        world, step = self.trainer.world, self.trainer.step_count
        if world.size == 1:
            return self.interrupts.received
        if step < self._next_agreement:
            return None
        steps, now = step - self._agreed, time.monotonic()
        told = [float(self.interrupts.received or 0), (now - self._agreed_at) / steps if steps else SIGNAL_SECONDS]
        flags = torch.tensor(told, device=self.trainer.device, dtype=torch.float64)
        number, slowest = distributed.max_(flags, world.size).tolist()
        self._agreed, self._agreed_at = step, now
        self._next_agreement = step + min(SIGNAL_STRIDE, max(1, int(SIGNAL_SECONDS / max(slowest, 1e-9))))
        return int(number) or None

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
            folder = self.folder
            self._report("a row of metrics", lambda: folder.append_metrics(row))

    def _report(self, what: str, write: Callable[[], None]) -> None:
        """Writes a report; a full disk does not end the training."""
        try:
            write()
            self._failing.discard(what)
        except OSError as error:
            if what not in self._failing:
                log.warning("%s cannot be written, and the training goes on: %s", what, files.reason(error))
            self._failing.add(what)

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
        if self.folder and self.options.sample_every and not self.interrupts.received:
            folder, samples = self.folder, self.trainer.sample(PREVIEW_IMAGES)
            if drawing(samples.shape[1:]) == "points":
                samples = self.trainer.sample(PREVIEW_POINTS)
            self._report("a sample picture", lambda: folder.write_samples(self.trainer.step_count, samples))

    def _save(self) -> None:
        """Begins to save this step, unless that was done."""
        if self.folder and self._saved_step != self.trainer.step_count:
            self.trainer.save(checkpoint.step_folder(self.folder.checkpoints, self.trainer.step_count))
            self._saved_step = self.trainer.step_count

    def _begin_write(self, place: Path, saved: Checkpoint) -> None:
        """Takes a copy, which training does not change, and begins to write it."""
        copy = saved.snapshot()
        self.writer.submit(lambda: self._write(place, copy))

    def _write(self, place: Path, saved: Checkpoint) -> None:
        """Writes a checkpoint, in the writer's thread."""
        if self.folder:
            self._report("metrics.jsonl", self.folder.sync_metrics)
        checkpoint.save(place, saved)
        if self.folder:
            checkpoint.prune(self.folder.checkpoints, self.options.keep, saved_config.check_whole)

    def _finish(self) -> dict[str, Any]:
        """Writes what a run leaves at its end; whatever trained is saved, so that a signal ends it at once."""
        summary = self._summary()
        with self.interrupts.raising():
            if self.interrupts.received:
                raise Interrupted(self.interrupts.received)
            if self.folder and not self.folder.is_finished(self.trainer.step_count):
                self.folder.finish(summary)
        return summary

    def _summary(self) -> dict[str, Any]:
        trainer = self.trainer
        place = {"device": str(trainer.device), "precision": trainer.precision, "engine": trainer.engine}
        images = self.last.get("images_per_second") or 0.0
        facts = {"fastgan": __version__, "steps": trainer.step_count, "epochs": trainer.step_count / self.options.epoch_steps}
        return facts | {"seconds": self.train_seconds, "images_per_second": images, **place, "last": self.last}
