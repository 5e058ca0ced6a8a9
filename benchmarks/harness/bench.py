"""Times named candidates side by side and keeps every measurement as one JSON line.

A benchmark makes a `Bench`, hands it candidates that do the same work, checks them, and prints the table at the end:

    bench = Bench("ops.loss", quick=False)
    bench.compare({"torch": f, "fastgan": g}, check=gate, shape=(64, 1), dtype="float32", bytes_moved=512, label="hinge")
    bench.print()
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness.measurement import quantiles
from benchmarks.harness.rows import append, circumstances

PATIENCE = {False: 1.0, True: 0.1}  # seconds for each candidate, full and quick
SAMPLE = 1e-3  # seconds that one sample takes at least, so that the clock costs nothing
SAMPLES = (7, 200)  # at least and at most
WARM = 0.1  # seconds of a call after which no other is needed to warm up


def synchronize() -> None:
    """Wait for the device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _sample(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize()
    return (time.perf_counter() - start) / calls


def measure(candidates: Mapping[str, Callable[[], Any]], *, patience: float) -> dict[str, list[float]]:
    """Seconds per call of each candidate, sorted; the candidates take turns, so a slow spell of the machine is in all of them.

    patience: seconds for each candidate, as far as there are samples to take.
    """
    for function in candidates.values():
        for _ in range(3):
            if _sample(function, 1) > WARM:
                break
    once = {name: _sample(function, 1) for name, function in candidates.items()}
    calls = {name: max(1, int(SAMPLE / seconds)) for name, seconds in once.items()}
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    stop = time.perf_counter() + patience * len(candidates)
    for round_ in range(SAMPLES[1]):
        if round_ >= SAMPLES[0] and time.perf_counter() > stop:
            break
        order = list(candidates)[:: 1 if round_ % 2 else -1]
        for name in order:
            samples[name].append(_sample(candidates[name], calls[name]))
    return {name: sorted(values) for name, values in samples.items()}


def parser(benchmark: str, description: str) -> argparse.ArgumentParser:
    """What every benchmark of operators can be told. benchmark: its name, as a `Bench` has it."""
    given = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", description=description.splitlines()[0])
    given.add_argument("--quick", action="store_true", help="few sizes and a tenth of the time")
    given.add_argument("--only", default="", help="cases whose label contains this")
    given.add_argument("--no-rows", action="store_true", help="print the table, keep no rows")
    return given


class Bench:
    """One benchmark: compares candidates case by case, prints a table, and appends rows to results/<machine>.jsonl."""

    def __init__(self, benchmark: str, *, quick: bool = False, keep: bool = True, patience: float | None = None) -> None:
        self.benchmark, self.keep = benchmark, keep
        self.patience = PATIENCE[quick] if quick or patience is None else patience
        self.common = circumstances(quick)
        self.rows: list[dict[str, Any]] = []

    def compare(
        self,
        candidates: Mapping[str, Callable[[], Any]],
        *,
        check: Callable[[], None],
        label: str,
        shape: tuple[int, ...],
        dtype: str,
        peer: str | None = None,
        bytes_moved: int | None = None,
    ) -> dict[str, float]:
        """Run `check` (it raises when a candidate is wrong), then time. Returns how many times faster than peer each is.

        peer: the first candidate unless named; bytes_moved: what the work must move at least, for GB/s.
        """
        check()
        times = measure(candidates, patience=self.patience)
        peer = peer or next(iter(candidates))
        ratios = {name: statistics.median(times[peer]) / statistics.median(values) for name, values in times.items()}
        for name, values in times.items():
            found = quantiles([1e6 * value for value in values])
            row: dict[str, Any] = dict(benchmark=self.benchmark, label=label, name=name, shape=list(shape), dtype=dtype)
            row |= found | dict(peer=peer, ratio=round(ratios[name], 3))
            rate = round(bytes_moved / found["p50"] / 1e3, 2) if bytes_moved else None
            row |= dict(bytes=bytes_moved, gb_per_s=rate)
            self._add(row | self.common | dict(load=round(os.getloadavg()[0], 2)))
        return ratios

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.keep:
            append(row)

    def print(self) -> None:
        """The table of everything measured so far, microseconds per call."""
        columns = ("label", "shape", "dtype", "name", "p20", "p50", "p80", "n", "ratio", "gb_per_s")
        table = Table(*columns, title=f"{self.benchmark} on {self.common['machine']}, {self.common['threads']} threads, us")
        for row in self.rows:
            table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
        Console(width=140).print(table)
