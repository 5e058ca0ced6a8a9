"""What the checks may be asked with: a mistake in a call of the suite is no fault of what is looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..penalties.arguments import as_number
from ..runtime.arguments import describe

Shape = tuple[int, ...]


def check_function(name: str, value: Any, call: str) -> None:
    """TypeError for what cannot be called; `call` shows how it would be."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be a function, which is called as {call} and comes first; got {describe(value)}")


def as_factor(name: str, value: Any) -> float:
    """A finite number > 0."""
    value = as_number(name, value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"{name} must be a finite number > 0, got {value}: a penalty of weight 0, or without noise, tells nothing"
        )
    return value


def as_shape(shape: Sequence[int] | None, batch_size: int | None) -> Shape | None:
    """The sample's shape as a tuple; raises where one of the two describes no batch."""
    if shape is not None and (not isinstance(shape, Sequence) or isinstance(shape, str)):
        raise TypeError(f"shape must be that of one sample, such as (784,) or (3, 32, 32), got {shape!r}")
    for name, sizes in (("shape", shape), ("batch_size", None if batch_size is None else (batch_size,))):
        for size in sizes or ():
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{name} must be made of integers, got {size!r}")
            if size < 1:
                raise ValueError(f"{name} must be made of numbers above 0, got {size}")
    if shape is not None and not shape:
        raise ValueError("shape must be that of one sample, such as (784,) or (3, 32, 32), got ()")
    return None if shape is None else tuple(shape)
