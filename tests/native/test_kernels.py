"""The CPU's kernels alone: no torch, under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

from .conftest import Check


def test_sample(check: Check) -> None:
    check("sample", "sample", "philox", "threads")


def test_update(check: Check) -> None:
    check("update", "update", "threads")


def test_loss(check: Check) -> None:
    check("loss", "loss", "loss_half", "loss_rows", "threads")
