"""Reads a map-style torch Dataset into one tensor, each item once."""

from __future__ import annotations

import logging
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import convert
from .errors import DataError, DataTypeError

SEED = 0  # of what random transforms draw: a data set is the same in every process
CHUNK_BYTES = 2**22  # of floats that are looked at together
CHECKED_AGAIN = 16  # items that are read a second time
LEVEL_TOLERANCE = 1e-4  # how far from k the float32 nearest to k / 255 may be, times 255
DRAW_TOLERANCE = 1e-6  # between two readings of an item: a level of 8 bits is rounded to less than this

log = logging.getLogger("fastgan")


def from_dataset(data: Any, name: str) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
    """Images as `convert.from_tensor` gives them, int64 labels [N] where every item has one, and the shape of an item.

    An item is a PIL image or a tensor, alone or first in a tuple. Image tensors in [0, 1] become uint8 where all their values
    are of 8 bits, k / 255 as of torchvision's ToTensor, and 2 x - 1 elsewhere.
    """
    count = _length(data, name)
    if count == 0:
        raise DataError(f"{name} is empty")
    with _seeded():
        items, labels = _read(data, count, name)
        after = _next_draws()
        changes = _change(data, items, name)
    with _seeded():
        draws = after != _next_draws()
    if draws or changes:
        _warn_about_draws(name, seeded=draws)
    images = convert.in_range(_scaled(convert.arrange(items.values, name), name), name)
    return images, None if None in labels else torch.tensor(labels), items.shape


def _length(data: Any, name: str) -> int:
    try:
        return len(data)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataTypeError(f"{name} has no length: {error}; let its __len__ return the number of its items") from error


