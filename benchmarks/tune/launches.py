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
from fastgan.engines.closed_form.update_log import UpdateLog
from fastgan.ops.triton.update import PENALTY_VALUES, programs
from fastgan.runtime.distributed import World

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
    """An optimizer's step on weight gradients, which can be repeated with other tiles."""

    def __init__(self, passes: FusedPasses, network: Any) -> None:
        self.passes, self.network = passes, network
        self.penalty_values, self.finite_checks = (
            network.update_log.statistics - PENALTY_VALUES,
            network.update_log.finite_checks,
        )

    def choose(self, tile: Tile) -> None:
        """A new update log for this tile."""
        passes, network, products = self.passes, self.network, self.passes.products
        passes.tile, passes._table = tile, None
        parts = programs(network.weight.numel()) if tile.splits > 1 else products.update_programs(tile)
        network.update_log = UpdateLog(products, network, self.penalty_values, parts)
        network.update_log.reserve(RESERVED)

    def __call__(self) -> None:
        self.network.update_log.used, self.network.update_log.finite_checks = 0, self.finite_checks
        self.passes.update(self.network, None, 0)


Calls = dict[Key, list[Callable[[], None]]]


def table_key(kernel: str, rows: int, columns: int, depth: int, itemsize: int, arch: int) -> Key:
    """The line that `tiles.product_tile` looks for."""
    text = f"{tiles.nearest(arch)} {kernel} {rows}x{columns}x{depth} {itemsize}"
    return Key(text, kernel, rows, columns, depth, itemsize)


def update_key(passes: FusedPasses) -> Key:
    """The line that `tiles.update_tile` looks for."""
    products, rows = passes.products, passes.all_rows if passes.is_critic else passes.rows
    shapes, itemsize = products.shapes, products.dtype.itemsize
    sizes = " ".join(f"{outputs}x{inputs}" for outputs, inputs in shapes)
    text = f"{tiles.nearest(products.launch.arch)} update {sizes} {rows} {itemsize}"
    return Key(text, "update", rows, sum(outputs * inputs for outputs, inputs in shapes), rows, itemsize)


def trainer_of(case: str, batch: int, precision: str, device: str) -> fastgan.Trainer:
    """A trainer of the article's networks, whose updates change next to nothing however often they are repeated."""
    images = torch.randint(0, 256, (10_000, 784), dtype=torch.uint8)
    betas = (0.5, 0.999) if case == "standard" else (0.5, 0.9)
    rates = dict(g_optimizer=optim.Adam(1e-12, betas=betas), d_optimizer=optim.Adam(1e-12, betas=betas))
    given = dict(loss="nonsaturating" if case == "standard" else case, precision=precision, device=device, **rates)
    given |= dict(engine="closed-form", capture="off")
    return fastgan.Trainer(fastgan.Generator(), fastgan.Discriminator(), **given).attach(images, batch)


def record(trainer: fastgan.Trainer) -> Calls:
    """Runs a step; its launches that have tiles, by their lines of the table, in the order of the step."""
    calls: Calls = {}
    asked: list[Key] = []
    product_tile, update = tiles.product_tile, FusedPasses.update

    def ask(*arguments: Any) -> Tile:
        asked.append(table_key(*arguments))
        return product_tile(*arguments)

    def keep(method: Callable[..., None], *arguments: Any, **named: Any) -> None:
        method(*arguments, **named)
        calls.setdefault(asked[-1], []).append(functools.partial(method, *arguments, **named))

    def keep_update(passes: FusedPasses, network: Any, result: Any, step: Any, world: World) -> None:
        calls.setdefault(update_key(passes), []).append(Update(passes, network))
        update(passes, network, result, step, world)

    products = trainer._step.products
    try:
        tiles.product_tile, FusedPasses.update = ask, keep_update  # type: ignore[assignment,method-assign]
        for each, name in itertools.product(products, METHODS):
            setattr(each, name, functools.partial(keep, getattr(each, name)))
        trainer.step()
    finally:
        tiles.product_tile, FusedPasses.update = product_tile, update  # type: ignore[method-assign]
        for each, name in itertools.product(products, METHODS):
            delattr(each, name)
    return calls


@contextmanager
def chosen(calls: list[Callable[[], None]], tile: Tile) -> Iterator[None]:
    """Inside, products and updates take this tile."""
    product_tile = tiles.product_tile
    tiles.product_tile = lambda *_: tile  # type: ignore[assignment]
    try:
        for call in calls:
            if isinstance(call, Update):
                call.choose(tile)
        yield
    finally:
        tiles.product_tile = product_tile


def present(key: Key, calls: list[Callable[[], None]]) -> Tile:
    """What the table or the ladder says now."""
    if isinstance(calls[0], Update):
        return calls[0].passes.products.update_tile(key.rows)
    return tiles.product_tile(key.kernel, key.rows, key.columns, key.depth, key.itemsize, int(key.text.split()[0]))
