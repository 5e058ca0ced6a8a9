"""Which tile a product takes, where the table says nothing and where it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastgan.kernels import tiles
from fastgan.kernels.tiles import Tile


def forget() -> None:
    tiles.product_tile.cache_clear()
    tiles.update_tile.cache_clear()


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[int]]]:
    """The lines of the table, none but a test's own."""
    lines: dict[str, list[int]] = {}
    monkeypatch.setattr(tiles, "measured", lambda: lines)
    forget()
    yield lines
    forget()


pytestmark = pytest.mark.usefixtures("entries")
TABLE = tiles.measured()


def test_large_products_take_large_tiles_and_small_ones_more_tiles() -> None:
    wide, narrow = (tiles.product_tile("forward", rows, 1024, 784, 2, 90) for rows in (8192, 64))
    assert (wide.rows, wide.columns) == (128, 128) and wide.splits == 1
    assert -(-64 // narrow.rows) * -(-1024 // narrow.columns) >= 0.7 * 132


@pytest.mark.parametrize(
    ("rows", "columns", "depth", "splits"),
    [
        (64, 256, 512, 1),  # 32 tiles, whose walk is too short for a meeting to pay
        (64, 256, 4096, 4),
        (16, 64, 2048, 8),
        (64, 512, 2048, 2),
        (64, 1024, 4096, 1),  # tiles enough
    ],
)
def test_few_tiles_with_a_long_walk_are_split_along_it(rows: int, columns: int, depth: int, splits: int) -> None:
    assert tiles.product_tile("forward", rows, columns, depth, 2, 90).splits == splits
    assert tiles.product_tile("first", rows, columns, depth, 2, 90).splits == 1


@pytest.mark.parametrize("tile", [*tiles.LADDER, tiles.UPDATE_TILE, tiles.SPLIT_TILE], ids=str)
def test_what_the_rule_chooses_fits_every_architecture(tile: Tile) -> None:
    """Into sm_120's shared memory, the smallest, and without sums that must be spilled; test_cubins.py has the proof."""
    assert tile.stages * (tile.rows + tile.columns) * tile.depth * 2 <= 99 * 1024
    assert tile.rows * tile.columns <= 64 * 32 * tile.warps, "a thread has at most 64 sums"


def test_tangents_of_sm_80_take_smaller_tiles() -> None:
    """Larger ones keep 96 bytes of registers in memory there."""
    sizes = {arch: tiles.product_tile("tangent", 8192, 1024, 784, 2, arch)[:2] for arch in (80, 90)}
    assert sizes == {80: (64, 64), 90: (128, 128)}


def test_operands_of_four_bytes_take_half_the_depth() -> None:
    half, whole = (tiles.product_tile("adjoint", 64, 512, 256, itemsize, 90) for itemsize in (4, 2))
    assert half == whole._replace(depth=whole.depth // 2)


def test_many_rows_of_gradients_are_summed_in_parts() -> None:
    shapes = ((1024, 784), (1, 1024))
    assert tiles.update_tile(shapes, 128, 2, 90).splits == 1
    assert tiles.update_tile(shapes, 16384, 2, 90).splits == 4


def test_the_table_comes_first(entries: dict[str, list[int]]) -> None:
    entries["90 forward 64x256x512 2"] = [32, 64, 64, 4, 3, 2]
    entries["90 update 8x4 1x8 64 2"] = [32, 32, 16, 4, 1, 1]
    assert tiles.product_tile("forward", 64, 256, 512, 2, 90) == Tile(32, 64, 64, 4, 3, 2)
    assert tiles.update_tile(((8, 4), (1, 8)), 64, 2, 90) == Tile(32, 32, 16, 4, 1)
    assert tiles.product_tile("forward", 64, 256, 512, 2, 80) != Tile(32, 64, 64, 4, 3, 2)  # another architecture's


def is_sound(line: str, numbers: list[int]) -> bool:
    """Whether operands are filled up to whole tiles of a line; a first tangent, with norms of whole rows, has no parts."""
    tile = Tile(*numbers)
    return all(extent in (16, 32, 64, 128) for extent in tile[:3]) and (tile.splits == 1 or " first " not in line)


def test_every_entry_of_the_table_is_a_tile_that_operands_are_filled_up_for() -> None:
    assert is_sound("90 forward 64x256x512 2", [32, 64, 64, 4, 3, 2])
    assert not is_sound("90 forward 64x256x512 2", [48, 64, 64, 4, 3, 2])
    assert not is_sound("90 first 64x1024x784 2", [32, 64, 64, 4, 3, 2])
    assert all(is_sound(line, numbers) for line, numbers in TABLE.items())
