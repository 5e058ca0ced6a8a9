"""What every test runs under: fixed seeds, uninitialised memory full of nan, and fixtures for what a machine may lack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastgan.ops import backend


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fill what torch.empty and its C++ siblings return with nan (integers with their maximum): reading it shows.

    This comes with torch's deterministic algorithms. On a GPU they differ from those that users get, so tests marked
    `cuda` run without.
    """
    torch.use_deterministic_algorithms("cuda" not in request.keywords, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def requires_extension() -> None:
    """Skips without the C++ extension, saying why; fails when FASTGAN_REQUIRE_EXT=1 promises one."""
    if reason := backend.extension_problem():
        (pytest.fail if os.environ.get("FASTGAN_REQUIRE_EXT", "0") != "0" else pytest.skip)(reason)


@pytest.fixture
def mnist_root() -> Path:
    """The folder with MNIST's four IDX files that FASTGAN_TEST_MNIST names; skips without."""
    if folder := os.environ.get("FASTGAN_TEST_MNIST"):
        return Path(folder)
    pytest.skip("FASTGAN_TEST_MNIST does not name a folder with MNIST's files")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
