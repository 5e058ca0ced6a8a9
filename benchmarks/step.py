"""One training step of fastgan against its peers: python -m benchmarks.step [--case standard] [--batch 64] [--quick].

Every candidate first passes `peers.gate`, then runs in processes of its own, which take turns: thread pools of different
libraries never meet, and a process that is slow throughout, as about one in five is, is one of several. JAX is compared where
it is installed. `--epoch` compares an epoch of `fit`, with its progress bar and metrics, to as many bare steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.epoch import compare_epoch
from benchmarks.harness import ROOT, append, circumstances, machine
from benchmarks.peers import CANDIDATES, PIXELS, WORKS, Candidate, Setup, gate
from fastgan import data

BATCHES = (16, 64, 256, 1024)
ROWS = 60_000  # as many as MNIST has
WARM = dict(steps=10, seconds=0.5, patience=5.0)  # both at least, unless that takes too long
LEAST_SAMPLES = 5
STEPS = dict(cpu=1, cuda=160)  # of one sample: reading a loss must cost nothing beside them
YARDSTICK = "fastgan bf16"
TIMEOUT = 900  # seconds for one process, which may compile
console = Console(width=140)


def digits() -> Tensor:
    """Images of MNIST's shape and kind that need no download: scikit-learn's digits over and over, uint8 [60000, 784]."""
    images = data.load("digits").images.view(-1, PIXELS)
    return images.repeat(-(-ROWS // len(images)), 1)[:ROWS].contiguous()


def samples(play: Callable[[int], Any], steps: int, seconds: float) -> list[float]:
    """Seconds per step of samples of `steps` steps, sorted, after a warm-up. Reading a loss waits for the device."""
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < WARM["patience"] and (count < WARM["steps"] or passed < WARM["seconds"]):
        float(play(steps))
        count += steps
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times) < LEAST_SAMPLES:
        before = time.perf_counter()
        float(play(steps))
        times.append((time.perf_counter() - before) / steps)
    return sorted(times)


def time_one(candidate: Candidate, setup: Setup, seconds: float) -> dict[str, Any]:
    """Builds a player and times its steps, in microseconds; cold_start: seconds to its first step's end, imports left out."""
    peer = candidate.load()
    start = time.perf_counter()
    player = peer(setup)
    float(player.play(1))
    cold = time.perf_counter() - start
    times = samples(player.play, STEPS[setup.images.device.type], seconds)
    p20, p50, p80 = (round(1e6 * times[int(q * (len(times) - 1))], 1) for q in (0.2, 0.5, 0.8))
    return dict(p20=p20, p50=p50, p80=p80, n=len(times), cold_start=round(cold, 3), **getattr(player, "facts", dict)())


def child(arguments: argparse.Namespace) -> None:
    """One candidate in this process; prints one line of JSON."""
    candidate = next(candidate for candidate in CANDIDATES if candidate.name == arguments.child)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = gate.BATCH if arguments.check else arguments.batch[0]
    setup = Setup(WORKS[arguments.case[0]], batch, digits().to(device), candidate.precision)
    try:
        if arguments.check:
            result: dict[str, Any] = dict(found=gate.check(candidate, arguments.case[0], setup))
        else:
            result = time_one(candidate, setup, arguments.seconds)
    except ImportError as error:
        result = dict(skipped=str(error))
    print(json.dumps(result))


