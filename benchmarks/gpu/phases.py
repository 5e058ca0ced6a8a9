"""What a captured step consists of, launch by launch: python -m benchmarks.gpu.phases [--batch 64].

A launch's time is the profiler's, a median over replays; the gap is from the end of the launch before it, below 0 where
programmatic dependent launch lets it begin earlier: it then waits within its own time, so that what a launch adds to the step
is from one end to the next. Where the profiler does not see into graphs, each launch of an eager step is timed by events.
`said` is what benchmarks.gpu.predict expects a launch to add; a row is kept of each launch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fastgan.kernels.launch import architecture

import fastgan
from benchmarks.gpu.cards import CARDS, card_of
from benchmarks.gpu.trace import Launch, Phase, phases, short, traced
from benchmarks.harness.rows import ROOT, append, circumstances, machine
from fastgan.chain.triton_tiles import TritonProducts
from fastgan.engines.closed_form.step import ClosedFormStep
from fastgan.engines.cuda_graph import Captured
from fastgan.ops import backend

STEPS, REPLAYS = 16, 12
TIMES = ("time", "gap", "adds", "alone", "said")


def measurements(
    found: list[Phase], alone: list[Phase], said: list[tuple[str, float]], *, profiled: bool = True
) -> list[dict[str, Any]]:
    """A row's fields for each launch of a step, in microseconds.

    alone: the same without dependent launches overlapping; said: kernels and what they were expected to add. What is not of
    the same launches is left out. profiled: not timed between events, which know of no gaps.
    """
    names = [short(phase.launch.name).removesuffix("_kernel") for phase in found]
    others = [phase.time for phase in alone] if len(alone) == len(found) else [None] * len(found)
    expected = [time for _, time in said] if [name for name, _ in said] == names else [None] * len(found)
    columns = zip(found, names, others, expected, strict=True)
    rows = [dict(name=n, time=p.time, gap=p.gap, adds=p.adds, alone=a, said=s) for p, n, a, s in columns]
    return rows if profiled else [row | dict(gap=None, adds=None) for row in rows]


def in_order(found: list[Phase], rows: list[dict[str, Any]]) -> Iterable[str]:
    """A line for each launch of a step, and one for their sums."""
    yield f"{'':>3} {'kernel':20} {'grid':>9} {'thr':>4} {'reg':>4} {'shared':>7} " + " ".join(f"{name:>7}" for name in TIMES)
    for index, (phase, row) in enumerate(zip(found, rows, strict=True)):
        one = phase.launch
        yield f"{index + 1:3} {row['name']:20} {one.grid:>9} {one.block:4} {one.registers:4} {one.shared:7} {_times(row)}"
    sums = {name: None if any(row[name] is None for row in rows) else sum(row[name] for row in rows) for name in TIMES}
    yield f"{'':>3} {f'sum of {len(rows)} launches':20} {'':27} {_times(sums)}"


def _times(row: dict[str, Any]) -> str:
    return " ".join(f"{'-':>7}" if row[name] is None else f"{row[name]:7.2f}" for name in TIMES)


def predicted(case: str, batch: int) -> list[tuple[str, float]]:
    """What benchmarks.gpu.predict expects of a step's launches on a device like this one; [] where it fails."""
    loss, arch = "nonsaturating" if case == "standard" else case, architecture()
    command = ["-m", "benchmarks.gpu.predict", "--json", "--case", loss, "--batch", str(batch), "--arch", str(arch)]
    command += ["--card", next(name for name, card in CARDS.items() if card is card_of(machine()))]
    run = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        print(f"no prediction: {run.stderr[-500:]}")
        return []
    return [(name, time) for name, time in json.loads(run.stdout.splitlines()[-1])]


def keep(case: str, batch: int, rows: list[dict[str, Any]], method: str) -> None:
    """Stores a row for each launch."""
    common = dict(method=method) | circumstances(quick=False)
    for place, row in enumerate(rows, start=1):
        times = {name: None if row[name] is None else round(row[name], 3) for name in TIMES}
        append(
            dict(benchmark="phases", label=case, name=row["name"], shape=[batch], dtype="bf16", place=place) | times | common
        )


def by_kernel(found: list[Phase]) -> Iterable[str]:
    """A line for each kernel of a step, the costliest first."""
    groups: dict[str, list[Phase]] = {}
    for phase in found:
        groups.setdefault(short(phase.launch.name), []).append(phase)
    yield f"{'kernel':36} {'launches':>8} {'us each':>8} {'us':>8} {'adds':>8}"
    for name, members in sorted(groups.items(), key=lambda item: -sum(p.adds for p in item[1])):
        time_, adds = sum(p.time for p in members), sum(p.adds for p in members)
        yield f"{name:36} {len(members):8} {time_ / len(members):8.2f} {time_:8.2f} {adds:8.2f}"
    totals = sum(p.time for p in found), sum(p.adds for p in found)
    yield f"{'sum':36} {len(found):8} {'':8} {totals[0]:8.2f} {totals[1]:8.2f}"


