"""Fixtures for the devices that operators run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from fastgan.ops import backend


@pytest.fixture
def requires_cuda_kernels(requires_extension: None) -> None:
    """Skips where the extension was built without CUDA, saying so; fails when FASTGAN_REQUIRE_EXT=1 promises one."""
    if reason := backend.cuda_problem():
        (pytest.fail if os.environ.get("FASTGAN_REQUIRE_EXT", "0") != "0" else pytest.skip)(reason)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each device type there is: tensors are made there unless a test says where."""
    if request.param == "cuda":
        request.getfixturevalue("requires_cuda_kernels")
    with nullcontext() if request.param == "cpu" else torch.device(request.param):
        yield request.param
