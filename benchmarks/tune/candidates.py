"""Which tiles are worth a try for a line of the table, those that look best first."""

from __future__ import annotations

import itertools

from fastgan.kernels import tiles
from fastgan.kernels.tiles import Tile

from benchmarks.tune.launches import Key

SHARED = {80: 163, 90: 227, 100: 227, 120: 99}  # KiB that a block of threads may have
ROWS, COLUMNS, DEPTHS, WARPS, STAGES = (16, 32, 64, 128), (16, 32, 64, 128), (32, 64, 128), (2, 4, 8), (2, 3, 4, 5)
ACCUMULATORS = (4, 128)  # of a product's sums, of one thread
HELD = 32 * 32  # weights of an update's tile for a warp: beside its sums a thread holds them, their moments and their places
SPLITS, REDUCTION = (
    (1, 2, 4, 8),
    500,
)  # parts of a product's depth, and what their sum costs: the walk of a small tile along 500
MOST, MOST_ALIKE = 96, 10  # candidates of a product, and those with the same rows, columns and parts


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
            cost += REDUCTION if tile.splits > 1 else 0
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