def trainer_of(case: str, batch: int, **options: Any) -> fastgan.Trainer:
    """A trainer of the article's networks on random pictures."""
    loss = "nonsaturating" if case == "standard" else case
    images = torch.randint(0, 256, (60_000, 784), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = dict(loss=loss, precision="bf16", steps_per_graph=STEPS, device="cuda") | options
    return fastgan.Trainer(fastgan.Generator(), fastgan.Discriminator(), **given).attach(images, batch)


def overlap(trainer: fastgan.Trainer, allowed: bool) -> None:
    """Whether a step's launches may begin before the ones before them end, where the device has that."""
    assert isinstance(trainer._runner.engine, ClosedFormStep)
    for products in trainer._runner.engine.products:
        if isinstance(products, TritonProducts):
            products.launch.pdl = allowed and products.launch.arch >= 90


def replayed(trainer: fastgan.Trainer) -> list[Phase]:
    """The phases of a captured step; [] where the profiler does not see them."""
    trainer.step(4 * STEPS)
    player = trainer._runner.player
    assert isinstance(player, Captured)
    if player.problem or not player.graphs:
        print("steps are not captured:", player.problem)
        return []
    graph = [graph for key, graph in player.graphs.items() if key[4] == STEPS][-1]
    launches = traced(lambda: [graph.replay() for _ in range(REPLAYS)])
    if not (found := phases(launches, REPLAYS, STEPS)):
        print(f"the profiler shows no steps: {len(launches)} launches in {REPLAYS} replays of {STEPS} steps")
    return found


def timed_by_events(case: str, batch: int) -> list[Phase]:
    """The kernels of an eager step, each between two events; what torch itself launches is missing, and gaps are."""
    from fastgan.kernels.launch import Launcher

    pairs: list[tuple[str, str, Any, Any]] = []

    class Timed(Launcher):
        def run(self, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]) -> None:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            super().run(kernel, grid, arguments, options)
            end.record()
            pairs.append((getattr(kernel, "__name__", "?"), "x".join(map(str, grid)), begin, end))

    backend.launch_by(Timed)
    try:
        trainer = trainer_of(case, batch, capture="off")
        trainer.step(3)
        overlap(trainer, False)
        trainer.step(1)
        pairs.clear()
        trainer.step(REPLAYS)
        torch.cuda.synchronize()
    finally:
        backend.launch_by(None)
    size = len(pairs) // REPLAYS
    found = []
    for index in range(size):
        name, grid, *_ = pairs[index]
        own = statistics.median(1e3 * begin.elapsed_time(end) for _, _, begin, end in pairs[index::size])
        found.append(Phase(Launch(name, grid, 0.0, own), own, 0.0, own))
    return found


def host_and_device(trainer: fastgan.Trainer) -> str:
    """A line: microseconds of a step on the device, and of the host for a replay, for a call of `step`, and for one step."""
    trainer.step(20 * STEPS)
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {"device": [], "call": [], "one": []}
    for _ in range(15):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        trainer.step(10 * STEPS)
        end.record()
        torch.cuda.synchronize()
        times["device"].append(1e3 * begin.elapsed_time(end) / (10 * STEPS))
        times["call"].append(_host(lambda: trainer.step(STEPS)))
        times["one"].append(_host(lambda: trainer.step(1)))
    middle = {name: statistics.median(values) for name, values in times.items()}
    line = f"{middle['device']:.2f} us of a step on the device; host: {middle['call']:.1f} us for step({STEPS}), "
    line += f"{middle['call'] / STEPS:.2f} a step, {middle['one']:.1f} for step(1)"
    graphs = getattr(trainer._runner.player, "graphs", {})
    replays = {key[4]: statistics.median(_host(graph.replay) for _ in range(15)) for key, graph in graphs.items()}
    return line + "".join(f", {host:.1f} for a replay of {steps}" for steps, host in sorted(replays.items()))


def _host(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    passed = 1e6 * (time.perf_counter() - start)
    torch.cuda.synchronize()
    return passed


def show(case: str, batch: int) -> None:
    """A case's phases: of the standard step in their order, of others by kernel."""
    trainer = trainer_of(case, batch)
    print(f"\n{case}, batch {batch}, bf16, on {machine()}: {host_and_device(trainer)}")
    found = replayed(trainer)
    alone: list[Phase] = []
    if seen := bool(found):
        apart = trainer_of(case, batch)
        overlap(apart, False)
        alone = replayed(apart)
    else:
        print("eager launches instead, each between two events, which add some us")
        found = timed_by_events(case, batch)
    rows = measurements(found, alone, predicted(case, batch), profiled=seen)
    keep(case, batch, rows, "profiler" if seen else "events")
    print("\n".join(in_order(found, rows) if case == "standard" else by_kernel(found)), flush=True)
    if case != "standard" and all(row["said"] is not None for row in rows):
        print(f"said: {sum(row['said'] for row in rows):.2f} us")
    if alone and case != "standard":
        print(f"without overlap of dependent launches: {sum(p.time for p in alone):.2f} us in {len(alone)} launches")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.phases", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", default=["standard", "wgan-gp"])
    parser.add_argument("--batch", nargs="+", type=int, default=[64])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu.phases needs a CUDA device")
    for case in arguments.case:
        for batch in arguments.batch:
            show(case, batch)


if __name__ == "__main__":
    main()
