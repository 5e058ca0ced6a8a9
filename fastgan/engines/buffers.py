"""Buffers of networks, batch norm's statistics among them, put back where an update is withheld."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .flat_network import FlatNetwork


class KeptBuffers:
    """Copies of all buffers of some networks, made when this is; nothing where there are none."""

    def __init__(self, networks: Sequence[FlatNetwork]) -> None:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for network in networks:
            for buffer in network.buffers():
                groups.setdefault(buffer.dtype, []).append(buffer)
        self._groups = [(buffers, _joined(buffers)) for buffers in groups.values()]

    def restore(self, withhold: Tensor) -> None:
        """Puts numbers back: all of them where an update is withheld, 0-d bool, else those that are not finite now."""
        for buffers, before in self._groups:
            now = _joined(buffers)
            right = torch.where(withhold | ~now.isfinite(), before, now)
            parts = right.split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)])


@torch.no_grad()
def _joined(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.detach().reshape(-1) for buffer in buffers])
