"""What to say where a critic raised an error because the rows do not fit it: looked at only then, calls cost nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .second_order import modules_of

# of torch's errors, and Python's where a shape is unpacked; all others are the critic's own
_DTYPE = re.compile(r"same dtype|scalar type|[Ii]nput type|expected .*dtype")
_DEVICE = re.compile(r"same device|on device|device type")
_PRODUCT = re.compile(r"cannot be multiplied \((\d+)x(\d+) and (\d+)x\d+\)|, mat \((\d+)x(\d+)\), vec \((\d+)\)")
_NORMALIZED = re.compile(r"normalized_shape=\[(\d+)\].* got input of size\[([\d, ]+)\]")
_CONVOLUTION = re.compile(r"Expected \dD|to have \d+ channels|[Ee]xpected.*input to conv")
_VIEW = re.compile(r"shape '.*' is invalid for input of size (\d+)")
_DIMENSIONS = re.compile(r"values to unpack \(expected (\d+)|expected (\d)D (?:or \dD )?input \(got")
_SIZES: dict[type, str] = {nn.Conv1d: "length", nn.Conv2d: "height, width", nn.Conv3d: "depth, height, width"}


def explain(critic: Any, rows: Mapping[str, Tensor], error: Exception) -> Exception | None:
    """The error to raise in place of one that a critic raised, where its rows, by the names of their arguments, do not fit it.

    None where that has nothing to do with their dtype, device or shape.
    """
    text, module = str(error), next(modules_of(critic), None)
    parts = list(module.modules()) if module is not None else []
    parameters = [p for part in parts for p in part.parameters(recurse=False) if p.is_floating_point()]
    for pattern, kind in ((_DTYPE, "dtype"), (_DEVICE, "device")):
        wanted = {getattr(p, kind) for p in parameters}
        if pattern.search(text) and len(wanted) == 1 and (message := _of_another(kind, rows, *wanted)):
            return TypeError(message)
    first = next((part for part in parts if list(part.parameters(recurse=False))), None)
    name, points = next(iter(rows.items()))
    problem = _shape_problem(text, first, name, points)
    return (
        ValueError(f"{' and '.join(rows)} of shape {tuple(points.shape)} do not fit the critic, {problem}") if problem else None
    )


def _of_another(kind: str, rows: Mapping[str, Tensor], wanted: Any) -> str:
    """What to write for rows of another dtype, or on another device; "" where none are."""
    others = {name: getattr(x, kind) for name, x in rows.items() if getattr(x, kind) != wanted}
    on, argument = ("on ", f"'{wanted}'") if kind == "device" else ("", f"{wanted}")
    got = " and ".join(f"{name} is {on}{value}" for name, value in others.items())
    calls = " and ".join(f"{name}.to({argument})" for name in others)
    return f"{got}, the critic's weights are {on}{wanted}: write {calls}" if others else ""


def _shape_problem(text: str, first: nn.Module | None, name: str, points: Tensor) -> str:
    """What a critic takes and what to write; "" where it took the rows, and raised the error later."""
    dims = points.dim()
    if match := _DIMENSIONS.search(text):
        expected = int(match[1] or match[2])
        remedy = f"{name}.flatten(1)" if expected < dims else f"{name}.unflatten(1, sizes) with {expected - 1} sizes"
        return f"which takes {expected} dimensions: write {remedy}" if expected != dims else ""
    if (match := _VIEW.search(text)) and int(match[1]) == points.numel():
        return f"which views them otherwise ({text.splitlines()[0]}): pass rows of the size that it was built for"
    if width := _width(text, points):
        if isinstance(first, nn.Linear) and first.in_features == points.shape[-1]:
            return ""
        flat = points[0].numel() == width
        return f"which takes {width} numbers: {f'write {name}.flatten(1)' if flat else f'pass rows of {width} numbers'}"
    return _of_convolution(first, name, points) if type(first) in _SIZES and _CONVOLUTION.search(text) else ""


def _width(text: str, points: Tensor) -> int | None:
    """How many numbers a layer takes that was given the rows themselves."""
    if match := _PRODUCT.search(text):
        rows, numbers, width = (int(number) for number in match.groups() if number)
        return width if numbers == points.shape[-1] and rows * numbers == points.numel() else None
    if (match := _NORMALIZED.search(text)) and match[2] == ", ".join(map(str, points.shape)):
        return int(match[1])
    return None


def _of_convolution(first: Any, name: str, points: Tensor) -> str:
    channels, sizes, dims = first.in_channels, _SIZES[type(first)], len(first.kernel_size) + 2
    takes = f"whose first {type(first).__name__} takes [B, {channels}, {sizes}]: "
    if points.dim() == dims and points.shape[1] == channels:
        return ""
    if points.dim() == 2:
        return takes + f"write {name}.unflatten(1, ({channels}, {sizes}))"
    if points.dim() == dims and points.shape[-1] == channels:
        return takes + f"write {name}.movedim(-1, 1)"
    if points.dim() == dims - 1 and channels == 1:
        return takes + f"write {name}.unsqueeze(1)"
    return takes + "pass rows of that shape"
