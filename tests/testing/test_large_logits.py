"""Large logits are looked at in every dtype that a critic's outputs come in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan import testing

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = [torch.float32, torch.bfloat16]


def softplus(x: Tensor) -> Tensor:
    return F.softplus(x.float() if x.dtype == torch.bfloat16 else x)


def overflows_in(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """softplus as it is written in books, in one dtype alone: exp overflows."""
    return lambda x: torch.log(1 + torch.exp(x)) if x.dtype == dtype else softplus(x)


def is_flat_in(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """softplus of clamped logits, in one dtype alone: right values but for the largest, no slope."""
    return lambda x: softplus(x.clamp(-60, 60)) if x.dtype == dtype else softplus(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrong", [overflows_in, is_flat_in])
def test_a_loss_that_is_wrong_in_one_dtype_alone_is_named(wrong: Callable, dtype: torch.dtype) -> None:
    side = wrong(dtype)
    for found in (
        testing.diagnose_d_loss(lambda real, fake: side(-real).mean() + side(fake).mean()),
        testing.diagnose_g_loss(lambda fake: side(-fake).mean()),
    ):
        faults = [fault for fault in found if fault.name == "wrong at large logits"]
        assert len(faults) == len(found) == 1 and str(dtype) in faults[0].evidence


def test_a_loss_that_is_right_in_every_dtype_has_no_fault() -> None:
    assert testing.diagnose_d_loss(lambda real, fake: softplus(-real).mean() + softplus(fake).mean()) == ()
    assert testing.diagnose_g_loss(lambda fake: softplus(-fake).mean()) == ()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loss_may_refuse_a_dtype(dtype: torch.dtype) -> None:
    def loss(real: Tensor, fake: Tensor) -> Tensor:
        if real.dtype == dtype:
            raise RuntimeError(f"not implemented for {dtype}")
        return softplus(-real).mean() + softplus(fake).mean()

    assert testing.diagnose_d_loss(loss) == ()
