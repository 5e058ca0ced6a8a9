"""A loss that keeps something by its tensor, and what happens where two losses have one in common."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastgan import testing


class KeptByTensor(torch.autograd.Function):
    """A discriminator's loss that remembers the fake logits by the real ones, and finds another call's there."""

    kept: ClassVar[dict[int, Tensor]] = {}

    @staticmethod
    def forward(ctx: Any, real: Tensor, fake: Tensor) -> Tensor:
        ctx.save_for_backward(real, fake)
        KeptByTensor.kept[real.data_ptr()] = fake.detach()
        return softplus(-real).mean() + softplus(fake).mean()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        real, fake = ctx.saved_tensors
        found = fake - fake.detach() + KeptByTensor.kept[real.data_ptr()]
        return -upstream[0] * torch.sigmoid(-real) / real.numel(), upstream[0] * torch.sigmoid(found) / fake.numel()


def test_what_is_kept_by_a_tensor_is_found_out() -> None:
    (found,) = testing.diagnose_d_loss(KeptByTensor.apply)
    assert found.name == "a tensor in two losses gets a wrong gradient"
