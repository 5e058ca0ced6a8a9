"""Fixtures for the storages that a chain's products come in."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def requires_dot(requires_extension: None) -> None:
    """Skips where there are no bf16 dot products of pairs, saying so."""
    if not torch.ops.fastgan.bf16_dot():
        pytest.skip("this processor, or the compiler, has no AVX512-BF16")


@pytest.fixture(params=["fp64", "fp32", "bf16", "packed"])
def format_(request: pytest.FixtureRequest) -> str:
    """The name of a storage: a dtype of dense products, or packed ones in bf16."""
    if request.param == "packed":
        request.getfixturevalue("requires_dot")
    return request.param
