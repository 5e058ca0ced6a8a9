"""What a captured step consists of, launch by launch: python -m benchmarks.phases [--batch 64].

A launch's time is the profiler's, a median over replays; the gap is from the end of the launch before it, below 0 where
programmatic dependent launch lets it begin earlier: it then waits within its own time, so that what a launch adds to the step
is from one end to the next. Where the profiler does not see into graphs, each launch of an eager step is timed by events.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import fastgan
from benchmarks.harness import machine
from fastgan.ops.tiled import TiledProducts
from fastgan.step.graph import Captured

STEPS, REPLAYS = 16, 12
FIRST = "numbers_kernel"  # a step begins with its latents
DEVICE_EVENTS = ("kernel", "gpu_memcpy", "gpu_memset")


class Launch(NamedTuple):
    """One launch: times in microseconds."""

    name: str
    grid: str
    begin: float
    end: float
    block: int = 0
    registers: int = 0
    shared: int = 0

    @property
    def kind(self) -> tuple[str, str]:
        return self.name, self.grid


class Phase(NamedTuple):
    """A launch's place in a step, and medians over steps: its own time, the gap before it, from the last end to its own."""

    launch: Launch
    time: float
    gap: float
    adds: float


def read_trace(trace: dict[str, Any]) -> list[Launch]:
    """What ran on the device, in the order of its beginnings, from a trace in Chrome's format."""
    found = []
    for event in trace["traceEvents"]:
        if event.get("ph") == "X" and event.get("cat") in DEVICE_EVENTS:
            details = event.get("args", {})
            grid = "x".join(str(extent) for extent in details.get("grid", ())) or "-"
            sizes = (details.get(name) or 0 for name in ("registers per thread", "shared memory"))
            threads = 1
            for extent in details.get("block", ()):
                threads *= extent
            begin, duration = float(event["ts"]), float(event["dur"])
            found.append(Launch(event["name"], grid, begin, begin + duration, threads, *sizes))
    return sorted(found, key=lambda launch: launch.begin)


