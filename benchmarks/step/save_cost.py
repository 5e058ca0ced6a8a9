"""What saving costs a run: windows of steps without a save, with one beside the training, and with one in its thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

import fastgan
from fastgan.data import as_image_set
from fastgan.training import checkpoint
from fastgan.training.writer import Writer

BATCH, WINDOW, TURNS = 64, 40, 12  # a window is longer than a save
EVERY, FAST_STEP = 100, 7.0  # steps between saves, and milliseconds of a fast step, for the shares that are printed
NETWORKS = (fastgan.Generator, fastgan.Discriminator)
WAYS = ("no save", "beside the training", "in its thread")


def compare_saves(
    images: Tensor, console: Console, networks: tuple[Callable[[], nn.Module], ...] = NETWORKS, window: int = WINDOW
) -> list[dict[str, Any]]:
    """A row for each way, in microseconds per step, with the milliseconds that a save adds to the window it falls into."""
    trainer = fastgan.Trainer(*(make() for make in networks), seed=0).attach(as_image_set(images), BATCH)
    trainer.step(20 if window >= 20 else 1)
    windows: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, Writer() as writer:
        saves = _Saves(trainer, Path(folder), writer)
        for turn in range(TURNS):
            for way in WAYS[:: -1 if turn % 2 else 1]:
                windows[way].append(_timed(trainer, window, lambda way=way: saves.begin(way), writer))  # type: ignore[misc]
        newest = checkpoint.latest(Path(folder))
        size = sum(file.stat().st_size for file in newest.iterdir()) if newest else 0
    rows = [_row(way, windows, saves, window) | dict(steps=window, bytes=size) for way in WAYS]
    for row in rows[1:]:
        alone, step = f"{row['save_ms']:.0f} ms, {row['save_cpu_ms']:.0f} of a core", rows[0]["p50"] / 1e3
        shares = f"{row['added_ms'] / (EVERY * step):.1%} of {EVERY} steps of {step:.1f} ms, "
        shares += f"{row['added_ms'] / (EVERY * FAST_STEP):.1%} of {EVERY} of {FAST_STEP:.0f} ms"
        console.print(f"a save of {size / 1e6:.1f} MB {row['name']}: {alone}; it adds {row['added_ms']:.0f} ms, {shares}")
    return rows


class _Saves:
    """Begins saves as a run does, and times each by the clock and by its thread's processor time, in milliseconds."""

    def __init__(self, trainer: fastgan.Trainer, root: Path, writer: Writer) -> None:
        self.trainer, self.root, self.writer = trainer, root, writer
        self.times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}

    def begin(self, way: str) -> None:
        if way == "no save":
            return
        self.trainer.background_save = None if way == "in its thread" else self._submit
        place = checkpoint.step_folder(self.root, self.trainer.step_count)
        if way == "in its thread":
            self._write(way, lambda: self.trainer.save(place))
        else:
            self.trainer.save(place)

    def _submit(self, place: Path, saved: checkpoint.Checkpoint) -> None:
        copy = saved.snapshot()
        self.writer.submit(lambda: self._write("beside the training", lambda: checkpoint.save(place, copy)))

    def _write(self, way: str, save: Callable[[], None]) -> None:
        before = time.perf_counter(), time.thread_time()
        save()
        checkpoint.prune(self.root, keep=3)
        self.times[way].append((1e3 * (time.perf_counter() - before[0]), 1e3 * (time.thread_time() - before[1])))


def _timed(trainer: fastgan.Trainer, window: int, begin: Callable[[], None], writer: Writer) -> float:
    """Microseconds per step of a window whose save, if it has one, is done by its end."""
    start = time.perf_counter()
    begin()
    for _ in range(window):
        metrics = trainer.step()
    float(metrics["d_loss"])
    writer.wait()
    return round(1e6 * (time.perf_counter() - start) / window, 2)


def _row(way: str, windows: dict[str, list[float]], saves: _Saves, window: int) -> dict[str, Any]:
    times, peer = windows[way], windows[WAYS[0]]
    added = statistics.median(mine - other for mine, other in zip(times, peer, strict=True)) * window / 1e3
    wall, cpu = (statistics.median(part) for part in zip(*saves.times[way], strict=True)) if saves.times[way] else (0.0, 0.0)
    low, middle, high = statistics.quantiles(times, n=4)
    row = dict(
        label="saves", name=way, shape=[BATCH], p25=round(low, 2), p50=round(middle, 2), p75=round(high, 2), n=len(times)
    )
    costs = dict(save_ms=round(wall, 1), save_cpu_ms=round(cpu, 1), added_ms=round(added, 1))
    return row | costs | dict(peer=WAYS[0], ratio=round(statistics.median(peer) / statistics.median(times), 4), medians=times)
