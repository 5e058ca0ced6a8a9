"""linear by Triton: what a product takes of its operands. Whole products are in test_step.py."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from fastgan.kernels.linear import operand


@triton.jit
def operand_kernel(out, x, size, PRECISION: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    values = tl.load(x + place, mask=place < size)
    tl.store(out + place, operand(values, tl.float32, PRECISION), mask=place < size)


def taken(x: torch.Tensor, precision: str) -> torch.Tensor:
    out = torch.full_like(x, math.nan)
    operand_kernel[(1,)](out, x, x.numel(), PRECISION=precision, BLOCK=4096)
    return out


def test_tf32_is_the_nearest_one(device: torch.device) -> None:
    torch.manual_seed(0)
    x = (torch.randn(4000) * 10.0 ** torch.randint(-20, 20, (4000,))).to(device)
    found = taken(x, "tf32")
    assert torch.equal(found.view(torch.int32) & 0x1FFF, torch.zeros_like(found, dtype=torch.int32)), "10 bits of a fraction"
    errors = ((found.double() - x.double()) / x.double()).abs()
    assert errors.max() <= 2.0**-11
    assert abs(((found.double() - x.double()) / x.double()).mean()) < 2e-5, "cutting off is 2.4e-4 too small in the mean"


def test_what_is_not_a_number_stays_so(device: torch.device) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, torch.finfo(torch.float32).max, 1e-42], device=device)
    x[2] = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)[0]  # a device's own nan
    found = taken(x, "tf32")
    assert found[2].isnan() and found[:2].tolist() == [math.inf, -math.inf] and found[5].isinf()
    assert found[3:5].view(torch.int32).tolist() == [0, -(2**31)] and found[6] < 2e-42


def test_other_precisions_take_numbers_as_they_are(device: torch.device) -> None:
    x = torch.randn(100, device=device)
    assert torch.equal(taken(x, "ieee"), x)
