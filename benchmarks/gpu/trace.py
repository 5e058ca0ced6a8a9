"""Launches as the profiler saw them on a device, and the step that repeats itself among them."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

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

    The first step makes room for results, and the last one flushes them.
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
