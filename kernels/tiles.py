"""Which tile a product takes: a table for each architecture, written by `python -m benchmarks.tune` on a device of it.

Nothing is searched when a program runs. A shape that the table does not name takes the largest tile of the ladder that still
gives seven of ten multiprocessors one, and the smallest if none does: half the tile is twice the traffic for its operands.
Smallest tiles that are still too few are split along the depth, where the walk is long enough to be worth adding the parts.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple


class Tile(NamedTuple):
    """Rows, columns and depth of a block of a product, warps, stages of its pipeline, and in how many parts the depth is."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    splits: int = 1


LADDER = (
    Tile(128, 128, 64, 8, 3),
    Tile(128, 64, 64, 4, 3),
    Tile(64, 64, 64, 4, 3),
    Tile(32, 64, 64, 4, 4),
    Tile(32, 32, 64, 4, 4),
    Tile(16, 32, 64, 2, 4),
)
SPLITS, SAVED = 8, 1024  # of a product: parts at most, and what they must save of a walk along the depth
UPDATE_TILE = Tile(64, 64, 32, 8, 2)  # of weights that take their optimizer's step in registers
SPLIT_TILE, SPLIT_ROWS = Tile(128, 128, 32, 8, 3), 4096  # of gradients that are summed over so many rows at a time
MOST_SPLITS = 65_535  # parts are a grid's y
MULTIPROCESSORS = {80: 108, 90: 132, 100: 148, 120: 170}
TABLE = Path(__file__).with_name("tiles.json")


@functools.cache
def measured() -> dict[str, list[int]]:
    """The table: "ARCHITECTURE KERNEL ROWSxCOLUMNSxDEPTH BYTES" -> a tile's numbers."""
    return json.loads(TABLE.read_text())


def nearest(arch: int) -> int:
    """The architecture with a column in the tables that is the newest not after this one."""
    return max((known for known in MULTIPROCESSORS if known <= arch), default=min(MULTIPROCESSORS))


def narrower(tile: Tile, itemsize: int) -> Tile:
    """The same tile for operands of 4 bytes: half the depth, so that its stages fit into shared memory."""
    return tile if itemsize < 4 else tile._replace(depth=max(16, tile.depth // 2))


def largest(kernel: str, arch: int) -> int:
    """How many sums a tile of a kernel has at most, so that none is spilled."""
    # a first tangent keeps its operand's squares in registers beside the sums; for sm_80 any tangent is short of them
    small = kernel == "first" or (kernel == "tangent" and nearest(arch) == 80)
    return 64 * 64 if small else 128 * 128


@functools.cache
def product_tile(kernel: str, rows: int, columns: int, depth: int, itemsize: int, arch: int) -> Tile:
    """The tile of a product [rows, depth] x [depth, columns]."""
    known = nearest(arch)
    if numbers := measured().get(f"{known} {kernel} {rows}x{columns}x{depth} {itemsize}"):
        return Tile(*numbers)
    ladder = [tile for tile in LADDER if tile.rows * tile.columns <= largest(kernel, arch)] or [LADDER[-1]]
    counts = {tile: -(-rows // tile.rows) * -(-columns // tile.columns) for tile in ladder}
    enough = (tile for tile in ladder if counts[tile] >= 0.7 * MULTIPROCESSORS[known])
    tile = next(enough, ladder[-1])
    splits = min(SPLITS, MULTIPROCESSORS[known] // counts[tile])
    if kernel != "first" and splits > 1 and depth - depth // splits >= SAVED:
        tile = tile._replace(splits=splits)
    return narrower(tile, itemsize)


@functools.cache
def update_tile(shapes: tuple[tuple[int, int], ...], rows: int, itemsize: int, arch: int) -> Tile:
    """The tile of the weight gradients of layers (out, in) over rows: rows of weights, columns of weights, depth in rows.

    The rows are summed in parts where a tile would have to walk through very many.
    """
    known = nearest(arch)
    if numbers := measured().get(f"{known} update {' '.join(f'{o}x{i}' for o, i in shapes)} {rows} {itemsize}"):
        return Tile(*numbers)
    splits = min(max(1, rows // SPLIT_ROWS), MOST_SPLITS)
    tile = SPLIT_TILE if splits > 1 and itemsize == 2 else UPDATE_TILE
    return narrower(tile._replace(splits=splits), itemsize)
