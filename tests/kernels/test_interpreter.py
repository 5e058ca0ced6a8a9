"""Triton's kernels without a GPU: tests/kernels under its interpreter, which must be chosen before they are imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

KERNELS = Path(__file__).resolve().parent
SHARDS = 5  # in which the tests are run, so that workers share them


def version(package: str) -> tuple[int, ...]:
    """A package's version, major and minor; (0, 0) where it is not installed."""
    try:
        return tuple(map(int, importlib.metadata.version(package).split(".")[:2]))
    except importlib.metadata.PackageNotFoundError:
        return 0, 0


def broken() -> bool:
    return version("triton") < (3, 7) and version("numpy") >= (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(broken(), reason="the interpreter of Triton before 3.7 does not work with numpy from 2.4 on")
@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/kernels runs natively here")
def test_kernels_under_the_interpreter(shard: int) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "FASTGAN_TEST_SHARD": f"{shard}/{SHARDS}"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(KERNELS)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(run.stdout[-6000:], run.stderr[-2000:])
    assert run.returncode == 0
    assert " passed" in run.stdout
