"""The dtype that losses and penalties are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """At least fp32: losses and penalties are never computed in half precision."""
    return x if x.dtype == torch.float64 else x.float()
