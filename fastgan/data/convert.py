"""Turns tensors into images: uint8, or float32 in [-1, 1], channels first."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import DataError, DataTypeError

SMALLEST_FLAT_IMAGE = 16  # features of a flat row that is taken for a square image rather than for a point
TOLERANCE = 1e-6  # x * (2 / 255) - 1 may round to a little more than 1
SCALE_ADVICE = "give uint8 in 0..255 (x.to(torch.uint8)), or floats in [-1, 1] (x / 127.5 - 1, or 2 * x - 1 from [0, 1])"
LAYOUTS = "[N, H, W], [N, C, H, W], [N, C, D, H, W] or [N, F]"
PICTURE_CHANNELS = (1, 3, 4)

log = logging.getLogger("fastgan")


def from_tensor(values: Tensor, name: str) -> Tensor:
    """uint8, or floats in [-1, 1], of two to five dimensions -> contiguous uint8 or float32 images.

    [N, H, W] -> [N, 1, H, W]; [N, F] -> [N, 1, S, S] where F = S * S is at least 16, otherwise floats stay [N, F] and
    uint8 becomes [N, 1, 1, F]. Raises DataTypeError for other dtypes and for what is not dense, DataError for other shapes and
    values.
    """
    check_dense(values, name)
    if values.dtype != torch.uint8 and not values.is_floating_point():
        raise DataTypeError(f"{name}: values are {values.dtype}; {SCALE_ADVICE}")
    if axes := channels_first(values.shape):
        raise channels_last(name, values.shape, f"x.permute{axes}")
    images = in_range(arrange(values, name), name)
    if images.is_floating_point() and images.dim() > 2 and bool((images >= 0).all()):
        log.warning("%s: no value is below 0; if these are images in [0, 1], scale them to [-1, 1] by 2 * x - 1", name)
    return images


def check_dense(values: Tensor, what: str) -> None:
    """DataTypeError for a tensor without values, or with values in another form than one for each place."""
    if values.is_meta:
        raise DataTypeError(f"{what} is on the meta device, where nothing has a value: give it on the CPU")
    if values.layout != torch.strided or values.is_nested:
        kind, remedy = ("nested", "x.to_padded_tensor(0)") if values.is_nested else (values.layout, "x.to_dense()")
        raise DataTypeError(f"{what} is {kind}: give it dense, {remedy}")


def arrange(values: Tensor, name: str) -> Tensor:
    """Images as [N, C, H, W], voxels as [N, C, D, H, W], points as [N, F]."""
    if values.numel() == 0:
        raise DataError(f"{name} is empty: its shape is {tuple(values.shape)}")
    if values.dim() in (4, 5):
        return values
    if values.dim() == 3:
        return values.unsqueeze(1)
    if values.dim() != 2:
        raise DataError(f"{name}: shape {tuple(values.shape)}; {LAYOUTS} is expected")
    if is_image(values.shape[1:]):
        side = math.isqrt(values.shape[1])
        return values.reshape(-1, 1, side, side)
    return values[:, None, None, :] if values.dtype == torch.uint8 else values


def is_image(sample: Sequence[int]) -> bool:
    """Whether a float sample of this shape is an image rather than a point."""
    return len(sample) != 1 or (sample[0] >= SMALLEST_FLAT_IMAGE and math.isqrt(sample[0]) ** 2 == sample[0])


def channels_first(shape: Sequence[int]) -> tuple[int, ...]:
    """The permutation that puts the channels first, of data that look like [N, H, W, C] or [N, D, H, W, C]; of others ()."""
    if len(shape) not in (4, 5):
        return ()
    *sides, channels = shape[1:]
    looks_last = channels in PICTURE_CHANNELS and min(sides) > max(3, channels)
    return (0, len(sides) + 1, *range(1, len(sides) + 1)) if looks_last else ()


def channels_last(name: str, shape: Sequence[int], remedy: str) -> DataError:
    """The error about data of a shape that looks like channels last."""
    return DataError(
        f"{name}: shape {tuple(shape)} looks like channels last: give {remedy}, channels first "
        "(if the last axis holds no channels, give data.ImageSet(name, x), which takes [N, C, H, W] as it is)"
    )


def in_range(images: Tensor, name: str) -> Tensor:
    """Contiguous, floats as float32; refuses floats outside [-1, 1]."""
    if images.dtype == torch.uint8:
        return images.contiguous()
    images = images.to(torch.float32).contiguous()
    low, high = (float(bound) for bound in torch.aminmax(images))
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # so written that nan is refused
        raise DataError(f"{name}: values run from {low:g} to {high:g}; {SCALE_ADVICE}")
    return images
