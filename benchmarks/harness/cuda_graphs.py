"""What launches take on a device: they are captured in a CUDA graph, and its replays are timed between two events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastgan.engines.cuda_graph import uncollected

WARM_SIZE = 4096  # of the product that keeps the device busy


def warm(seconds: float = 1.0) -> None:
    """Products, until the clocks have risen from where an idle device leaves them."""
    x = torch.randn(WARM_SIZE, WARM_SIZE, device="cuda", dtype=torch.bfloat16)
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        x @ x
        torch.cuda.synchronize()


def capture(run: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """A graph of what a function launches. It runs once before: kernels are compiled, and find the memory they need."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with uncollected(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph


def times(run: Callable[[], Any], count: int) -> list[float]:
    """Microseconds on the device of each of `count` calls, sorted; a call before them is not timed."""
    run()
    found = []
    for _ in range(count):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        found.append(1e3 * begin.elapsed_time(end))
    return sorted(found)


def in_a_row(calls: Sequence[Callable[[], Any]], launches: int, count: int) -> list[float]:
    """Microseconds of one call, of `count` replays of a graph in which calls take turns until there are about `launches`."""
    rounds = max(1, launches // len(calls))

    def run() -> None:
        for _ in range(rounds):
            for call in calls:
                call()

    return [time_ / (rounds * len(calls)) for time_ in times(capture(run).replay, count)]
