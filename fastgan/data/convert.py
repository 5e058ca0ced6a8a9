"""Turns tensors and map-style torch Datasets into images: uint8, or float32 in [-1, 1]."""

from __future__ import annotations

import logging
import math
import operator
from typing import Any

import torch
from torch import Tensor

from .errors import DataError, DataTypeError

SMALLEST_FLAT_IMAGE = 16  # features of a flat row that is taken for a square image rather than for a point
TOLERANCE = 1e-6  # x * (2 / 255) - 1 may round to a little more than 1
SCALE_ADVICE = "give uint8 in 0..255 (x.to(torch.uint8)), or floats in [-1, 1] (x / 127.5 - 1, or 2 * x - 1 from [0, 1])"

log = logging.getLogger("fastgan")


def from_tensor(values: Tensor, name: str) -> Tensor:
    """uint8, or floats in [-1, 1], of two to four dimensions -> contiguous uint8 or float32 images.

    [N, H, W] -> [N, 1, H, W]; [N, F] -> [N, 1, S, S] where F = S * S is at least 16, otherwise floats stay [N, F] and
    uint8 becomes [N, 1, 1, F]. Raises DataTypeError for other dtypes, DataError for other shapes and values.
    """
    if values.dtype != torch.uint8 and not values.is_floating_point():
        raise DataTypeError(f"{name}: values are {values.dtype}; {SCALE_ADVICE}")
    images = _in_range(_arrange(values, name), name)
    if images.is_floating_point() and images.dim() == 4 and bool((images >= 0).all()):
        log.warning("%s: no value is below 0; if these are images in [0, 1], scale them to [-1, 1] by 2 * x - 1", name)
    return images


def from_dataset(data: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """Reads every item once -> images as `from_tensor` gives them, and int64 labels [N] where every item has one.

    An item is a PIL image or a tensor, alone or first in a tuple. Image tensors in [0, 1] become uint8.
    """
    if len(data) == 0:
        raise DataError(f"{name} is empty")
    first, label = _item(data[0], 0, name)
    rows = torch.empty(len(data), *first.shape, dtype=torch.uint8 if first.dtype == torch.uint8 else torch.float32)
    rows[0], labels = first, [label]
    for number in range(1, len(rows)):
        row, label = _item(data[number], number, name)
        if row.shape != first.shape or row.dtype != first.dtype:
            raise DataError(
                f"{name}: item {number} is {row.dtype} {tuple(row.shape)}, item 0 {first.dtype} {tuple(first.shape)}; "
                "make all items alike in the data set's transform (Resize, Grayscale, ToTensor)"
            )
        rows[number] = row
        labels.append(label)
    images = _in_range(_undo_to_tensor(_arrange(rows, name)), name)
    return images, None if None in labels else torch.tensor(labels)


def _arrange(values: Tensor, name: str) -> Tensor:
    """Images as [N, C, H, W], points as [N, F]."""
    if values.numel() == 0:
        raise DataError(f"{name} is empty: its shape is {tuple(values.shape)}")
    if values.dim() == 4:
        return values
    if values.dim() == 3:
        return values.unsqueeze(1)
    if values.dim() != 2:
        raise DataError(f"{name}: shape {tuple(values.shape)}; [N, H, W], [N, C, H, W] or [N, F] is expected")
    features = values.shape[1]
    side = math.isqrt(features)
    if side * side == features and features >= SMALLEST_FLAT_IMAGE:
        return values.reshape(-1, 1, side, side)
    return values[:, None, None, :] if values.dtype == torch.uint8 else values


def _undo_to_tensor(images: Tensor) -> Tensor:
    """Float images in [0, 1] as the uint8 that torchvision's ToTensor made them from; others as they are."""
    if images.dtype == torch.uint8 or images.dim() == 2:
        return images
    low, high = torch.aminmax(images)
    return (images * 255).round().to(torch.uint8) if low >= 0 and high <= 1 else images


def _in_range(images: Tensor, name: str) -> Tensor:
    """Contiguous, floats as float32; refuses floats outside [-1, 1]."""
    if images.dtype == torch.uint8:
        return images.contiguous()
    images = images.to(torch.float32).contiguous()
    low, high = (float(bound) for bound in torch.aminmax(images))
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # so written that nan is refused
        raise DataError(f"{name}: values run from {low:g} to {high:g}; {SCALE_ADVICE}")
    return images


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
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise DataTypeError(f"{name}: item {number} is {image.dtype}; {SCALE_ADVICE}")
    try:
        return image.detach(), operator.index(rest[0]) if rest else None
    except TypeError:
        return image.detach(), None


def _from_pil(image: Any, number: int, name: str) -> Tensor:
    """A PIL image as uint8, [H, W] or [3, H, W]."""
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB"):
        raise DataError(f"{name}: item {number} is a PIL image of mode {image.mode}; convert('L') or convert('RGB') it")
    (width, height), bands = image.size, len(image.getbands())
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(height, width, bands)
    return pixels[:, :, 0] if bands == 1 else pixels.permute(2, 0, 1)
