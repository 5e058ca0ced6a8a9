"""The candidates of one work at one batch size, each in processes of its own: checked, timed in turns, and put into rows."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import ROOT, append, circumstances, machine
from benchmarks.peers import WORKS, Candidate, flops

TIMEOUT = 900  # seconds for one process, which may compile
EXPECTED = 15.0  # seconds that a process takes, as long as none has been seen
CHECKS = 4  # at a time on a GPU; on a CPU each would slow down the others
FACTS = ("engine", "steps_per_graph", "jax")  # what a row says besides times


class Failed(RuntimeError):
    """A candidate's process ended with an error, or did not end in time."""


class Comparison:
    """The candidates of one work at one batch size."""

    def __init__(
        self,
        case: str,
        batch: int,
        candidates: list[Candidate],
        arguments: argparse.Namespace,
        cache: Path,
        console: Console,
        yardstick: str,
    ) -> None:
        self.case, self.batch, self.candidates, self.arguments, self.cache = case, batch, candidates, arguments, cache
        self.console, self.yardstick = console, yardstick
        self.results: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in candidates}
        self.took: dict[str, float] = {}  # seconds of a candidate's last process
        self.failures: list[str] = []
        self.run = int(time.time())  # what rows of one run have in common

    def _time_left(self) -> float:
        deadline = self.arguments.deadline
        return float("inf") if deadline is None else deadline - time.monotonic()

    def _run(self, candidate: Candidate, *options: str) -> dict[str, Any]:
        """What a process of a candidate prints; Failed where it has an error, or no time."""
        command = [sys.executable, "-m", "benchmarks.step", "--child", candidate.name, "--case", self.case]
        command += ["--batch", str(self.batch), "--seconds", str(self.arguments.seconds), *options]
        # a cache of their own, so that the first process of a compiled candidate starts cold
        cache = str(self.cache / ("check" if options else "time"))
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if torch.cuda.is_available():
            environment |= {"TRITON_CACHE_DIR": f"{cache}/triton"}
        # threads that spin beside somebody else's make steps of a second; a check has no use for them
        environment |= {"OMP_NUM_THREADS": "1"} if options else {}
        place, limit = f"{candidate.name}, {self.case}, batch {self.batch}", max(5.0, min(TIMEOUT, self._time_left()))
        start = time.monotonic()
        try:
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"{place}: not done after {limit:.0f} s") from None
        self.took[candidate.name] = time.monotonic() - start
        lines = run.stdout.splitlines()
        if run.returncode or not lines:
            raise Failed(f"{place}:\n{run.stderr[-3000:]}")
        return json.loads(lines[-1])

    def _try(self, candidate: Candidate, *options: str) -> dict[str, Any]:
        """The same, or why there is no result."""
        if self._time_left() < self.took.get(candidate.name, EXPECTED):
            return dict(skipped="no time is left")
        try:
            return self._run(candidate, *options)
        except Failed as failure:
            if not self.arguments.keep_going:
                raise SystemExit(str(failure)) from None
            self.failures.append(str(failure))
            return dict(skipped=str(failure))

    def check(self) -> set[str]:
        """Every candidate through the gate. Those that fail, or whose library is missing, are left out, and returned."""
        jobs = CHECKS if torch.cuda.is_available() else 1
        with ThreadPoolExecutor(jobs) as pool:
            results = pool.map(lambda candidate: self._try(candidate, "--check"), list(self.candidates))
            for candidate, result in zip(list(self.candidates), results, strict=True):
                if "skipped" in result:
                    self.candidates.remove(candidate)
                self.console.print(f"{self.case}: {candidate.name}: {result.get('found') or 'left out: ' + result['skipped']}")
        left_out = self.results.keys() - {candidate.name for candidate in self.candidates}
        self.took.clear()  # a check takes another time
        return left_out

    def measure(self) -> list[dict[str, Any]]:
        """Rounds of processes, each round in another order; a row for each candidate."""
        for round_ in range(self.arguments.rounds if self.candidates else 0):
            turn = round_ % len(self.candidates)
            order = (self.candidates[turn:] + self.candidates[:turn])[:: -1 if round_ % 2 else 1]
            for candidate in order:
                result = self._try(candidate)
                if "skipped" not in result:
                    self.results[candidate.name].append(result)
                elif not self.results[candidate.name]:
                    self.console.print(f"{self.case}, batch {self.batch}: {candidate.name}: left out: {result['skipped']}")
        self.candidates = [candidate for candidate in self.candidates if self.results[candidate.name]]
        return [self._row(candidate) for candidate in self.candidates]

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        results = self.results[candidate.name]
        medians = [result["p50"] for result in results]
        row = dict(
            run=self.run, label=self.case, name=candidate.name, shape=[self.batch], dtype=candidate.precision, **spread(medians)
        )
        yardstick = self.yardstick if self.results.get(self.yardstick) else self.candidates[-1].name
        peer = statistics.median(result["p50"] for result in self.results[yardstick])
        starts = [result["cold_start"] for result in results]
        row |= dict(peer=yardstick, ratio=round(peer / row["p50"], 3), medians=medians, steps=sum(r["n"] for r in results))
        operations = flops(WORKS[self.case], self.batch)
        row |= dict(flops=operations, tflop_per_s=round(operations / row["p50"] / 1e6, 4))
        row |= dict(cold_start=starts[0], warm_start=round(statistics.median(starts[1:] or starts), 3))
        return row | {name: results[0][name] for name in FACTS if name in results[0]}


def spread(medians: list[float]) -> dict[str, Any]:
    """Quantiles over processes."""
    ordered = sorted(medians)
    p20, p80 = (ordered[round(q * (len(ordered) - 1))] for q in (0.2, 0.8))
    return dict(p20=p20, p50=round(statistics.median(ordered), 1), p80=p80, n=len(ordered))


def keep(row: dict[str, Any], *, write: bool, quick: bool) -> None:
    """Stores a row, if wanted, with the circumstances of its measurement."""
    around = circumstances(quick)
    if "jax" in row:
        around["versions"]["jax"] = row.pop("jax")
    if write:
        append(dict(benchmark="step") | row | around)


def show(case: str, batch: int, rows: list[dict[str, Any]], console: Console) -> None:
    """The table of one comparison, milliseconds per step on a CPU and microseconds on a GPU."""
    gpu = torch.cuda.is_available()
    unit, scale, digits = ("us", 1.0, 1) if gpu else ("ms", 1e3, 2)
    where = machine() if gpu else f"{machine()}, {torch.get_num_threads()} threads"
    title = f"{case}, batch {batch}: {unit} per step on {where}"
    table = Table("candidate", "engine", "p20", "p50", "p80", "processes", "cold s", "warm s", title=title)
    table.add_column(f"{rows[0]['peer']} is")
    for row in rows:
        quantiles = (f"{row[name] / scale:.{digits}f}" for name in ("p20", "p50", "p80"))
        starts = (f"{row[name]:.2f}" for name in ("cold_start", "warm_start"))
        verdict = f"{1 / row['ratio']:.2f} times as fast"
        table.add_row(row["name"], row.get("engine", ""), *quantiles, str(row["n"]), *starts, verdict)
    console.print(table)
