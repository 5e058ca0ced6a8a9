"""What saving costs a run: the same steps with checkpoints of other cadences, written beside the training or in its thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from torch import Tensor, nn

import fastgan
from fastgan.data import as_image_set
from fastgan.training import checkpoint
from fastgan.training.writer import Writer

BATCH, STEPS, TURNS = 64, 800, 3
EVERY = (100, 400)  # the second: the default of a run of 2,000 steps, a fifth of it
NETWORKS = (fastgan.Generator, fastgan.Discriminator)


def compare_saves(
    images: Tensor, console: Console, networks: tuple[Callable[[], nn.Module], ...] = NETWORKS, steps: int = STEPS
) -> list[dict[str, Any]]:
    """Runs of as many steps that save at several cadences, in turns; a row for each, in microseconds per step."""
    data = as_image_set(images)
    ways: dict[str, tuple[int, bool]] = {"no saves": (0, False)}
    for every in EVERY:
        ways[f"every {every} steps"] = (every, False)
        ways[f"every {every} steps, in the training's thread"] = (every, True)
    found: dict[str, dict[str, list[float]]] = {name: {"us": [], "ms": [], "cpu_ms": []} for name in ways}
    size = 0
    for turn in range(TURNS):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            every, inline = ways[name]
            with tempfile.TemporaryDirectory() as folder, _timed_saves(inline) as saves:
                trainer = fastgan.Trainer(*(make() for make in networks), seed=0)
                spent = _timed_fit(trainer, data, Path(folder) / "run", steps, every)
                newest = checkpoint.latest(Path(folder) / "run" / "checkpoints")
                size = sum(file.stat().st_size for file in newest.iterdir()) if newest else 0
            found[name]["us"].append(round(1e6 * spent / steps, 2))
            found[name]["ms"] += [wall for wall, _ in saves]
            found[name]["cpu_ms"] += [cpu for _, cpu in saves]
    rows = [_row(name, found[name], found["no saves"]["us"]) | dict(steps=steps, bytes=size) for name in ways]
    for row in rows:
        share, saves_of = (
            f"{1 / row['ratio'] - 1:+.1%} of the time",
            f"{row['save_ms']:.0f} ms, {row['save_cpu_ms']:.0f} of a core",
        )
        console.print(
            f"{row['name']}: {row['p50'] / 1e3:.3f} ms per step, {share}; a save of {size / 1e6:.1f} MB takes {saves_of}"
        )
    return rows


def _timed_fit(trainer: fastgan.Trainer, data: fastgan.data.ImageSet, out: Path, steps: int, every: int) -> float:
    """Seconds of a run's steps and of the saves among them, without the first and the last save."""
    marks: list[float] = []
    step = trainer.step

    def marked(n: int = 1) -> Any:
        if not marks:
            marks.append(time.perf_counter())
        metrics = step(n)
        if trainer.step_count == steps:
            float(metrics["d_loss"])
            marks.append(time.perf_counter())
        return metrics

    trainer.step = marked  # type: ignore[method-assign]
    trainer.fit(
        data, steps=steps, batch_size=BATCH, out=out, log_every=steps, sample_every=0, checkpoint_every=every, progress=False
    )
    return marks[-1] - marks[0]


@contextmanager
def _timed_saves(inline: bool) -> Iterator[list[tuple[float, float]]]:
    """Inside, milliseconds of each save, by the clock and by its thread's processor time; inline: in the training's thread."""
    saves: list[tuple[float, float]] = []
    save = checkpoint.save

    def timed(folder: Path, content: checkpoint.Checkpoint) -> None:
        before = time.perf_counter(), time.thread_time()
        save(folder, content)
        saves.append((1e3 * (time.perf_counter() - before[0]), 1e3 * (time.thread_time() - before[1])))

    with (
        mock.patch.object(checkpoint, "save", timed),
        mock.patch.object(Writer, "submit", _at_once if inline else Writer.submit),
    ):
        yield saves


def _at_once(writer: Writer, job: Callable[[], None]) -> None:
    job()


def _row(name: str, found: dict[str, list[float]], peer: list[float]) -> dict[str, Any]:
    times = found["us"]
    ratio = round(statistics.median(peer) / statistics.median(times), 4)
    row = dict(label="saves", name=name, shape=[BATCH], p20=min(times), p50=statistics.median(times), p80=max(times))
    saves = {f"save_{unit}": round(statistics.median(found[unit]), 1) for unit in ("ms", "cpu_ms")}
    return row | saves | dict(n=len(times), peer="no saves", ratio=ratio, medians=times)
