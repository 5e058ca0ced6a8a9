"""What a run leaves behind and shows: metrics, sample grids, loss curves, an animation, a progress bar."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ..runtime.arguments import describe
from .arguments import as_path
from .pictures import drawing, figure, write_grid

log = logging.getLogger("fastgan")

ANIMATION_FRAMES = 100
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

    def check_free(self) -> None:
        """Checks that nothing stands there.

        Raises:
            RunFolderError: something does, or no such path can be.
        """
        with self._accessed():
            free = not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))
        if not free:
            advice = "continue it with --resume, or choose another --out"
            raise RunFolderError(f"{self.path} already exists and was left untouched: {advice}")

    @contextmanager
    def _accessed(self) -> Iterator[None]:
        """Inside, an error of the system is a RunFolderError about this folder."""
        try:
            yield
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}; choose another --out") from error

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
        with self._accessed():
            if not self.path.exists():
                return
            names = [file.name for file in self.path.iterdir()] if self.path.is_dir() else [self.path.name]
        foreign = sorted(name for name in names if not (self.path.is_dir() and self._is_own(name)))
        if foreign:
            raise RunFolderError(
                f"{self.path} is no run and was left untouched, it has {foreign[0]}: "
                "name the run's folder with --out, or a new one"
            )
        if self.read_metrics() or any(self.checkpoints.glob("step_*")):
            raise RunFolderError(
                f"{self.path} holds a run without a whole checkpoint, which cannot be continued, and was left untouched: "
                "choose another --out"
            )

    def _is_own(self, name: str) -> bool:
        """Whether a run wrote the file or folder of this name; some have a dot before it until they are whole."""
        if name == "config.json":
            return self.is_run()
        return name.removeprefix(".") in (*FILES, self.samples.name, self.checkpoints.name) or name.startswith(".probe.")

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
        with self._accessed():
            self.samples.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            probe = self.path / f".probe.{os.getpid()}"
            probe.write_text("")
            probe.unlink()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file whole or not at all.

        Args:
            name: the file's, in the folder.
            content: plain data.
        """
        partial = self.path / f".{name}"
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(self.path / name)

    def read_config(self) -> dict[str, Any]:
        """The run's configuration.

        Returns:
            What config.json holds.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        try:
            config = json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path} holds no run: its config.json is missing or damaged") from error
        if not isinstance(config, dict):
            raise RunFolderError(f"{self.path} holds no run: its config.json holds {describe(config)}, not a configuration")
        return config

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl.

        Args:
            row: numbers by their names.
        """
        with self.metrics.open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows so far.

        Returns:
            One for each line; a last line that was cut off by a crash is left out.
        """
        rows = []
        for line in self.metrics.read_text().splitlines() if self.metrics.is_file() else ():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def cut_after(self, step: int) -> None:
        """Forgets metrics and samples past a step, because a resumed run makes them again.

        Args:
            step: the last one that is kept.
        """
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        self.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for picture in self.samples.glob("step_*.png"):
            if int(picture.stem.removeprefix("step_")) > step:
                picture.unlink()

    def write_samples(self, step: int, images: Tensor) -> None:
        """Writes samples/step_00000040.png; of samples that no picture shows, says so once and writes nothing.

        Args:
            step: the steps done.
            images: what `write_grid` draws.
        """
        if drawing(images.shape[1:]) is None:
            if not self.without_pictures:
                log.warning("no picture shows samples of shape %s: %s stays empty", tuple(images.shape[1:]), self.samples)
            self.without_pictures = True
            return
        write_grid(self.samples / f"step_{step:08d}.png", images)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes losses.png, samples.gif and summary.json.

        Args:
            summary: plain data.
        """
        plot_losses(self.path / "losses.png", self.read_metrics())
        animate(self.path / "samples.gif", sorted(self.samples.glob("step_*.png")))
        self.write_json("summary.json", summary)


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
            axis.plot(steps, [row[name] for row in rows], label=name, linewidth=1)
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
    chosen = pictures[::-1][::stride][::-1]
    frames = [Image.open(picture).convert("P") for picture in chosen]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[120] * (len(frames) - 1) + [1500], loop=0)


class Display(Protocol):
    """How progress is shown."""

    def advance(self, step: int) -> None: ...

    def metrics(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class PlainLines:
    """One line at every report, for logs and pipes."""

    def __init__(self, console: Console, start: int, total: int, epoch_steps: int) -> None:
        self.console, self.total, self.epoch_steps = console, total, epoch_steps

    def advance(self, step: int) -> None:
        pass

    def metrics(self, row: Mapping[str, Any]) -> None:
        place = f"step {row['step']}/{self.total}  epoch {row['step'] / self.epoch_steps:.2f}"
        losses = f"d_loss {row['d_loss']:.4f}  g_loss {row['g_loss']:.4f}"
        logits = f"D(real) {row['d_real']:+.3f}  D(fake) {row['d_fake']:+.3f}"
        line = f"{place}  {losses}  {logits}  {row['images_per_second']:,.0f} images/s"
        self.console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        pass


class Bar:
    """A progress bar with losses, images per second and time left, for terminals."""

    REFRESH_SECONDS = 0.1

    def __init__(self, console: Console, start: int, total: int, epoch_steps: int) -> None:
        left = TimeRemainingColumn(compact=True)
        # 80 columns hold all of it with a bar of 20
        columns = (BarColumn(20), MofNCompleteColumn(), left, TextColumn("{task.fields[losses]}"))
        self.progress = Progress(*columns, console=console, auto_refresh=False)
        self.progress.start()
        self.task = self.progress.add_task("train", total=total, completed=start, losses="")
        self.due = 0.0

    def advance(self, step: int) -> None:
        # redrawing takes about a millisecond, a step not much longer
        now = time.monotonic()
        if now >= self.due:
            self.due = now + self.REFRESH_SECONDS
            self.progress.update(self.task, completed=step, refresh=True)

    def metrics(self, row: Mapping[str, Any]) -> None:
        losses = f"d {row['d_loss']:.3f} g {row['g_loss']:.3f}"
        self.progress.update(self.task, completed=row["step"], losses=f"{losses} {row['images_per_second']:,.0f} images/s")

    def close(self) -> None:
        self.progress.refresh()
        self.progress.stop()


class Silent:
    """Shows nothing."""

    def advance(self, step: int) -> None:
        pass

    def metrics(self, row: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def display(show: bool, start: int, total: int, epoch_steps: int) -> Display:
    """How progress is shown here: by a bar on a terminal, by plain lines elsewhere.

    Args:
        show: False for nothing at all.
        start: the steps done before.
        total: the whole run's steps.
        epoch_steps: steps in an epoch.

    Returns:
        What is told of each step.
    """
    if not show:
        return Silent()
    console = Console()
    return (Bar if console.is_terminal else PlainLines)(console, start, total, epoch_steps)
