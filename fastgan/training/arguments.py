"""Arguments of a run and of a trainer that are refused by their name, with what they got."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from ..runtime.arguments import describe


def check(condition: bool, message: str) -> None:
    """ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def is_whole(value: object, least: int, most: float = math.inf) -> bool:
    """Whether a value is a whole number from `least` to `most`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def check_whole(name: str, value: Any, least: int) -> None:
    """ValueError for anything but a whole number of at least `least`."""
    check(is_whole(value, least), f"{name} must be a whole number >= {least}, got {describe(value)}")


def check_switch(name: str, value: Any) -> None:
    """TypeError for anything but True and False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")


def as_path(name: str, value: Any, error: type[ValueError] = ValueError) -> Path:
    """The path that an argument is; TypeError for what is none, `error` for a null character in it, which no system takes."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {describe(value)}")
    if "\0" in str(value):
        raise error(f"{name} must be a path, got {str(value)!r}, which has a null character in it")
    return Path(value)
