"""Steps replayed from CUDA graphs: K of them in one graph, and single ones for the rest.

A captured step reads its number from the device, so that a replay draws what an eager step of that number draws, and a graph
of K steps ends by moving the number on by K. What a host decides by a step's number, penalties that are due at each k-th update
only, makes graphs of their own. A graph holds the buffers it was captured on: another data set, batch size, or network whose
parameters were replaced is captured again.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .buffers import is_written
from .engine import Engine
from .game import Game, StepIndex, at, mix

log = logging.getLogger("fastgan")

RANDOM = "random"  # in a state: that of torch's generator, where graphs move it on
WARM_UPS = 2  # before a capture: libraries take their workspaces, and kernels are compiled


class Graph(NamedTuple):
    """A captured run of steps: what replays it, the values of its last step's metrics, and their names."""

    replay: Callable[[], None]
    values: Tensor
    names: tuple[str, ...]


def record(run: Callable[[], Tensor], pool: Any, stream: Any) -> tuple[Callable[[], None], Tensor]:
    """Captures what a function launches on a stream; returns what replays it, and the function's result."""
    graph = torch.cuda.CUDAGraph()
    capture = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    # the stream that was current is so again, even where the end of a capture raises
    with uncollected(), torch.cuda.device(stream.device), torch.cuda.stream(stream), capture:
        result = run()
    return graph.replay, result


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, garbage stays: the end of an old graph that lies there would spoil a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Eager:
    """Plays an engine's steps one by one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.stride = 1

    def play(self, images: Tensor, step: int, most: int, rows: int) -> tuple[int, Mapping[str, Tensor]]:
        """Runs at least one step, at most `most`; returns how many and the last one's metrics."""
        return 1, self.engine(images, at(step), rows)

    def state_dict(self) -> dict[str, Tensor]:
        """What steps keep besides the networks."""
        return self.engine.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over a `state_dict`, in place."""
        self.engine.load_state_dict(state)


class Captured(Eager):
    """Plays an engine's steps from graphs of `steps_per_graph` steps, or of one; eagerly where they cannot be captured."""

    def __init__(self, engine: Engine, game: Game, steps_per_graph: int) -> None:
        super().__init__(engine)
        self.game, self.stride = game, steps_per_graph
        self.counter = torch.zeros((), dtype=torch.int64, device=game.device)  # the next step's number
        self.graphs: dict[tuple, Graph] = {}
        self.problem: str | None = None
        self._generation = -1  # the engine's when the graphs were captured
        self._reached = 0  # the number that the device holds
        cuda = game.device.type == "cuda"
        self._pool: Any = None  # memory that the graphs share
        self._stream = torch.cuda.Stream(game.device) if cuda else None
        self._moves_generator = engine.foreign and cuda
        self._seeded = False

    def play(self, images: Tensor, step: int, most: int, rows: int) -> tuple[int, Mapping[str, Tensor]]:
        """Runs at least one step, at most `most`; returns how many and the last one's metrics."""
        self.engine.follow_networks()
        steps = self.stride if most >= self.stride else 1
        graph = None if self.problem else self._graph(images, step, steps, rows)
        if graph is None:
            return super().play(images, step, most, rows)
        if self._reached != step:
            self.counter.fill_(step)
        graph.replay()
        self._reached = step + steps
        values = graph.values.clone().unbind()  # the next replay writes them again
        return steps, dict(zip(graph.names, values, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """The engine's, and the state of torch's generator, which graphs move on where modules have randomness of their own."""
        random = {RANDOM: torch.cuda.get_rng_state(self.game.device)} if self._moves_generator else {}
        return super().state_dict() | random

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over a `state_dict`, in place."""
        super().load_state_dict(state)
        if self._moves_generator and RANDOM in state:
            torch.cuda.set_rng_state(state[RANDOM], self.game.device)
            self._seeded = True

    def _graph(self, images: Tensor, step: int, steps: int, rows: int) -> Graph | None:
        self._drop_stale()
        key = (images.data_ptr(), images.shape, images.dtype, rows, steps, *self._first_due(step, steps))
        if key not in self.graphs:
            self._seed(step)
            try:
                names = self._warm_up(images, step, steps, rows)
                self._drop_stale()  # a warm-up may have made other buffers
                self.graphs[key] = Graph(*self._capture(images, step, steps, rows), names)
            except RuntimeError as error:
                self._give_up(error)
                return None
        return self.graphs[key]

    def _first_due(self, step: int, steps: int) -> Iterator[int]:
        """In which of these steps' D updates each penalty is due first, the number of updates for none: what a graph is of.

        However seldom a penalty is due, there are no more of these than updates, and none.
        """
        first, updates = step * self.game.d_steps, steps * self.game.d_steps
        return (min(-first % penalty.every, updates) for penalty in self.game.penalties)

    def _drop_stale(self) -> None:
        """Forgets graphs of buffers that the engine has replaced."""
        if self._generation != self.engine.generation:
            self.graphs.clear()
            # torch takes no capture into a pool whose graphs are all gone
            self._pool = torch.cuda.graph_pool_handle() if self.game.device.type == "cuda" else None
            self._generation = self.engine.generation

    def _seed(self, step: int) -> None:
        """Seeds torch's generator where graphs will move it on, unless a state was loaded."""
        if self._moves_generator and not self._seeded:
            with torch.cuda.device(self.game.device):
                torch.cuda.manual_seed(mix(self.game.seed, step, self.game.world.rank))
            self._seeded = True

    def _give_up(self, error: RuntimeError) -> None:
        """Says why there is no graph, and leaves the device and the engine as an eager step wants them."""
        cause = error.__context__ or error
        self.problem = f"{type(cause).__name__}: {(str(cause).strip() or 'no message').splitlines()[0]}"
        log.warning("steps run without a graph, they could not be captured: %s", self.problem)
        self.stride = 1
        self.graphs.clear()
        self.engine.reserve(1)
        for network in (self.game.generator, self.game.discriminator):
            network.discard_records()
        if self.game.device.type == "cuda":
            # a capture that failed leaves torch's generator believing that it still goes on
            generator = torch.cuda.default_generators[torch.device(self.game.device).index or 0]
            generator.graphsafe_set_state(generator.clone_state())

    def _step_indices(self, step: int, steps: int) -> Iterator[StepIndex]:
        numbers = self.counter + torch.arange(steps, device=self.counter.device)
        for index, number in enumerate(numbers.unbind()):
            yield StepIndex(step + index, number, last=index == steps - 1)

    def _warm_up(self, images: Tensor, step: int, steps: int, rows: int) -> tuple[str, ...]:
        """Runs the steps, and takes back what they did; returns the names of their metrics."""
        self.counter.fill_(step)
        self._reached = step
        with preserved(self.game, self.engine), side_stream(self.game.device):
            for _ in range(WARM_UPS):
                self.engine(images, at(step), rows)  # sees to its buffers
                self.engine.reserve(self.stride)
                for index in self._step_indices(step, steps):
                    metrics = self.engine(images, index, rows)
        return tuple(metrics)

    def _capture(self, images: Tensor, step: int, steps: int, rows: int) -> tuple[Callable[[], None], Tensor]:
        def run() -> Tensor:
            for index in self._step_indices(step, steps):
                metrics = self.engine(images, index, rows)
            values = torch.stack([value.to(self.game.dtype) for value in metrics.values()])
            self.counter.add_(steps)
            return values

        return record(run, self._pool, self._stream)


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """On a CUDA device, a stream beside the current one, which waits for it."""
    if device.type != "cuda":
        yield
        return
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)


@contextmanager
def preserved(game: Game, engine: Engine) -> Iterator[None]:
    """What training changes is afterwards as it was: weights, moments, averages, counters, buffers, random states."""
    networks = (game.generator, game.discriminator)
    tensors = [t for network in networks for t in (network.weight, network.lr, network.skipped, *network.state_dict().values())]
    tensors += [buffer for network in networks for buffer in network.module.buffers() if is_written(buffer)]
    tensors += engine.state_dict().values()
    kept = [(tensor, tensor.clone()) for tensor in tensors]
    devices = [game.device] if game.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for network in networks:
            network.count_skipped()
        for tensor, before in kept:
            tensor.copy_(before)
        for network in networks:
            network.mark_changed()
        engine.follow_networks()
