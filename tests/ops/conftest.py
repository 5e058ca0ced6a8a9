"""Fixtures for the devices that operators run on, and for the storages that a chain's products come in."""

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
