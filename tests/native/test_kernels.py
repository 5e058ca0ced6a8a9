"""The CPU's kernels alone: no torch, under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import pytest

from .conftest import SANITIZED, Check


def test_sample(check: Check) -> None:
    check("sample", "sample", "philox", "threads")


def test_update(check: Check) -> None:
    check("update", "update", "threads")


def test_loss(check: Check) -> None:
    check("loss", "loss", "loss_half", "loss_rows", "threads")


@pytest.mark.slow
def test_packed(check: Check) -> None:
    """What x86 has for most, and the templates of AVX-512, which this processor need not have."""
    lines = check("packed", "packed/avx2", "update", "philox", "threads", flags=(*SANITIZED, "-DSET=avx2")).stdout.splitlines()
    assert lines[-2:] == ["portable, as avx512", "portable, as avx512-bf16"]