@contextmanager
def _seeded() -> Iterator[None]:
    """Inside, the generators of torch (on the CPU), numpy and Python begin at a seed; afterwards they are as they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _next_draws() -> tuple[float, float, float]:
    """What the three generators give next, which tells whether somebody has drawn from them."""
    return float(torch.rand((), dtype=torch.float64)), np.random.random(), random.random()


def _change(data: Any, items: _Items, name: str) -> bool:
    """Whether some of the items are others when they are read again."""
    try:
        return any(not items.holds(number, _item(data[number], number, name)[0]) for number in items.some())
    except Exception:  # a set may give each item only once
        return True


def _warn_about_draws(name: str, seeded: bool) -> None:
    once = (
        "every item is read once, and what was drawn for it stays for all epochs "
        "(torch.utils.data.ConcatDataset([data] * 4) has four draws of each)"
    )
    if seeded:
        log.warning("%s draws random numbers when items are read (a random transform?): %s", name, once)
    else:
        log.warning(
            "%s gives other items when they are read again (a random transform with a generator of its own?): %s; only where "
            "that generator has a fixed seed can a run be resumed",
            name,
            once,
        )


def _read(data: Any, count: int, name: str) -> tuple[_Items, list[int | None]]:
    def read(number: int) -> tuple[Tensor, int | None]:
        try:
            item = data[number]
        except LookupError as error:
            raise DataError(
                f"{name} has no item {number}, though its length is {count} ({type(error).__name__}: {error}); "
                "let its __len__ return the number of its items, which are counted from 0"
            ) from error
        return _item(item, number, name)

    first, label = read(0)
    shape = (count, *first.shape)
    if axes := convert.channels_first(shape):
        remedy = f"item.permute{tuple(axis - 1 for axis in axes[1:])} in the data set's transform"
        raise convert.channels_last(name, shape, remedy)
    convert.arrange(first.expand(shape), name)  # what no data can be is refused before the reading
    items, labels = _Items(count, first), [label]
    items.append(first)
    for number in range(1, count):
        row, label = read(number)
        if row.shape != first.shape or row.dtype != first.dtype:
            raise DataError(
                f"{name}: item {number} is {row.dtype} {tuple(row.shape)}, item 0 {first.dtype} {tuple(first.shape)}; "
                "make all items alike in the data set's transform (Resize, Grayscale, ToTensor)"
            )
        items.append(row)
        labels.append(label)
    items.flush()
    return items, labels


class _Items:
    """Items in one tensor: uint8 for as long as 8 bits hold every value of an image, float32 from the first other value on."""

    def __init__(self, count: int, first: Tensor) -> None:
        self.shape = tuple(first.shape)
        given = torch.uint8 if first.dtype == torch.uint8 else torch.float32
        kept = torch.uint8 if convert.is_image(first.shape) else given
        self.values = torch.empty(count, *first.shape, dtype=kept)
        self.stored = 0  # rows of `values`
        rows = max(1, CHUNK_BYTES // (4 * first.numel()))
        self.chunk = torch.empty(min(count, rows), *first.shape, dtype=given)
        self.waiting = 0  # rows of `chunk`, which come next

    def append(self, row: Tensor) -> None:
        """Stores a copy: a data set may give the same tensor again, with other values."""
        self.chunk[self.waiting] = row
        self.waiting += 1
        if self.waiting == len(self.chunk):
            self.flush()

    def flush(self) -> None:
        """Moves what waits to its place."""
        if not self.waiting:
            return
        rows = self.chunk[: self.waiting]
        if rows.dtype != self.values.dtype:
            levels = (rows * 255).round_()
            if _are_bytes(rows, levels):
                rows = levels
            else:
                self._become_floats()
        self.values[self.stored : self.stored + self.waiting] = rows
        self.stored += self.waiting
        self.waiting = 0

    def _become_floats(self) -> None:
        floats = torch.empty(self.values.shape)
        torch.div(self.values[: self.stored], 255, out=floats[: self.stored])
        self.values = floats

    def some(self) -> range:
        """Numbers of items from all over the set."""
        return range(0, len(self.values), -(-len(self.values) // CHECKED_AGAIN))

    def holds(self, number: int, row: Tensor) -> bool:
        """Whether this is the item that is stored at a number."""
        stored = self.values[number]
        if stored.dtype != row.dtype and stored.dtype == torch.uint8:
            stored = stored / 255
        near = DRAW_TOLERANCE
        return row.shape == stored.shape and torch.allclose(row.float(), stored.float(), near, near, equal_nan=True)


def _are_bytes(values: Tensor, levels: Tensor) -> bool:
    """Whether floats are their 255ths, rounded; not for nan."""
    low, high = torch.aminmax(levels)
    return bool((low >= 0) & (high <= 255)) and bool(torch.dist(values * 255, levels, p=torch.inf) <= LEVEL_TOLERANCE)


def _scaled(images: Tensor, name: str) -> Tensor:
    """Float images in [0, 1] as 2 x - 1, in place; others as they are."""
    if images.dtype == torch.uint8 or images.dim() == 2:
        return images
    low, high = torch.aminmax(images)
    if not (low >= 0 and high <= 1):  # so written that nan is left to be refused
        return images
    log.warning("%s: floats in [0, 1], not all of 8 bits, stay floats, scaled to [-1, 1] by 2 * x - 1", name)
    return images.mul_(2).sub_(1)


def _item(item: Any, number: int, name: str) -> tuple[Tensor, int | None]:
    """The image of an item of a data set, as a tensor, and its label if it has a whole number for one."""
    image, *rest = item if isinstance(item, (tuple, list)) and item else (item,)
    if hasattr(image, "getbands"):
        image = _from_pil(image, number, name)
    if not isinstance(image, Tensor):
        raise DataTypeError(
            f"{name}: the image of item {number} is a {type(image).__name__}; a PIL image or a tensor is expected "
            "(transforms.ToTensor()), alone or first in a tuple"
        )
    convert.check_dense(image, f"{name}: item {number}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise DataTypeError(f"{name}: item {number} is {image.dtype}; {convert.SCALE_ADVICE}")
    return image.detach(), _label(rest[0]) if rest else None


def _label(value: Any) -> int | None:
    try:
        number = operator.index(value)
    except TypeError:
        return None
    return number if -(2**63) <= number < 2**63 else None


def _from_pil(image: Any, number: int, name: str) -> Tensor:
    """A PIL image as uint8, [1, H, W] or [3, H, W]."""
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB"):
        raise DataError(f"{name}: item {number} is a PIL image of mode {image.mode}; convert('L') or convert('RGB') it")
    (width, height), bands = image.size, len(image.getbands())
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(height, width, bands)
    return pixels.permute(2, 0, 1)
