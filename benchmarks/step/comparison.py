"""The candidates of one work at one batch size, each in processes of its own: checked, timed in turns, and put into rows.

Where time is limited they come in groups, so that there are rows before it ends: fastgan, then those that a check takes seconds
of, then those that compile for a minute. A group is timed only after its check. fastgan takes its turn in each of them, and
ratios are of what was timed in turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness.rows import ROOT, append, circumstances, machine
from benchmarks.peers import WORKS, Candidate, flops

YARDSTICK = "fastgan bf16"  # the candidate that all others are compared with, where products in bf16 are native


def yardstick(native_bf16: bool) -> str:
    """The candidate that all others are compared with: fastgan in the precision that it chooses."""
    return YARDSTICK if native_bf16 else "fastgan fp32"


TIMEOUT = 900  # seconds for one process, which may compile
EXPECTED = 15.0  # seconds that a process takes, as long as none has been seen
CHECKS = 4  # at a time on a GPU; on a CPU each would slow down the others
FACTS = ("engine", "steps_per_graph", "jax")  # what a row says besides times


class Failed(RuntimeError):
    """A candidate's process ended with an error, or did not end in time."""


def groups(candidates: list[Candidate], yardstick: str, arguments: argparse.Namespace) -> list[list[Candidate]]:
    """Who is checked and timed together; all, unless time is limited. Candidates that were named keep their order."""

    def kind(candidate: Candidate) -> tuple[bool, bool]:
        return candidate.name != yardstick, candidate.compiles

    if arguments.minutes is None:
        return [candidates] if candidates else []
    ordered = candidates if arguments.candidates else sorted(candidates, key=kind)
    return [list(group) for _, group in itertools.groupby(ordered, key=kind)]


class Comparison:
    """The candidates of one work at one batch size. cache: a folder for what they compile; None: where they always keep it."""

    def __init__(
        self,
        case: str,
        batch: int,
        candidates: list[Candidate],
        arguments: argparse.Namespace,
        cache: Path | None,
        console: Console,
        yardstick: str,
    ) -> None:
        self.case, self.batch, self.candidates, self.arguments, self.cache = case, batch, candidates, arguments, cache
        self.console, self.yardstick = console, yardstick
        self.peer: list[dict[str, Any]] = []  # the yardstick's newest results
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
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if self.cache:  # of their own, so that the first process of a compiled candidate starts cold
            cache = str(self.cache / ("check" if options else "time"))
            environment |= {"TORCHINDUCTOR_CACHE_DIR": cache}
            environment |= {"TRITON_CACHE_DIR": f"{cache}/triton"} if torch.cuda.is_available() else {}
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

    def rows(self, check: bool) -> Iterator[list[dict[str, Any]]]:
        """The rows of each group of candidates, as soon as there are any. check: they must pass the gate first."""
        for group in groups(self.candidates, self.yardstick, self.arguments):
            passed = self._check(group) if check else group
            if passed and (rows := self._measure(passed)):
                yield rows

    def _check(self, group: list[Candidate]) -> list[Candidate]:
        """Those of a group that pass the gate. Others, or whose library is missing, are left out of later comparisons too."""
        passed = []
        with ThreadPoolExecutor(CHECKS if torch.cuda.is_available() else 1) as pool:
            results = pool.map(lambda candidate: self._try(candidate, "--check"), group)
            for candidate, result in zip(group, results, strict=True):
                if "skipped" in result:
                    self.arguments.refused[self.case].add(candidate.name)
                else:
                    passed.append(candidate)
                self.console.print(f"{self.case}: {candidate.name}: {result.get('found') or 'left out: ' + result['skipped']}")
        for candidate in group:
            self.took.pop(candidate.name, None)  # a check takes another time
        return passed

    def _measure(self, group: list[Candidate]) -> list[dict[str, Any]]:
        """Rounds of processes, each round in another order; a row for each candidate of a group."""
        results: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in group}
        again = [c for c in self.candidates if c.name == self.yardstick and self.peer]
        timed = again + group
        results |= {candidate.name: [] for candidate in again}
        for round_ in range(self.arguments.rounds):
            turn = round_ % len(timed)
            for candidate in (timed[turn:] + timed[:turn])[:: -1 if round_ % 2 else 1]:
                result = self._try(candidate)
                if "skipped" not in result:
                    results[candidate.name].append(result | dict(name=candidate.name))
                elif not results[candidate.name]:
                    self.console.print(f"{self.case}, batch {self.batch}: {candidate.name}: left out: {result['skipped']}")
        self.peer = results.get(self.yardstick) or self.peer
        found = [candidate for candidate in group if results[candidate.name]]
        return [self._row(candidate, results[candidate.name], results[found[-1].name]) for candidate in found]

    def _row(self, candidate: Candidate, results: list[dict[str, Any]], last: list[dict[str, Any]]) -> dict[str, Any]:
        """last: of the group's last candidate, which stands in for a yardstick that was not timed."""
        medians = [result["p50"] for result in results]
        row = dict(
            run=self.run, label=self.case, name=candidate.name, shape=[self.batch], dtype=candidate.precision, **spread(medians)
        )
        ratio = statistics.median(result["p50"] for result in self.peer or last) / row["p50"]
        row |= dict(peer=self.yardstick if self.peer else last[0]["name"], ratio=round(ratio, 3))
        row |= dict(medians=medians, steps=sum(r["n"] for r in results))
        operations = flops(WORKS[self.case], self.batch)
        row |= dict(flops=operations, tflop_per_s=round(operations / row["p50"] / 1e6, 4))
        starts = [result["cold_start"] for result in results]
        if self.cache:  # else no process began cold
            row |= dict(cold_start=starts[0])
            starts = starts[1:] or starts
        row |= dict(warm_start=round(statistics.median(starts), 3))
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
        starts = (f"{row[name]:.2f}" if name in row else "" for name in ("cold_start", "warm_start"))
        verdict = f"{1 / row['ratio']:.2f} times as fast"
        table.add_row(row["name"], row.get("engine", ""), *quantiles, str(row["n"]), *starts, verdict)
    console.print(table)
