"""Whether launches with another tile leave what they leave with the present one: no tile is chosen for its speed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from fastgan.kernels.tiles import Tile
from torch import Tensor

from benchmarks.tune.launches import Recorded, Update, chosen

# of the norm of what is compared; sums in another order differ by less than one rounding of the operands
ERRORS = {torch.float32: 1e-3, torch.bfloat16: 1e-2}
STILL = 1e-6  # an error that is none, however small what is compared


def agrees(calls: list[Callable[[], None]], tile: Tile, present: Tile) -> bool:
    """Whether every tensor that launches write is the same for both tiles; nothing of it stays."""
    one, other = (_left_behind(calls, which) for which in (present, tile))
    return all(_alike(expected, found) for expected, found in zip(one, other, strict=True))


def _alike(expected: Tensor, found: Tensor) -> bool:
    """Whether two tensors differ by rounding at most; a number that is nan in one must be so in both."""
    limit = ERRORS.get(expected.dtype)
    if limit is None:
        return True
    expected, found = expected.double(), found.double()
    same = (expected == found) | (expected.isnan() & found.isnan())
    error = torch.where(same, 0.0, found - expected).norm()
    return bool(error <= limit * expected.nan_to_num().norm() + STILL)


def _left_behind(calls: list[Callable[[], None]], tile: Tile) -> list[Tensor]:
    """Copies of all that the launches reach, after each has run once; then everything is as it was."""
    with chosen(calls, tile):
        reached = [tensor for call in calls for tensor in _reach(call)]
        before = [tensor.clone() for tensor in reached]
        for call in calls:
            call()
        after = [tensor.clone() for tensor in reached]
        for tensor, values in zip(reached, before, strict=True):
            tensor.copy_(values)
    return after


def _reach(call: Callable[[], None]) -> Iterator[Tensor]:
    if isinstance(call, Update):
        network = call.log.network
        yield from (network.weight, *network.state, *call.updates.products.weights)
    elif isinstance(call, Recorded):
        yield from _tensors([*call.arguments, *call.named.values()])


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
