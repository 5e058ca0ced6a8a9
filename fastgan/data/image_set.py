"""ImageSet: a whole data set as one tensor."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..runtime.arguments import describe
from .convert import SCALE_ADVICE
from .errors import DataError, DataTypeError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A whole data set on one device.

    Args:
        name: what messages and checkpoints call it.
        images: uint8 in 0..255 or float32 in [-1, 1], [N, C, H, W], or [N, C, D, H, W] for voxels; float32 [N, features] for
            points.
        labels: int64 [N], or None.
        given_shape: of a sample as its owner has it, (H, W) or (F,), where it was given another one here; None where not.

    Raises:
        DataError: other shapes.
        DataTypeError: other dtypes, and what is no tensor.

    Example:
        >>> pictures = ImageSet("mine", torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10))
        >>> pictures.size, pictures.shape, pictures.features, pictures.is_points
        (10, (1, 28, 28), 784, False)
        >>> pictures.to("cpu").fingerprint()
        'c867d6507d9326d1'
    """

    name: str
    images: Tensor
    labels: Tensor | None = None
    given_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for part, value in (("images", self.images), ("labels", self.labels)):
            if not isinstance(value, Tensor) and not (value is None and part == "labels"):
                raise DataTypeError(f"{self.name}: {part} must be a tensor, got {describe(value)}")
        shape = tuple(self.images.shape)
        if self.images.dtype not in (torch.uint8, torch.float32):
            raise DataTypeError(f"{self.name}: images are {self.images.dtype}; {SCALE_ADVICE}")
        if len(shape) not in (4, 5) and not (len(shape) == 2 and self.images.dtype == torch.float32):
            raise DataError(
                f"{self.name}: images have shape {shape}; [N, C, H, W], [N, C, D, H, W] or float [N, features] is expected"
            )
        if self.images.numel() == 0:
            raise DataError(f"{self.name} is empty: images have shape {shape}")
        if self.labels is not None and self.labels.dtype != torch.int64:
            raise DataTypeError(f"{self.name}: labels are {self.labels.dtype}; int64 is expected")
        if self.labels is not None and tuple(self.labels.shape) != shape[:1]:
            raise DataError(f"{self.name}: {shape[0]:,} images but labels of shape {tuple(self.labels.shape)}")

    @property
    def size(self) -> int:
        """The number of samples, N."""
        return self.images.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.images.shape[1:])

    @property
    def features(self) -> int:
        """The numbers in one sample."""
        return math.prod(self.shape)

    @property
    def is_points(self) -> bool:
        """Whether samples are plain vectors, to be drawn as a scatter plot, rather than images."""
        return self.images.dim() == 2

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on another device.

        Args:
            device: as torch names it.

        Returns:
            A new set, whose tensors are shared where they are there already.
        """
        return replace(self, images=self.images.to(device), labels=None if self.labels is None else self.labels.to(device))

    def fingerprint(self) -> str:
        """Names the images by shape, dtype and content, not the labels, on whatever device.

        Returns:
            16 hexadecimal digits.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.images.dtype} {tuple(self.images.shape)} ".encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]
