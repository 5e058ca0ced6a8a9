"""What fit's progress bar, metrics and run folder cost: an epoch of it against as many bare steps."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

import fastgan
from fastgan.data import as_image_set

BATCH, TURNS = 64, 3


def compare_epoch(images: Tensor, console: Console) -> list[dict[str, Any]]:
    """One trainer that plays epochs in three ways, in turns; a row for each, in microseconds per step."""
    trainer = fastgan.Trainer(fastgan.Generator(), fastgan.Discriminator())
    data = as_image_set(images)
    trainer.attach(data, BATCH).step(20)
    steps = trainer.steps_per_epoch()

    def fit(out: Path | None) -> None:
        trainer.fit(data, steps=trainer.step_count + steps, batch_size=BATCH, out=out)

    def fit_in_folder() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fit(Path(folder) / "run")

    def bare() -> None:
        for _ in range(steps):
            metrics = trainer.step()
        float(metrics["d_loss"])

    ways = {"bare steps": bare, "fit": lambda: fit(None), "fit with a run folder": fit_in_folder}
    times = _take_turns(ways, steps)
    rows = [
        _row(name, times[name], times["bare steps"]) | dict(dtype=trainer.precision, engine=trainer.engine, steps=steps)
        for name in ways
    ]
    for row in rows:
        share = f"{1 / row['ratio']:.3f} of bare steps' time"
        console.print(f"epoch of {steps} steps, {trainer.engine}: {row['name']}: {row['p50'] / 1e3:.3f} ms per step, {share}")
    return rows


def _take_turns(ways: dict[str, Callable[[], None]], steps: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            with _terminal():
                start = time.perf_counter()
                ways[name]()
                times[name].append(round(1e6 * (time.perf_counter() - start) / steps, 2))
    return times


@contextlib.contextmanager
def _terminal() -> Any:
    """A terminal that nobody looks at: the bar is drawn, and drawn away."""
    before = os.environ.get("FORCE_COLOR")
    os.environ["FORCE_COLOR"] = "1"
    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            yield
    finally:
        if before is None:
            del os.environ["FORCE_COLOR"]
        else:
            os.environ["FORCE_COLOR"] = before


def _row(name: str, times: list[float], peer: list[float]) -> dict[str, Any]:
    ratio = round(statistics.median(peer) / statistics.median(times), 4)
    row = dict(label="epoch", name=name, shape=[BATCH], p20=min(times), p50=statistics.median(times), p80=max(times))
    return row | dict(n=len(times), peer="bare steps", ratio=ratio, medians=times)
