"""The search for tiles: launches of steps repeated with other tiles, timed, and compared with what the present ones leave.

The launches are of two trainers in turn, so that as many weights and moments pass through the caches as in a step, in a graph
of many launches. What is not compiled in time is not tried.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, as_completed, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fastgan.kernels import tiles
from fastgan.kernels.tiles import Tile

from benchmarks.harness.cuda_graphs import in_a_row
from benchmarks.harness.measurement import Measurement, rate
from benchmarks.tune.candidates import SHARED, choices
from benchmarks.tune.compile import begin, compile_tile, prepare_worker
from benchmarks.tune.launches import Calls, Key, chosen, present, record
from benchmarks.tune.same_results import agrees

LAUNCHES = 48  # of a graph, about
REPLAYS = (7, 25)  # of a first look, and of the best
BEST = 5  # candidates that are looked at again
GAIN = 0.02  # what a new tile must be faster by
LEAST = 3.0  # seconds for a product, however many there are
SECONDS = 8.0  # for a product, at most
JOBS = max(1, min(15, (os.cpu_count() or 2) - 1))  # processes that compile
CASES = ("standard", "wgan-gp")
PATIENCE = 30.0  # seconds until the first candidate is compiled, which no product is charged with

Timer = Callable[[list[Callable[[], None]], int], float]
Compile = Callable[..., Any]


class Product(NamedTuple):
    """A line of the table, and where its launches stand: in which step, and the how-manieth line of it."""

    key: Key
    case: str
    batch: int
    line: int
    calls: list[Callable[[], None]]


class Found(NamedTuple):
    """What was found for a line of the table: the best tile and the one before, microseconds of one launch with each tile."""

    key: Key
    best: Tile
    before: Tile
    times: dict[Tile, float]

    @property
    def line(self) -> str:
        """What is printed of it."""
        times = f"{self.times[self.before]:8.2f} -> {self.times[self.best]:8.2f} us of {len(self.times):3} tiles"
        return f"{self.key.text:70} {times}  {list(self.best)}"

    def measurements(self, precision: str) -> Iterator[Measurement]:
        """Of the tile before, the best, and of a first look the best of each number of parts."""
        times, key = {tile: time_ for tile, time_ in self.times.items() if math.isfinite(time_)}, self.key
        named = {"as it is": self.before, "best": self.best}
        for splits in sorted({tile.splits for tile in times}):
            named[f"best of {splits} parts, first look"] = min((t for t in times if t.splits == splits), key=times.__getitem__)
        for name, tile in named.items():
            facts = dict(tile=list(tile), tried=len(times)) | rate("tflop_per_s", key.flops, [times[tile]])
            yield Measurement(key.kernel, name, [times[tile]], key.shape, precision, facts)


def time_by_graph(calls: list[Callable[[], None]], replays: int) -> float:
    """Microseconds of a launch: the median over replays of a graph with many launches in a row."""
    return statistics.median(in_a_row(calls, LAUNCHES, replays))


def in_turn(ones: Calls, others: Calls) -> Iterator[tuple[Key, list[Callable[[], None]]]]:
    """Two trainers' launches of each line, one by one."""
    for (key, calls), twins in zip(ones.items(), others.values(), strict=True):
        yield key, [call for pair in zip(calls, twins, strict=True) for call in pair]


def products_of(cases: list[str], batch: int, precision: str, device: str) -> list[Product]:
    """The lines of the table that steps of some batch size need, each once."""
    found: dict[str, Product] = {}
    for case in cases:
        twins = [record(case, batch, precision, device) for _ in range(2)]
        for index, (key, calls) in enumerate(in_turn(*twins)):
            found.setdefault(key.text, Product(key, case, batch, index, calls))
    return list(found.values())


