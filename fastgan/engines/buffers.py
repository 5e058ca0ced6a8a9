"""Buffers of networks, batch norm's statistics among them, put back where an update is withheld."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .flat_network import FlatNetwork

_WRITTEN = frozenset(
    (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16)
    + (torch.float32, torch.float64, torch.complex64, torch.complex128)
)


class KeptBuffers:
    """Copies of all buffers of some networks, made when this is; nothing where there are none.

    Buffers are known by their places: a forward may write into one, or put another tensor where it was. Constants that torch
    writes nothing into (expanded, sparse, quantized) are not looked at, unless they are replaced.
    """

    def __init__(self, networks: Sequence[FlatNetwork]) -> None:
        groups: dict[torch.dtype, list[_Place]] = {}
        for place in _places(networks):
            groups.setdefault(place.buffer.dtype, []).append(place)
        self._groups = [(places, _joined([place.buffer for place in places])) for places in groups.values()]

    def restore(self, withhold: Tensor) -> None:
        """Puts numbers back: all of them where an update is withheld, 0-d bool, else those that are not finite now."""
        for places, before in self._groups:
            buffers = [place.now() for place in places]
            now = _joined(buffers)
            right = torch.where(withhold | ~now.isfinite(), before, now)
            parts = right.split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)])


class _Place(NamedTuple):
    """Where a module has a buffer, and the one that was there."""

    part: nn.Module
    name: str
    buffer: Tensor

    def now(self) -> Tensor:
        """The tensor that is there now, if it is one like it; else that one, which nobody sees any more."""
        now = self.part._buffers.get(self.name)
        return self.buffer if now is None or _kind(now) != _kind(self.buffer) or not is_written(now) else now.detach()


def _places(networks: Sequence[FlatNetwork]) -> Iterator[_Place]:
    """Of each buffer that can be put back, one that several parts share only once."""
    seen = set()
    for network in networks:
        for place in itertools.starmap(_Place, network.buffers()):
            if id(place.buffer) not in seen and is_written(place.buffer):
                seen.add(id(place.buffer))
                yield place


def _kind(buffer: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return buffer.shape, buffer.dtype, buffer.device


def is_written(buffer: Tensor) -> bool:
    """Whether torch writes into a tensor like this one."""
    kinds = buffer.layout is torch.strided and buffer.dtype in _WRITTEN
    return kinds and all(stride or size < 2 for size, stride in zip(buffer.shape, buffer.stride(), strict=True))


@torch.no_grad()
def _joined(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.detach().reshape(-1) for buffer in buffers])
