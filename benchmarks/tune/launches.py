"""The launches of a step that have a tile, recorded so that they can be repeated with another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from fastgan.kernels import tiles
from fastgan.kernels.tiles import Tile

import fastgan
from fastgan import optim
from fastgan.chain.triton_tiles import TritonProducts
from fastgan.engines.closed_form.fused_update import FusedUpdate
from fastgan.engines.closed_form.step import ClosedFormStep
from fastgan.engines.closed_form.update_log import DeviceUpdateLog
from fastgan.engines.flat_network import FlatNetwork
from fastgan.engines.game import at
from fastgan.ops.linear import Layer
from fastgan.training.presets import preset
from fastgan.training.setup import make_game

RESERVED = 16  # updates between two flushes, as in a graph of 16 steps


class Key(NamedTuple):
    """A line of the table, and how large its product is: [rows, depth] x [depth, columns]; an update's columns: all weights."""

    text: str
    kernel: str
    rows: int
    columns: int
    depth: int
    itemsize: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.rows, self.columns, self.depth

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.columns * (1 if self.kernel == "update" else self.depth)


class Update:
    """An optimizer's step on weight gradients, which can be repeated with other tiles. arguments: of `FusedUpdate.step`."""

    def __init__(self, updates: FusedUpdate, log: DeviceUpdateLog, *arguments: Any, **named: Any) -> None:
        self.updates, self.log, self.arguments, self.named = updates, log, arguments, named
        self.finite_checks = log.finite_checks

    def choose(self, tile: Tile) -> None:
        """Takes a tile, and a log with a place for its programs."""
        self.updates.use_tile(tile)
        self.log.resize(self.updates.last_programs(self.log.network.weight.numel(), self.log.world.size), RESERVED)

    def __call__(self) -> None:
        self.log.rewind(self.finite_checks)
        self.updates.step(self.log, *self.arguments, **self.named)


Calls = dict[Key, list[Callable[[], None]]]


def table_key(kernel: str, rows: int, columns: int, depth: int, itemsize: int, arch: int) -> Key:
    """The line that `tiles.product_tile` looks for."""
    text = f"{tiles.nearest(arch)} {kernel} {rows}x{columns}x{depth} {itemsize}"
    return Key(text, kernel, rows, columns, depth, itemsize)


def update_key(updates: FusedUpdate) -> Key:
    """The line that `tiles.update_tile` looks for."""
    products, rows = updates.products, updates.rows
    shapes, itemsize = products.shapes, products.dtype.itemsize
    sizes = " ".join(f"{outputs}x{inputs}" for outputs, inputs in shapes)
    text = f"{tiles.nearest(products.launch.arch)} update {sizes} {rows} {itemsize}"
    return Key(text, "update", rows, sum(outputs * inputs for outputs, inputs in shapes), rows, itemsize)


class Chooser:
    """What products ask for their tiles, in place of kernels.tiles: notes what it was asked, and may have a tile of its own."""

    def __init__(self) -> None:
        self.asked: list[Key] = []
        self.chosen: Tile | None = None

    def product_tile(self, *arguments: Any) -> Tile:
        self.asked.append(table_key(*arguments))
        return self.chosen or tiles.product_tile(*arguments)

    def update_tile(self, *arguments: Any) -> Tile:
        return tiles.update_tile(*arguments)


class Recorded:
    """A product's launch with its arguments, which can be repeated with the tiles that a chooser has."""

    def __init__(self, chooser: Chooser, method: Callable[..., None], *arguments: Any, **named: Any) -> None:
        self.chooser, self.method, self.arguments, self.named = chooser, method, arguments, named

    def __call__(self) -> None:
        self.method(*self.arguments, **self.named)


class Recorder:
    """What a step's products and updates launch with a tile, by the lines of the table, kept while `keeps` is true."""

    def __init__(self) -> None:
        self.chooser, self.keeps = Chooser(), False
        self.calls: Calls = {}

    def keep(self, key: Key, call: Callable[[], None]) -> None:
        """Puts a launch beside those of the same line."""
        self.calls.setdefault(key, []).append(call)


class _Updates(FusedUpdate):
    def __init__(self, recorder: Recorder, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._recorder = recorder

    def step(self, log: DeviceUpdateLog, *arguments: Any, **named: Any) -> None:
        if self._recorder.keeps:
            self._recorder.keep(update_key(self), Update(self, log, *arguments, **named))
        super().step(log, *arguments, **named)


def _recorded(name: str) -> Callable[..., None]:
    def run(self: _Products, *arguments: Any, **named: Any) -> None:
        recorder, method = self.recorder, functools.partial(getattr(TritonProducts, name), self)
        method(*arguments, **named)
        if recorder.keeps:
            recorder.keep(recorder.chooser.asked[-1], Recorded(recorder.chooser, method, *arguments, **named))

    return run


class _Products(TritonProducts):
    def __init__(self, recorder: Recorder, layers: Sequence[Layer], precision: str) -> None:
        self.recorder = recorder
        super().__init__(layers, precision, recorder.chooser)

    hidden, output = _recorded("hidden"), _recorded("output")
    adjoint, input_gradient, tangent = _recorded("adjoint"), _recorded("input_gradient"), _recorded("tangent")


def record(case: str, batch: int, precision: str, device: str) -> Calls:
    """Runs a step of the article's networks; its launches that have tiles, by their lines of the table, in the step's order.

    Its updates change next to nothing, however often they are repeated.
    """
    defaults = preset("nonsaturating" if case == "standard" else case)
    still = optim.Adam(1e-12, betas=(0.5, 0.999 if case == "standard" else 0.9))
    generator, discriminator = fastgan.Generator(seed=0).to(device), fastgan.Discriminator(seed=0).to(device)
    networks = FlatNetwork(generator, still), FlatNetwork(discriminator, still)
    rules: dict[str, Any] = dict(loss=defaults.loss, d_steps=defaults.d_steps, seed=0, precision=precision)
    game, recorder = make_game(*networks, defaults.penalty, **rules), Recorder()
    images = torch.randint(0, 256, (10_000, 784), dtype=torch.uint8, device=device)
    products, updates = functools.partial(_Products, recorder), functools.partial(_Updates, recorder)
    step = ClosedFormStep(game, read_logits=False, make_products=products, make_update=updates)
    step(images, at(0), batch)  # makes the buffers
    recorder.keeps = True
    step(images, at(1), batch)
    recorder.keeps = False
    return recorder.calls


@contextmanager
def chosen(calls: list[Callable[[], None]], tile: Tile) -> Iterator[None]:
    """Inside, products and updates take this tile."""
    choosers = {id(call.chooser): call.chooser for call in calls if isinstance(call, Recorded)}.values()
    for chooser in choosers:
        chooser.chosen = tile
    try:
        for call in calls:
            if isinstance(call, Update):
                call.choose(tile)
        yield
    finally:
        for chooser in choosers:
            chooser.chosen = None


def present(key: Key, calls: list[Callable[[], None]]) -> Tile:
    """What the table or the ladder says now."""
    if isinstance(calls[0], Update):
        return calls[0].updates.find_tile()
    return tiles.product_tile(key.kernel, key.rows, key.columns, key.depth, key.itemsize, int(key.text.split()[0]))
