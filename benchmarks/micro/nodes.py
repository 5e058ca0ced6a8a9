"""A graph's nodes: what one more launch costs, with and without programmatic dependent launch, and what a replay costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from fastgan.kernels.launch import Launcher

from benchmarks.harness.cuda_graphs import capture, times
from benchmarks.harness.measurement import PATIENCE, Measurement, slopes

NODES = (1, 20, 1280)
STEPS = (1, 16, 64)  # of a graph that is replayed
LAUNCHES = 22  # of a step
REPLAYS = 50


def chain(launch: Launcher, words: torch.Tensor, nodes: int, word: bool) -> None:
    """Launches one after the other, each on all programs of `words` [2, programs]."""
    from benchmarks.micro.kernels import node_kernel

    for round_ in range(1, nodes + 1):
        launch(node_kernel, (words.shape[1],), words=words, round_=round_, WORD=word)


def multiprocessors() -> int:
    return torch.cuda.get_device_properties().multi_processor_count


def launcher(overlapping: bool = True) -> Launcher:
    """Launches that may begin before the one before them ends, where the device has that, or that may not."""
    launch = Launcher(torch.device("cuda", torch.cuda.current_device()))
    launch.pdl = overlapping and launch.arch >= 90
    return launch


def node_gaps() -> Iterator[Measurement]:
    """A node's share of graphs of 20 and of 1,280 nodes that relay a word, or do nothing at all."""
    for overlapping in (False, True) if launcher().pdl else (False,):
        for programs in (1, multiprocessors()):
            for word in (False, True):
                yield from _graphs(launcher(overlapping), programs, word)


def _graphs(launch: Launcher, programs: int, word: bool) -> Iterator[Measurement]:
    words = torch.zeros(2, programs, dtype=torch.int32, device=launch.device)
    found: dict[int, list[float]] = {}
    for nodes in NODES:
        graph = capture(partial(chain, launch, words, nodes, word))
        words.zero_()
        graph.replay()
        if word:
            assert torch.all(words[nodes % 2] == nodes), "a launch began to read before the one before it was complete"
        found[nodes] = times(graph.replay, PATIENCE)
    name = ("dependent launch" if launch.pdl else "plain") + (", a word" if word else "")
    for nodes in NODES:
        yield Measurement(f"graph of {nodes}", name, found[nodes], (programs,))
    yield Measurement("node", name, slopes(found[NODES[1]], found[NODES[2]], NODES[2] - NODES[1]), (programs,))


def replays() -> Iterator[Measurement]:
    """What a replay costs the host, and the device from one replay to the next, by whose generator a step would draw."""
    launch = launcher()
    words, numbers = (torch.zeros(2, multiprocessors(), dtype=kind, device="cuda") for kind in (torch.int32, torch.float32))

    def steps(count: int, draw: Callable[[], object]) -> None:
        for _ in range(count):
            draw()
            chain(launch, words, LAUNCHES, True)

    draws: dict[str, Callable[[], object]] = {"counters": lambda: None, "torch's generator": numbers.normal_}
    for name, draw in draws.items():
        for count in STEPS:
            graph = capture(partial(steps, count, draw))
            yield Measurement("replay, host", name, _host(graph.replay), (count,))
            alone = statistics.median(times(graph.replay, PATIENCE))
            many = times(partial(_replay_often, graph), PATIENCE)
            yield Measurement("replay, device", name, [time_ / REPLAYS for time_ in many], (count,), facts=dict(alone=alone))


def _replay_often(graph: torch.cuda.CUDAGraph) -> None:
    for _ in range(REPLAYS):
        graph.replay()


def _host(run: Callable[[], object]) -> list[float]:
    """Microseconds until a call returns, the device idle before."""
    found = []
    for _ in range(PATIENCE):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        found.append(1e6 * (time.perf_counter() - start))
    torch.cuda.synchronize()
    return sorted(found)
