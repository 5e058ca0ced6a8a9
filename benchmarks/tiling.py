"""The launches of a step that have a tile, recorded so that they can be repeated with another; and which tiles are worth it."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from fastgan.kernels import tiles
from fastgan.kernels.tiles import Tile

import fastgan
from benchmarks.absent import Compiler, compile_for, resources, spills
from fastgan import optim
from fastgan.distributed import World
from fastgan.fused import FusedPasses
from fastgan.ops.update_triton import PRICES, programs
from fastgan.records import Records

METHODS = ("hidden", "output", "adjoint", "input_gradient", "tangent")
SHARED = {80: 163, 90: 227, 100: 227, 120: 99}  # KiB that a block of threads may have
ROWS, COLUMNS, DEPTHS, WARPS, STAGES = (16, 32, 64, 128), (16, 32, 64, 128), (32, 64, 128), (2, 4, 8), (2, 3, 4, 5)
ACCUMULATORS = (4, 128)  # of a product's sums, of one thread
HELD = 32 * 32  # weights of an update's tile for a warp: beside its sums a thread holds them, their moments and their places
SPLITS, MEETING = (1, 2, 4, 8), 500  # parts of a product's depth, and what their sum costs: the walk of a small tile along 500
MOST, MOST_ALIKE = 96, 10  # candidates of a product, and those with the same rows, columns and parts
RESERVED = 16  # updates between two settlements, as in a graph of 16 steps
CANONICAL = 1024  # rows of a batch beyond which kernels are the same


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
        self.prices, self.doubts = network.records.statistics - PRICES, network.records.doubts

    def choose(self, tile: Tile) -> None:
        """Makes room for the records of an update with this tile."""
        passes, network, products = self.passes, self.network, self.passes.products
        passes.tile, passes._table = tile, None
        parts = programs(network.weight.numel()) if tile.splits > 1 else products.update_programs(tile)
        network.records = Records(products, network, self.prices, parts)
        network.records.reserve(RESERVED)

    def __call__(self) -> None:
        self.network.records.used, self.network.records.doubts = 0, self.doubts
        self.passes.update(self.network, None, 0)


Calls = dict[Key, list[Callable[[], None]]]


def table_key(kernel: str, rows: int, columns: int, depth: int, itemsize: int, arch: int) -> Key:
    """The line that `tiles.product_tile` looks for."""
    text = f"{tiles.nearest(arch)} {kernel} {rows}x{columns}x{depth} {itemsize}"
    return Key(text, kernel, rows, columns, depth, itemsize)


def update_key(passes: FusedPasses) -> Key:
    """The line that `tiles.update_tile` looks for."""
    products, rows = passes.products, passes.all_rows if passes.judged else passes.rows
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

    def keep_update(passes: FusedPasses, network: Any, outcome: Any, step: Any, world: World) -> None:
        calls.setdefault(update_key(passes), []).append(Update(passes, network))
        update(passes, network, outcome, step, world)

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


def fits(tile: Tile, itemsize: int, arch: int) -> bool:
    """Whether a tile's stages and sums are of a sensible size."""
    shared = tile.stages * (tile.rows + tile.columns) * tile.depth * itemsize
    sums = tile.rows * tile.columns / (32 * tile.warps)
    return shared <= SHARED[tiles.nearest(arch)] * 1024 and ACCUMULATORS[0] <= sums <= ACCUMULATORS[1]


def product_choices(key: Key, arch: int) -> list[Tile]:
    """Tiles for a product, those that look best first."""
    multiprocessors = tiles.MULTIPROCESSORS[tiles.nearest(arch)]
    most_rows = max(16, 1 << (key.rows - 1).bit_length())
    sums = 64 * 64 if key.kernel == "first" else 128 * 128
    found: dict[tuple[int, int, int], list[tuple[float, Tile]]] = {}
    for numbers in itertools.product(ROWS, COLUMNS, DEPTHS, WARPS, STAGES, (1,) if key.kernel == "first" else SPLITS):
        tile = Tile(*numbers)
        count = -(-key.rows // tile.rows) * -(-key.columns // tile.columns) * tile.splits
        loops = -(-key.depth // (tile.depth * tile.splits))
        sensible = tile.rows <= most_rows and tile.rows * tile.columns <= sums and tile.stages <= loops + 1
        sensible &= tile.splits == 1 or (loops > 1 and count <= multiprocessors)
        if sensible and fits(tile, key.itemsize, arch):
            waves = -(-count // multiprocessors)
            moved = tile.rows + tile.columns + tile.rows * tile.columns / 64
            cost = waves * key.depth / tile.splits * moved / 64 + 24 * loops / tile.stages + 4 * abs(tile.warps - 4)
            cost += MEETING if tile.splits > 1 else 0
            found.setdefault((tile.rows, tile.columns, tile.splits), []).append((cost, tile))
    best = sorted(pair for group in found.values() for pair in sorted(group)[:MOST_ALIKE])
    return [tile for _, tile in best[:MOST]]


def update_choices(key: Key, arch: int) -> list[Tile]:
    """Tiles for an update: rows and columns of weights, depth in rows of a batch; then those whose rows are in parts."""
    found: list[tuple[float, Tile]] = []
    splits = [1] if key.rows < 1024 else [count for count in (1, 2, 4, 8) if key.rows // count >= 512]
    for rows, columns, depth in itertools.product((32, 64, 128), (32, 64, 128), (16, 32, 64)):
        for warps, stages in itertools.product((4, 8), (1, 2, 3)):
            tile = Tile(rows, columns, depth, warps, stages)
            if fits(tile, key.itemsize, arch) and depth <= key.rows:
                found.append((abs(rows * columns - 2048) + abs(depth - 32) * 8, tile))
    alone = [tile for _, tile in sorted(found) if tile.rows * tile.columns <= HELD * tile.warps]
    parted = [tile._replace(splits=count) for _, tile in sorted(found, reverse=True) for count in splits[1:]]
    return alone[: MOST // 2 if parted else MOST] + parted[: MOST // 2]


def choices(key: Key, arch: int) -> list[Tile]:
    """Tiles worth a try for a line of the table."""
    return (update_choices if key.kernel == "update" else product_choices)(key, arch)


def prepare_worker(arch: int) -> None:
    """Turns this process into one that compiles for a device, on tensors of the CPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    compile_for(arch)


@functools.cache
def _recorded(case: str, batch: int, precision: str) -> list[list[Callable[[], None]]]:
    return list(record(trainer_of(case, batch, precision, "cpu")).values())


def begin(cases: list[str], batch: int, precision: str) -> None:
    """In a worker: what all its compilations of a batch size need first."""
    for case in cases:
        _recorded(case, _canonical(batch), precision)


def _canonical(batch: int) -> int:
    return CANONICAL if batch > CANONICAL and batch % 16 == 0 else batch


def compile_tile(case: str, batch: int, precision: str, index: int, tile: Tile) -> int:
    """In a worker: compiles the launches of a step's index-th line of the table; bytes of shared memory.

    ValueError where registers are spilled: such a kernel is refused, however fast it may be.
    """
    Compiler.made.clear()
    calls = _recorded(case, _canonical(batch), precision)[index]
    with chosen(calls, tile):
        for call in calls:
            call()
    if any(spills(resources(kernel.asm["cubin"])) for kernel in Compiler.made.values()):
        raise ValueError(f"{list(tile)} spills registers")
    return max((kernel.metadata.shared for kernel in Compiler.made.values()), default=0)
