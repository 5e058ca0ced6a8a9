"""What an update in closed form leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class UpdateResult:
    """The objective's value, 0-d, and the mean real and fake logits [2]; then the penalties' value, 0-d, or None, and what the
    optimizer's step returned (`ops.update.update_`)."""

    value: Tensor
    means: Tensor
    penalty: Tensor | None = None
    statistics: Tensor | None = None

    def finite_check(self) -> Tensor:
        """Numbers that are finite where all logits, their gradients and penalties are."""
        return self.means if self.penalty is None else self.means + self.penalty

    def penalty_value(self) -> Tensor:
        """The penalties' value, 0-d; 0 without any."""
        return torch.zeros_like(self.value) if self.penalty is None else self.penalty

    def norm(self) -> Tensor:
        """The norm of the network's gradient, 0-d."""
        assert self.statistics is not None
        return self.statistics[0].sqrt()
