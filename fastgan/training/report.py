"""What a run leaves behind: its folder, and in it metrics, sample grids, loss curves, an animation, a summary."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..runtime.arguments import describe
from . import checkpoint_places, files, lock
from .arguments import as_path
from .checkpoint_files import CONFIG, MOST_JSON
from .metrics_file import MetricsFile, plain
from .pictures import drawing, figure, write_grid

log = logging.getLogger("fastgan")

ANIMATION_FRAMES = 100
PICTURE = re.compile(r"(?P<dot>\.?)(?P<name>step_\d{8,})\.png")  # of samples; with a dot before it, in the making
MOST_CONFIG = MOST_JSON[CONFIG]
FILES = ("config.json", "metrics.jsonl", "losses.png", "samples.gif", "summary.json")  # of a run, besides its two folders


class RunFolderError(ValueError):
    """A run folder cannot be used; the message says why and what to do."""


class RunFolder:
    """One run's files: config.json, metrics.jsonl, samples/, losses.png, samples.gif, checkpoints/, summary.json.

    Args:
        path: the folder, which need not be there yet.

    Raises:
        TypeError: no path.
        RunFolderError: a path with a null character.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path("out", path, RunFolderError)
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self.without_pictures = False  # whether that was said
        self._rows = MetricsFile(self.metrics)
        self._lock: lock.FolderLock | None = None

    def check_free(self) -> None:
        """Checks that nothing stands there.

        Raises:
            RunFolderError: something does, or no such path can be.
        """
        with self.accessed():
            free = not self.path.exists() or (self.path.is_dir() and set(os.listdir(self.path)) <= {lock.NAME})
        if not free:
            advice = "continue it with --resume, or choose another --out"
            raise RunFolderError(f"{self.path} already exists and was left untouched: {advice}")

    def lock(self) -> None:
        """Makes the folder and keeps other runs out of it, until `unlock` or the end of the process.

        Raises:
            RunFolderError: another run writes there, or none can.
        """
        with self.accessed():
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = lock.FolderLock(self.path)
            except lock.FolderInUse as holder:
                raise RunFolderError(
                    f"{self.path} is being written by {holder}: wait for it, or choose another --out"
                ) from None

    def unlock(self) -> None:
        """Lets other runs in."""
        if self._lock:
            self._lock.release()

    @contextmanager
    def accessed(self) -> Iterator[None]:
        """Inside, an error of the system is a RunFolderError about this folder."""
        try:
            yield
        except OSError as error:
            advice = "" if files.is_fault(error) else "; choose another --out"
            raise RunFolderError(f"{self.path} cannot be written: {files.reason(error)}{advice}") from error

    def check_can_begin(self) -> None:
        """Checks that a run without a checkpoint can begin here: in a free place, or where one was stopped before its first.

        Raises:
            RunFolderError: the place lies inside a run, or has files of something else, or a run that would be lost.
        """
        outer = next((parent for parent in self.path.resolve().parents if RunFolder(parent).is_run()), None)
        if outer is not None:
            raise RunFolderError(
                f"{self.path} lies inside the run {outer} and was left untouched: continue that one with --out {outer}, "
                "or choose another --out"
            )
        with self.accessed():
            if not self.path.exists():
                return
            names = [file.name for file in self.path.iterdir()] if self.path.is_dir() else [self.path.name]
        foreign = sorted(name for name in names if not (self.path.is_dir() and self._is_own(name)))
        if foreign:
            raise RunFolderError(
                f"{self.path} is no run and was left untouched, it has {foreign[0]}: "
                "name the run's folder with --out, or a new one"
            )
        with self.accessed():
            has_rows = self.metrics.is_file() and self.metrics.stat().st_size
        if has_rows or self.pictures() or self.has_checkpoints():
            raise RunFolderError(
                f"{self.path} holds a run without a whole checkpoint, which cannot be continued, and was left untouched: "
                "begin anew without --resume, and choose another --out"
            )

    def has_checkpoints(self) -> bool:
        """Whether a checkpoint of a step stands there, be it damaged.

        Returns:
            True if there is one.
        """
        return bool(checkpoint_places.places(self.checkpoints))

    def _is_own(self, name: str) -> bool:
        """Whether a run wrote the file or folder of this name; some have a dot before it until they are whole."""
        if name == "config.json":
            return self.is_run()
        own = (*FILES, lock.NAME, self.samples.name, self.checkpoints.name)
        return name in own or name.removeprefix(".") in FILES or name.startswith(".probe.")

    def is_run(self) -> bool:
        """Whether a run was begun here.

        Returns:
            True if there is the configuration of one.
        """
        try:
            return "fastgan" in self.read_config()
        except RunFolderError:
            return False

    def create(self) -> None:
        """Makes the folders and finds out that they can be written, before any training.

        Raises:
            RunFolderError: they cannot.
        """
        with self.accessed():
            self.samples.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            probe = self.path / f".probe.{os.getpid()}"
            files.write(probe, b"")
            probe.unlink()

    def sweep(self) -> None:
        """Clears up what a run that was killed has left half made."""
        checkpoint_places.sweep(self.checkpoints)
        partial = [files.partial_of(self.path / name) for name in FILES]
        partial += self._pictures(".").values()
        for path in partial:
            with suppress(OSError):
                os.unlink(path)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file whole or not at all; it is on the disk when this returns.

        Args:
            name: the file's, in the folder.
            content: plain data; null is written for numbers that are not finite.

        Raises:
            RunFolderError: it cannot be written.
        """
        text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
        try:
            files.replace(self.path / name, text.encode())
        except OSError as error:
            raise RunFolderError(f"{self.path / name} cannot be written: {files.reason(error)}") from error

    def read_config(self) -> dict[str, Any]:
        """The run's configuration.

        Returns:
            What config.json holds.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        return self._read_json("config.json")

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(files.read(self.path / name, MOST_CONFIG))
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{self.path} holds no run: its {name} is missing or damaged") from error
        if not isinstance(content, dict):
            raise RunFolderError(f"{self.path} holds no run: its {name} holds {describe(content)}, not a configuration")
        return content

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl.

        Args:
            row: numbers by their names; null is written for those that are not finite.

        Raises:
            OSError: it cannot be written now; it is kept, and written with the next one.
        """
        self._rows.append(row)

    def sync_metrics(self) -> None:
        """Puts the rows on the disk."""
        self._rows.sync()

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows so far.

        Returns:
            One for each line that is whole, with None for whatever is no finite number.
        """
        return self._rows.numbers()

    def cut_after(self, step: int) -> None:
        """Forgets metrics and samples past a step, because a resumed run makes them again.

        Args:
            step: the last one that is kept.
        """
        self._rows.cut_after(step)
        for number, picture in self.pictures().items():
            if number > step:
                picture.unlink()

    def pictures(self) -> dict[int, Path]:
        """The sample grids by their steps, in order.

        Returns:
            The files that `write_samples` wrote.
        """
        return dict(sorted(self._pictures("").items()))

    def _pictures(self, dot: str) -> dict[int, Path]:
        """Files by their steps; a link, a folder, or another way to write a step is a person's own."""
        found = {}
        for file in os.scandir(self.samples) if self.samples.is_dir() else ():
            named = PICTURE.fullmatch(file.name)
            step = checkpoint_places.step_of(named["name"]) if named and named["dot"] == dot else None
            if step is not None and file.is_file(follow_symlinks=False):
                found[step] = self.samples / file.name
        return found

    def write_samples(self, step: int, images: Tensor) -> None:
        """Writes samples/step_00000040.png; of samples that no picture shows, says so once and writes nothing.

        Args:
            step: the steps done.
            images: what `write_grid` draws.

        Raises:
            OSError: it cannot be written.
        """
        if drawing(images.shape[1:]) is None:
            if not self.without_pictures:
                log.warning("no picture shows samples of shape %s: %s stays empty", tuple(images.shape[1:]), self.samples)
            self.without_pictures = True
            return
        with files.replacing(self.samples / f"step_{step:08d}.png") as partial:
            write_grid(partial, images)

    def is_finished(self, step: int) -> bool:
        """Whether a run to this step has left everything that `finish` writes.

        Args:
            step: the steps done.

        Returns:
            True if there is a summary of this step.
        """
        try:
            return self._read_json("summary.json").get("steps") == step
        except RunFolderError:
            return False

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes losses.png, samples.gif and, last, summary.json.

        Args:
            summary: plain data.

        Raises:
            RunFolderError: metrics or the summary cannot be written; pictures that cannot are left out with a warning.
        """
        try:
            self._rows.flush()
        except OSError as error:
            raise RunFolderError(f"{self.metrics} cannot be written, rows are lost: {files.reason(error)}") from error
        rows, pictures = self.read_metrics(), list(self.pictures().values())
        if rows:
            with self._optional("losses.png") as path:
                plot_losses(path, rows)
        if len(pictures) > 1:
            with self._optional("samples.gif") as path:
                animate(path, pictures)
        self.write_json("summary.json", summary)

    @contextmanager
    def _optional(self, name: str) -> Iterator[Path]:
        """Inside, a picture is made at the path given; where that fails, the run does not."""
        try:
            with files.replacing(self.path / name) as partial:
                yield partial
        except OSError as error:
            log.warning("%s cannot be written: %s", self.path / name, files.reason(error))


def plot_losses(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Draws both losses above, D's mean outputs below, over the steps; nothing where there are no rows.

    Args:
        path: of the PNG.
        rows: metrics, each with step, d_loss, g_loss, d_real and d_fake.
    """
    rows = list(rows)
    if not rows:
        return
    drawn = figure(8, 6)
    axes = drawn.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in rows]
    for axis, names, label in ((axes[0], ("d_loss", "g_loss"), "loss"), (axes[1], ("d_real", "d_fake"), "mean logit")):
        for name in names:
            values = [math.nan if row.get(name) is None else row[name] for row in rows]
            axis.plot(steps, values, label=name, linewidth=1)
        axis.set_ylabel(label)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[1].set_xlabel("step")
    drawn.savefig(path, dpi=100)


def animate(path: Path, pictures: list[Path]) -> None:
    """Makes a GIF of sample grids, thinned to at most ANIMATION_FRAMES frames; nothing where there are fewer than two.

    Args:
        path: of the GIF.
        pictures: the grids' files, in order.
    """
    if len(pictures) < 2:
        return
    stride = -(-len(pictures) // ANIMATION_FRAMES)
    frames = [frame for picture in pictures[::-1][::stride][::-1] if (frame := _frame(picture))]
    alike = [frame for frame in frames if frame.size == frames[-1].size]
    if len(alike) > 1:
        durations = [120] * (len(alike) - 1) + [1500]
        alike[0].save(path, save_all=True, append_images=alike[1:], duration=durations, loop=0)


def _frame(picture: Path) -> Image.Image | None:
    """A grid as a frame; None, and a warning, for one that was cut off."""
    try:
        with Image.open(picture) as image:
            return image.convert("P")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # whatever Pillow finds wrong
        log.warning("%s is left out of the animation: %s", picture, error)
        return None
