"""Whole steps replayed from CUDA graphs, with their draws and optimizers: of eager torch, and of compiled updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from benchmarks.peers import Batch, Setup
from benchmarks.peers.compiled import Adam, Compiled, Weights
from benchmarks.peers.eager import Eager

STEPS = 16  # of a graph; single ones make up the rest
WARM_UPS = 3  # before a capture: libraries take their workspaces, optimizers make their states, compilers run


def record(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Captures what a function launches; returns what replays it, and the function's result, which replays write again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


@contextmanager
def side_stream() -> Iterator[None]:
    """A stream beside the current one, which waits for it."""
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)


class Graphed(Eager):
    """A player whose steps are captured before the first one; torch's generator is registered by the capture."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.graphs: dict[int, tuple[Callable[[], None], Tensor]] = {}  # by their number of steps

    def play(self, steps: int) -> Tensor:
        self._choose_products()
        if not self.graphs:
            self._warm_up(self.step)
            self.graphs = {size: record(partial(self._run, size)) for size in (1, STEPS)}
        left = steps
        while left:
            size = STEPS if left >= STEPS else 1
            replay, loss = self.graphs[size]
            replay()
            left -= size
        return loss.clone()

    def _run(self, steps: int) -> Tensor:
        for _ in range(steps):
            loss = self.step()
        return loss

    def first_losses(self, batches: list[Batch]) -> list[float]:
        """Each update from a graph of its own, which reads what stands in one batch."""
        self._choose_products()
        batch = Batch(*(tensor.to(self.device, copy=True) for tensor in batches[0]))
        updates = partial(self.update_discriminator, batch), partial(self.update_generator, batch.latents)
        self._warm_up(*updates)
        (replay_d, d_loss), (replay_g, g_loss) = map(record, updates)
        losses = []
        for each in batches[:-1]:
            self._fill(batch, each)
            replay_d()
            losses.append(float(d_loss))
        self._fill(batch, batches[-1])
        for _ in range(2):
            replay_g()
            losses.append(float(g_loss))
        return losses

    @staticmethod
    def _fill(batch: Batch, values: Batch) -> None:
        for place, value in zip(batch, values, strict=True):
            place.copy_(value)

    def _warm_up(self, *runs: Callable[[], Tensor]) -> None:
        """Runs what is about to be captured, and takes back what it did."""
        weights = [weight for network in (self.generator, self.discriminator) for weight in network.parameters()]
        before = [weight.detach().clone() for weight in weights]
        with side_stream():
            for _ in range(WARM_UPS):
                for run in runs:
                    run()
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
            for moment in self._moments():
                moment.zero_()

    def _moments(self) -> list[Tensor]:
        """What the optimizers keep, zeros at the start."""
        optimizers = (self.g_optimizer, self.d_optimizer)
        return [tensor for optimizer in optimizers for state in optimizer.state.values() for tensor in state.values()]


class GraphedEager(Graphed):
    """Graphs of eager torch's kernels."""


class GraphedCompiled(Graphed, Compiled):
    """Graphs of the kernels of compiled updates, each compiled together with its draws.

    Adam is torch's fused one, a launch or two for a network: in the compiler's graph it is a kernel for each parameter. The
    compiler's default mode leaves the products to cuBLAS.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.adam_inside = False
        self.drawn_d, self.drawn_g = self._compile(self._draw_and_update_d), self._compile(self._draw_and_update_g)

    def step(self) -> Tensor:
        for _ in range(self.work.d_steps):
            loss, gradients = self.drawn_d(self.g_adam, self.d_adam)
            self._finish(loss, gradients, self.discriminator, self.d_optimizer)
        last, gradients = self.drawn_g(self.g_adam, self.d_adam)
        self._finish(last, gradients, self.generator, self.g_optimizer)
        return loss

    def _draw_and_update_d(self, g: Adam, d: Adam) -> tuple[Tensor, Weights]:
        return self._update_d(g, d, *self.draw())

    def _draw_and_update_g(self, g: Adam, d: Adam) -> tuple[Tensor, Weights]:
        return self._update_g(g, d, self.latents())


class GraphedAutotuned(GraphedCompiled):
    """The same after the compiler has tried its own products, with activations in them, for some minutes."""

    mode = "max-autotune-no-cudagraphs"
