"""Kernels run natively on a CUDA device, else on the CPU under Triton's interpreter; elsewhere nothing is collected.

The interpreter knows fp32 alone: its bf16 product is wrong.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from tests.kernels.patch_once import patch_once_a_launch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
RUNS = importlib.util.find_spec("triton") is not None and (INTERPRETED or torch.cuda.is_available())
collect_ignore_glob = [] if RUNS else ["test_*.py"]


if INTERPRETED and RUNS:
    patch_once_a_launch()


@pytest.fixture
def device() -> torch.device:
    """Where kernels run."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(params=["fp32", "tf32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    """Of products; fp32 alone under the interpreter."""
    if INTERPRETED and request.param != "fp32":
        pytest.skip("the interpreter has fp32 products only")
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """FASTGAN_TEST_SHARD=1/4 keeps the second, sixth, ... test: tests/test_interpreter.py runs each shard in a process."""
    if shard := os.environ.get("FASTGAN_TEST_SHARD"):
        number, _, count = shard.partition("/")
        items[:] = items[int(number) :: int(count)]
