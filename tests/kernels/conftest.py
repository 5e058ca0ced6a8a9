"""Which tests run where: the host's in every ordinary run; those that run kernels on a CUDA device or under the interpreter.

test_interpreter.py starts pytest on this folder once more, under Triton's interpreter on the CPU. That run leaves the host's
tests out, which would start it again. The interpreter knows fp32 alone: its bf16 product is wrong.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from tests.kernels.patch_once import patch_once_a_launch

HOST = ("test_cubins.py", "test_interpreter.py", "test_launch.py", "test_tiles.py")  # they run no kernel in their own process
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
RUNS = importlib.util.find_spec("triton") is not None and (INTERPRETED or torch.cuda.is_available())
KERNELS = sorted(path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in HOST)
collect_ignore = [*(HOST if INTERPRETED else ()), *(() if RUNS else KERNELS)]


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
    """FASTGAN_TEST_SHARD=1/4 keeps the second, sixth, ... test under the interpreter: test_interpreter.py shares them so."""
    shard = os.environ.get("FASTGAN_TEST_SHARD")
    if shard and INTERPRETED:
        number, _, count = shard.partition("/")
        items[:] = items[int(number) :: int(count)]
