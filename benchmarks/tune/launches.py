"""The launches of a step that have a tile, recorded so that they can be repeated with another."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from fastgan.kernels import tiles
from fastgan.kernels.tiles import Tile

import fastgan
from fastgan import optim
from fastgan.engines.closed_form.fused_passes import FusedPasses
from fastgan.engines.closed_form.fused_update import FusedUpdate
from fastgan.engines.closed_form.step import ClosedFormStep
from fastgan.engines.closed_form.update_log import DeviceUpdateLog

METHODS = ("hidden", "output", "adjoint", "input_gradient", "tangent")
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

    def __init__(self, updates: FusedUpdate, step: Callable[..., None], log: DeviceUpdateLog, *arguments: Any) -> None:
        self.updates, self.step, self.log, self.arguments = updates, step, log, arguments
        self.finite_checks = log.finite_checks

    def choose(self, tile: Tile) -> None:
        """Takes a tile, and a log with a place for its programs."""
        log = self.log
        self.updates.use_tile(tile)
        log.programs = self.updates.last_programs(log.network.weight.numel(), log.world.size)
        log.records = torch.empty(0)
        log.reserve(RESERVED)

    def __call__(self) -> None:
        self.log.used, self.log.finite_checks = 0, self.finite_checks
        self.step(self.log, *self.arguments)


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


def trainer_of(case: str, batch: int, precision: str, device: str) -> fastgan.Trainer:
    """A trainer of the article's networks, whose updates change next to nothing however often they are repeated."""
    images = torch.randint(0, 256, (10_000, 784), dtype=torch.uint8)
    betas = (0.5, 0.999) if case == "standard" else (0.5, 0.9)
    rates = dict(g_optimizer=optim.Adam(1e-12, betas=betas), d_optimizer=optim.Adam(1e-12, betas=betas))
    given: dict[str, Any] = dict(
        loss="nonsaturating" if case == "standard" else case, precision=precision, device=device, **rates
    )
    given |= dict(engine="closed-form", capture="off")
    return fastgan.Trainer(fastgan.Generator(), fastgan.Discriminator(), **given).attach(images, batch)


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


def record(trainer: fastgan.Trainer) -> Calls:
    """Runs a step; its launches that have tiles, by their lines of the table, in the order of the step."""
    calls: Calls = {}
    chooser, engine = Chooser(), trainer._step
    assert isinstance(engine, ClosedFormStep) and engine.fused is not None
    trainer.step()  # makes the buffers

    def keep(method: Callable[..., None], *arguments: Any, **named: Any) -> None:
        method(*arguments, **named)
        calls.setdefault(chooser.asked[-1], []).append(Recorded(chooser, method, *arguments, **named))

    def keep_update(updates: FusedUpdate, step: Callable[..., None], *arguments: Any) -> None:
        calls.setdefault(update_key(updates), []).append(Update(updates, step, *arguments))
        step(*arguments)

    products = engine.fused
    updates = [passes.updates for passes in (engine.generator, engine.critic) if isinstance(passes, FusedPasses)]
    for each in products:
        each.tiles = chooser
        for name in METHODS:
            setattr(each, name, functools.partial(keep, getattr(each, name)))
    for update in updates:
        update.step = functools.partial(keep_update, update, update.step)  # type: ignore[method-assign]
    try:
        trainer.step()
    finally:
        for each, name in itertools.product(products, METHODS):
            delattr(each, name)
        for update in updates:
            del update.step
    return calls


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