def period(kinds: list[Any], steps: int) -> tuple[int, int]:
    """Where all steps but one of a replay repeat each other, and how many launches one has; (0, 0) if they do not.

    The first step makes room for results, and the last one settles them.
    """
    for length in range(1, len(kinds) // max(1, steps - 1) + 1):
        for first in range(len(kinds) - length * (steps - 1) + 1):
            repeats = length * (steps - 2)
            if kinds[first : first + repeats] == kinds[first + length : first + length + repeats]:
                return first, length
    return 0, 0


def phases(launches: list[Launch], replays: int, steps: int) -> list[Phase]:
    """The launches of a step, medians over its repetitions inside replays; [] where no step is found."""
    size = len(launches) // replays
    if not size or len(launches) % replays:
        return []
    runs = [launches[index * size : (index + 1) * size] for index in range(replays)]
    first, length = period([launch.kind for launch in runs[0]], steps)
    if not length or any([a.kind for a in run] != [b.kind for b in runs[0]] for run in runs):
        return []
    first += next((index for index in range(length) if FIRST in runs[0][first + index].name), 0)
    places = [(run, first + step * length) for run in runs for step in range(1, steps - 2)]
    found = []
    for index in range(length):
        pairs = [(run[start + index - 1], run[start + index]) for run, start in places]
        times = statistics.median(own.end - own.begin for _, own in pairs)
        gap = statistics.median(own.begin - before.end for before, own in pairs)
        adds = statistics.median(own.end - before.end for before, own in pairs)
        found.append(Phase(pairs[0][1], times, gap, adds))
    return found


def short(name: str) -> str:
    """A kernel's name without types and arguments."""
    name = name.removeprefix("void ").replace("at::native::", "").replace("(anonymous namespace)::", "")
    return name.partition("(")[0].partition("<")[0][:34] + ("<>" if "<" in name else "")


def in_order(found: list[Phase], alone: list[Phase]) -> Iterable[str]:
    """A line for each launch of a step. alone: the same without dependent launches overlapping, or []."""
    yield f"{'':>3} {'kernel':36} {'grid':>9} {'thr':>4} {'reg':>4} {'shared':>7} {'us':>7} {'gap':>7} {'adds':>7} {'alone':>7}"
    for index, phase in enumerate(found):
        one, same = phase.launch, len(alone) == len(found)
        sizes = f"{one.block:4} {one.registers:4} {one.shared:7}"
        own = f"{alone[index].time:7.2f}" if same else f"{'-':>7}"
        times = f"{phase.time:7.2f} {phase.gap:7.2f} {phase.adds:7.2f} {own}"
        yield f"{index + 1:3} {short(one.name):36} {one.grid:>9} {sizes} {times}"
    sums = [sum(values) for values in zip(*((p.time, p.gap, p.adds) for p in found), strict=True)]
    total = f"{sum(p.time for p in alone):7.2f}" if alone else f"{'-':>7}"
    yield f"{'':>3} {'sum of ' + str(len(found)) + ' launches':36} {'':27} " + " ".join(f"{s:7.2f}" for s in sums) + f" {total}"


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
    given = dict(loss=loss, precision="bf16", steps_per_graph=STEPS, device="cuda") | options
    return fastgan.Trainer(fastgan.Generator(), fastgan.Discriminator(), **given).attach(images, batch)


def overlap(trainer: fastgan.Trainer, allowed: bool) -> None:
    """Whether a step's launches may begin before the ones before them end, where the device has that."""
    for products in trainer._step.products:
        if isinstance(products, TiledProducts):
            products.launch.pdl = allowed and products.launch.arch >= 90


def traced(run: Callable[[], Any]) -> list[Launch]:
    """What a function runs on the device, as the profiler sees it; [] where it sees nothing."""
    from torch.profiler import ProfilerActivity, profile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], acc_events=True) as profiler:
            run()
            torch.cuda.synchronize()
        profiler.export_chrome_trace(str(path))
        return read_trace(json.loads(path.read_text(errors="replace")))


def replayed(trainer: fastgan.Trainer) -> list[Phase]:
    """The phases of a captured step; [] where the profiler does not see them."""
    trainer.step(4 * STEPS)
    player = trainer._player
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
    from fastgan.kernels import launch

    trainer, run = trainer_of(case, batch, capture="off"), launch.Launcher.run
    trainer.step(3)
    overlap(trainer, False)
    trainer.step(1)
    pairs: list[tuple[str, Any, Any, Any]] = []

    def between(self: Any, kernel: Any, grid: tuple[int, ...], *arguments: Any, **named: Any) -> None:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(self, kernel, grid, *arguments, **named)
        end.record()
        pairs.append((getattr(kernel, "__name__", "?"), "x".join(map(str, grid)), begin, end))

    launch.Launcher.run = between  # type: ignore[method-assign]
    try:
        trainer.step(REPLAYS)
        torch.cuda.synchronize()
    finally:
        launch.Launcher.run = run  # type: ignore[method-assign]
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
    graphs = getattr(trainer._player, "graphs", {})
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
    if found:
        apart = trainer_of(case, batch)
        overlap(apart, False)
        alone = replayed(apart)
    else:
        print("eager launches instead, each between two events, which add some us")
        found = timed_by_events(case, batch)
    print("\n".join(in_order(found, alone) if case == "standard" else by_kernel(found)), flush=True)
    if alone and case != "standard":
        print(f"without overlap of dependent launches: {sum(p.time for p in alone):.2f} us in {len(alone)} launches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=["standard", "wgan-gp"])
    parser.add_argument("--batch", nargs="+", type=int, default=[64])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.phases needs a CUDA device")
    for case in arguments.case:
        for batch in arguments.batch:
            show(case, batch)


if __name__ == "__main__":
    main()
