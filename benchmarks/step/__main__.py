"""One training step of fastgan against its peers: python -m benchmarks.step [--case standard] [--batch 64] [--quick].

Every candidate first passes `peers.gate`, then runs in processes of its own, which take turns: thread pools of different
libraries never meet, and a process that is slow throughout, as about one in five is, is one of several. JAX is compared where
it is installed. `--epoch` compares an epoch of `fit`, with its progress bar and metrics, to as many bare steps, `--saves` runs
with checkpoints of several cadences.

`--minutes` bounds everything: what does not fit is left out. Then fastgan is timed first, those that compile for long last, and
rows are kept as soon as they are there. `--keep-cache` lets processes find what was compiled before: no row has a cold start.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.peers import PIXELS, WORKS, Candidate, Setup, candidates, gate, named
from benchmarks.step.comparison import Comparison, keep, show, yardstick
from benchmarks.step.fit_overhead import compare_epoch
from benchmarks.step.save_cost import compare_saves
from fastgan import data
from fastgan.runtime.device import has_native_bf16

BATCHES = (16, 64, 256, 1024)
ROWS = 60_000  # as many as MNIST has
WARM = dict(steps=10, seconds=0.5, patience=5.0)  # both at least, unless that takes too long
LEAST_SAMPLES = 5
STEPS = dict(cpu=1, cuda=160)  # of one sample: reading a loss must cost nothing beside them
SLOW_SAMPLE = 0.5  # seconds: a sample that would be longer has fewer steps
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


def sample_steps(play: Callable[[int], Any], device: str) -> int:
    """How many steps a sample has: as many as hide its end, but no more than fit into half of a second."""
    if device == "cpu":
        return STEPS[device]
    before = time.perf_counter()
    float(play(1))
    return max(1, min(STEPS[device], int(SLOW_SAMPLE / (time.perf_counter() - before))))


def time_one(candidate: Candidate, setup: Setup, seconds: float) -> dict[str, Any]:
    """Builds a player and times its steps, in microseconds; cold_start: seconds to its first step's end, imports left out."""
    peer = candidate.load()
    start = time.perf_counter()
    player = peer(setup)
    float(player.play(1))
    cold = time.perf_counter() - start
    times = samples(player.play, sample_steps(player.play, setup.images.device.type), seconds)
    p20, p50, p80 = (round(1e6 * times[int(q * (len(times) - 1))], 1) for q in (0.2, 0.5, 0.8))
    return dict(p20=p20, p50=p50, p80=p80, n=len(times), cold_start=round(cold, 3), **getattr(player, "facts", dict)())


def child(arguments: argparse.Namespace) -> None:
    """One candidate in this process; prints one line of JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    candidate = named(arguments.child, device)
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


def choose(case: str, arguments: argparse.Namespace) -> list[Candidate]:
    """Who is compared in a work: the yardstick, and those asked for."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    everyone = [named(name, device) for name in arguments.candidates] if arguments.candidates else candidates(device)
    chosen = [c for c in everyone if case in c.works and (c.name == arguments.yardstick or arguments.only in c.name)]
    return [c for c in chosen if c.name not in arguments.refused[case]]


def compare(case: str, batch: int, arguments: argparse.Namespace, check: bool) -> None:
    """One work at one batch size: the gate, the rounds, the rows, the table."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = None if arguments.keep_cache else Path(folder)
        comparison = Comparison(case, batch, choose(case, arguments), arguments, cache, console, arguments.yardstick)
        for found in comparison.rows(check):
            for row in found:
                keep(row, write=not arguments.no_rows, quick=arguments.quick)
            rows += found
            show(case, batch, rows, console)
    arguments.failures += comparison.failures


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--batch", nargs="+", type=int, help=f"{' '.join(map(str, BATCHES))} unless given, 64 if --quick")
    parser.add_argument("--more", nargs="+", type=int, default=[], help="batch sizes of the first case after all else")
    parser.add_argument("--only", default="", help="candidates whose name contains this, and the yardstick")
    parser.add_argument("--candidates", nargs="+", metavar="NAME", help="these, in this order")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each candidate")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed in each process")
    parser.add_argument("--minutes", type=float, help="for everything: begins nothing that is not expected to end by then")
    parser.add_argument("--keep-going", action="store_true", help="leave candidates that fail out, and fail at the end")
    parser.add_argument("--keep-cache", action="store_true", help="compile nothing again that was compiled before")
    parser.add_argument("--no-rows", action="store_true", help="print, keep nothing")
    parser.add_argument("--quick", action="store_true", help="two processes of half a second, batch 64 unless given")
    parser.add_argument("--epoch", action="store_true", help="an epoch of fit against bare steps")
    parser.add_argument("--saves", action="store_true", help="what checkpoints cost a run")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.batch = 2, 0.5, arguments.batch or [64]
    arguments.batch = arguments.batch or list(BATCHES)
    arguments.deadline = None if arguments.minutes is None else time.monotonic() + 60.0 * arguments.minutes
    arguments.refused, arguments.failures = {case: set() for case in WORKS}, []
    arguments.yardstick = yardstick(has_native_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.child:
        child(arguments)
    elif arguments.epoch or arguments.saves:
        for row in (compare_epoch if arguments.epoch else compare_saves)(digits(), console):
            keep(row, write=not arguments.no_rows, quick=arguments.quick)
    else:
        for case in arguments.case:
            for batch in arguments.batch:
                compare(case, batch, arguments, check=batch == arguments.batch[0])
        for batch in arguments.more:
            compare(arguments.case[0], batch, arguments, check=False)
        if arguments.failures:
            raise SystemExit("\n".join(arguments.failures))


if __name__ == "__main__":
    main()