class Tuner:
    """Finds tiles for products, as long as there is time. compile_: submits to processes that compile, if there are any."""

    def __init__(self, precision: str, arch: int, timer: Timer, compile_: Compile | None, deadline: float) -> None:
        self.precision, self.arch, self.timer, self.compile, self.deadline = precision, arch, timer, compile_, deadline

    def time(self, product: Product, tile: Tile, replays: int) -> float:
        """Microseconds of a launch with a tile; infinite where it cannot be launched."""
        try:
            with chosen(product.calls, tile):
                return self.timer(product.calls, replays)
        except Exception as error:
            if "out of resource" not in str(error).lower():
                print(f"{product.key.text}: {list(tile)}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return math.inf

    def tune(self, product: Product, jobs: dict[Future, Tile] | list[Tile], seconds: float) -> Found:
        """Times the present tile and the candidates, in the order in which they are compiled, then the best ones again."""
        if isinstance(jobs, dict):
            wait(jobs, max(0.0, min(PATIENCE, self.deadline - time.monotonic())), FIRST_COMPLETED)
        stop = min(time.monotonic() + seconds, self.deadline)
        before = present(product.key, product.calls)
        times = {before: self.time(product, before, REPLAYS[0])}
        if times[before] == math.inf:  # a device does not recover from some errors
            raise RuntimeError(f"{product.key.text} cannot be launched as it is now")
        for tile in self._compiled(jobs, stop) if isinstance(jobs, dict) else jobs:
            if time.monotonic() > stop:
                break
            if tile not in times:
                times[tile] = self.time(product, tile, REPLAYS[0])
        launched = sorted((tile for tile in times if math.isfinite(times[tile])), key=times.__getitem__)
        fastest = [tile for tile in launched[:BEST] if self._agrees(product, tile, before)]
        again = {tile: self.time(product, tile, REPLAYS[1]) for tile in [before, *fastest]}
        best = min(again, key=again.__getitem__)
        # another timing must confirm it, and a tile that is hardly faster is not worth a kernel
        best = best if again[best] < (1.0 - GAIN) * again[before] else before
        with chosen(product.calls, best):
            pass
        return Found(product.key, best, before, times | again)

    def _agrees(self, product: Product, tile: Tile, before: Tile) -> bool:
        """Whether a tile's results are those of the one before; a fault in a kernel or its compiler is said aloud."""
        same = agrees(product.calls, tile, before)
        if not same:
            print(f"{product.key.text}: {list(tile)} is WRONG, it leaves something else than {list(before)}", flush=True)
        return same

    def _compiled(self, jobs: dict[Future, Tile], stop: float) -> Iterator[Tile]:
        limit = SHARED[tiles.nearest(self.arch)] * 1024
        try:
            for job in as_completed(jobs, timeout=max(0.1, stop - time.monotonic())):
                if not job.exception() and job.result() <= limit:
                    yield jobs[job]
        except TimeoutError:
            return
        finally:
            for job in jobs:
                job.cancel()

    def prepare(self, cases: list[str], batch: int, jobs: int) -> None:
        """Lets all processes begin with what every compilation of a batch size needs first."""
        if self.compile is not None:
            for _ in range(jobs):
                self.compile(begin, cases, batch, self.precision)

    def search(self, cases: list[str], batch: int, device: str, seconds: float, only: str = "") -> Iterator[Found]:
        """What is found for the lines of a batch size whose text contains `only`, those that take longest first."""
        products = [product for product in products_of(cases, batch, self.precision, device) if only in product.key.text]
        now = {product.key: self.time(product, present(product.key, product.calls), REPLAYS[0]) for product in products}
        products = sorted(products, key=lambda product: -now[product.key] * len(product.calls))
        jobs = [self._submit(product) for product in products]
        for number, (product, candidates) in enumerate(zip(products, jobs, strict=True)):
            left = self.deadline - time.monotonic()
            if left < 0:
                print(f"no time is left for {len(products) - number} of {len(products)} lines of batch {product.batch}")
                for later in jobs[number:]:
                    for job in later if isinstance(later, dict) else ():
                        job.cancel()
                return
            yield self.tune(product, candidates, min(seconds, max(LEAST, 3.0 * left / (len(products) - number))))

    def _submit(self, product: Product) -> dict[Future, Tile] | list[Tile]:
        candidates = choices(product.key, self.arch)
        if self.compile is None:
            return candidates
        place = product.case, product.batch, self.precision, product.line
        try:
            return {self.compile(compile_tile, *place, tile): tile for tile in candidates}
        except BrokenExecutor as error:
            print(f"candidates are compiled one by one: {error}")
            return candidates


def write(path: Path, entries: dict[str, list[int]]) -> None:
    """The table with new entries, a line each."""
    table = json.loads(path.read_text()) | entries
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table))
    path.write_text(f"{{\n{lines}\n}}\n" if table else "{}\n")


@contextmanager
def tuner(precision: str, arch: int, timer: Timer, deadline: float, jobs: int = JOBS) -> Iterator[Tuner]:
    """A tuner, and inside the processes that compile for it."""
    if not jobs:
        yield Tuner(precision, arch, timer, None, deadline)
        return
    context = multiprocessing.get_context("spawn")
    workers = ProcessPoolExecutor(jobs, mp_context=context, initializer=prepare_worker, initargs=(arch,))
    try:
        yield Tuner(precision, arch, timer, workers.submit, deadline)
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def tune(arguments: argparse.Namespace, arch: int, device: str, timer: Timer, keep: Callable[[dict[str, Any]], None]) -> None:
    """Every batch size in its turn; the table is written after each product."""
    deadline = time.monotonic() + 60.0 * arguments.minutes
    with tuner(arguments.precision, arch, timer, deadline, arguments.jobs) as finder:
        for batch in itertools.takewhile(lambda _: time.monotonic() < deadline, arguments.batch):
            finder.prepare(arguments.case, batch, arguments.jobs)
            total = [0.0, 0.0]
            for found in finder.search(arguments.case, batch, device, arguments.seconds_per_product, arguments.only):
                write(arguments.table, {found.key.text: list(found.best)})
                for measurement in found.measurements(arguments.precision):
                    keep(measurement.row("tiles"))
                total = [total[0] + found.times[found.before], total[1] + found.times[found.best]]
                print(found.line, flush=True)
            print(f"batch {batch}: a launch of each, {total[0]:.1f} -> {total[1]:.1f} us", flush=True)
