"""Which batches a penalty or a step takes, so that one of flat rows, or of one batch size, is asked with those."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch

from .arguments import Shape
from .faults import unless_refused

Family = tuple[Shape, Shape, Shape, Shape]  # three samples for values, and a small one for what is drawn at random

IMAGES: Family = ((3, 2, 4), (1, 4, 3), (3, 5, 2), (2, 2, 3))
SIGNALS: Family = ((3, 8), (4, 3), (5, 6), (2, 3))  # [T, C]
FLAT: Family = ((24,), (12,), (30,), (6,))
VOXELS: Family = ((3, 2, 4, 2), (1, 4, 3, 2), (3, 5, 2, 2), (2, 2, 3, 2))
COLOR_IMAGES: Family = ((3, 2, 4), (3, 4, 3), (3, 5, 2), (3, 2, 2))
FAMILIES = (IMAGES, SIGNALS, FLAT, VOXELS, COLOR_IMAGES)
USUAL: tuple[Shape, ...] = ((2,), (784,), (1, 28, 28), (3, 32, 32), (1, 32, 32), (3, 64, 64), (1, 64, 64), (3072,))
DATA_SETS: tuple[Family, ...] = tuple((shape, shape, shape, shape) for shape in USUAL)

ANY_SIZE, SEVERAL_ROWS = (1, 5, 16, 1024), (2, 5, 16, 1024)
ONE_SIZE = tuple((size,) * 4 for size in (64, 16, 32, 128, 8, 4, 256, 50, 100, 20, 10))
OTHER_SIZES = tuple(rows for rows in ((size,) * 4 for size in range(2, 129)) if rows not in ONE_SIZE)
LARGEST = 2**20  # numbers in a batch


class Layout(NamedTuple):
    """Batches that are taken: three `shapes`, `many` rows for what is drawn at random, and how many rows if asked often."""

    shapes: tuple[Shape, ...]
    many: Shape
    few: int
    dtype: torch.dtype

    @property
    def typical(self) -> Shape:
        """A batch of several rows."""
        return self.shapes[1]

    @property
    def calls(self) -> int:
        """How many batches of many rows make two thousand, which tell a bell from what is uniform."""
        return math.ceil(2000 / self.many[0])


DEFAULT = Layout(((1, *IMAGES[0]), (5, *IMAGES[1]), (16, *IMAGES[2])), (1024, *IMAGES[3]), 4, torch.float32)


def _layouts(families: Sequence[Family], rows: tuple[int, ...]) -> Iterator[Layout]:
    """The layouts of these numbers of rows."""
    one_size = len(set(rows)) == 1
    for family in families:
        if one_size and families is DATA_SETS and rows[0] * math.prod(family[0]) > LARGEST:
            continue
        many = rows[3] if one_size else min(rows[3], max(16, LARGEST // math.prod(family[3])))
        shapes = tuple((count, *sample) for count, sample in zip(rows[:3], family[:3], strict=True))
        yield Layout(shapes, (many, *family[3]), rows[3] if one_size else 4, torch.float32)


def _groups(shape: Shape | None, batch_size: int | None) -> Iterator[tuple[Sequence[Family], tuple[int, ...]]]:
    """What is tried, the most general and the most usual first."""
    usual, other = (ANY_SIZE, SEVERAL_ROWS, *ONE_SIZE), OTHER_SIZES
    if batch_size is not None:
        usual, other = ((batch_size,) * 4,), ()
    if shape is None:
        yield from product([FAMILIES], usual + other)
        yield from product([DATA_SETS], usual)
    else:  # a small batch of as many rows as a sample has columns hides an alpha of the wrong shape
        hides = [rows for rows in (*ONE_SIZE, *OTHER_SIZES) if batch_size is None and rows[0] in shape[1:] and rows[0] < 16]
        yield from product([((shape, shape, shape, shape),)], (rows for rows in usual + other if rows not in hides))


def find_layout(takes: Callable[[Layout], bool], shape: Shape | None, batch_size: int | None) -> Layout:
    """The first layout that is taken, of rows in fp32.

    takes: whether all is well; raises for a layout that is refused, and returns False for one that is taken, but otherwise
        than it should be, which is used where nothing else is found.
    """
    first = next(_layouts(*next(_groups(shape, batch_size))))
    otherwise = None
    for families, rows in _groups(shape, batch_size):
        if otherwise == first or (otherwise and families is DATA_SETS):
            break  # other rows, or larger ones, would not make it right
        for layout in _layouts(families, rows):
            taken = unless_refused(lambda layout=layout: takes(layout))  # type: ignore[misc]
            if taken:
                return layout
            otherwise = layout if otherwise is None and taken is not None else otherwise
    return otherwise or first
