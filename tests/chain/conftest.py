"""Fixtures for the storages that a chain's products come in."""

from __future__ import annotations

import pytest

from fastgan.runtime import instruction_sets

from .storages import SETS, TORCH


def _require(name: str) -> None:
    if name not in instruction_sets.available():
        pytest.skip(f"this processor, or the compiler, has no {name}")


@pytest.fixture(params=[*TORCH, *SETS])
def format_(request: pytest.FixtureRequest) -> str:
    """The name of a storage: a dtype of torch's products, or the instruction set of packed ones."""
    if request.param in SETS:
        request.getfixturevalue("requires_extension")
        _require(request.param)
    return request.param


@pytest.fixture(params=SETS)
def set_(request: pytest.FixtureRequest, requires_extension: None) -> str:
    """The name of an instruction set that this processor has."""
    _require(request.param)
    return request.param