class Comparison:
    """The candidates of one work at one batch size."""

    def __init__(self, case: str, batch: int, candidates: list[Candidate], arguments: argparse.Namespace, cache: Path) -> None:
        self.case, self.batch, self.candidates, self.arguments, self.cache = case, batch, candidates, arguments, cache
        self.results: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in candidates}

    def _run(self, candidate: Candidate, *options: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.step", "--child", candidate.name, "--case", self.case]
        command += ["--batch", str(self.batch), "--seconds", str(self.arguments.seconds), *options]
        # a cache of their own, so that the first process of a compiled candidate starts cold
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(self.cache / ("check" if options else "time"))}
        # threads that spin beside somebody else's make steps of a second; a check has no use for them
        environment |= {"OMP_NUM_THREADS": "1"} if options else {}
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
        if run.returncode:
            raise SystemExit(f"{candidate.name}, {self.case}, batch {self.batch}:\n{run.stderr[-3000:]}")
        return json.loads(run.stdout.splitlines()[-1])

    def check(self) -> None:
        """Every candidate through the gate; those whose library is missing are left out."""
        for candidate in list(self.candidates):
            result = self._run(candidate, "--check")
            if "skipped" in result:
                self.candidates.remove(candidate)
            console.print(f"{self.case}: {candidate.name}: {result.get('found') or 'left out: ' + result['skipped']}")

    def measure(self) -> list[dict[str, Any]]:
        """Rounds of processes, each round in another order; a row for each candidate."""
        for round_ in range(self.arguments.rounds):
            turn = round_ % len(self.candidates)
            order = (self.candidates[turn:] + self.candidates[:turn])[:: -1 if round_ % 2 else 1]
            for candidate in order:
                self.results[candidate.name].append(self._run(candidate))
        return [self._row(candidate) for candidate in self.candidates]

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        results = self.results[candidate.name]
        medians = [result["p50"] for result in results]
        row = dict(label=self.case, name=candidate.name, shape=[self.batch], dtype=candidate.precision, **spread(medians))
        yardstick = YARDSTICK if self.results.get(YARDSTICK) else self.candidates[-1].name
        peer = statistics.median(result["p50"] for result in self.results[yardstick])
        starts = [result["cold_start"] for result in results]
        row |= dict(peer=yardstick, ratio=round(peer / row["p50"], 3), medians=medians, steps=sum(r["n"] for r in results))
        row |= dict(cold_start=starts[0], warm_start=round(statistics.median(starts[1:] or starts), 3))
        return row | {name: results[0][name] for name in ("engine", "jax") if name in results[0]}


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


def show(case: str, batch: int, rows: list[dict[str, Any]]) -> None:
    """The table of one comparison, milliseconds per step."""
    title = f"{case}, batch {batch}: ms per step on {machine()}, {torch.get_num_threads()} threads"
    table = Table("candidate", "engine", "p20", "p50", "p80", "processes", "cold s", "warm s", title=title)
    table.add_column(f"{rows[0]['peer']} is")
    for row in rows:
        quantiles = (f"{row[name] / 1e3:.2f}" for name in ("p20", "p50", "p80"))
        starts = (f"{row[name]:.2f}" for name in ("cold_start", "warm_start"))
        verdict = f"{1 / row['ratio']:.2f} times as fast"
        table.add_row(row["name"], row.get("engine", ""), *quantiles, str(row["n"]), *starts, verdict)
    console.print(table)


def compare(case: str, batch: int, arguments: argparse.Namespace, check: bool) -> None:
    """One work at one batch size: the gate, the rounds, the rows, the table."""
    chosen = [c for c in CANDIDATES if case in c.works and (c.name == YARDSTICK or arguments.only in c.name)]
    with tempfile.TemporaryDirectory() as cache:
        comparison = Comparison(case, batch, chosen, arguments, Path(cache))
        if check:
            comparison.check()
        rows = comparison.measure()
    for row in rows:
        keep(row, write=not arguments.no_rows, quick=arguments.quick)
    show(case, batch, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--only", default="", help="candidates whose name contains this, and the yardstick")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each candidate")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed in each process")
    parser.add_argument("--no-rows", action="store_true", help="print, keep nothing")
    parser.add_argument("--quick", action="store_true", help="batch 64, two processes of half a second")
    parser.add_argument("--epoch", action="store_true", help="an epoch of fit against bare steps")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.batch = 2, 0.5, [64]
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.child:
        child(arguments)
    elif arguments.epoch:
        for row in compare_epoch(digits(), console):
            keep(row, write=not arguments.no_rows, quick=arguments.quick)
    else:
        for case in arguments.case:
            for batch in arguments.batch:
                compare(case, batch, arguments, check=batch == arguments.batch[0])


if __name__ == "__main__":
    main()
