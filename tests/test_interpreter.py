"""Triton's kernels without a GPU: tests/kernels under its interpreter, which must be chosen before they are imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

KERNELS = Path(__file__).resolve().parent / "kernels"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/kernels runs natively here")
def test_kernels_under_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(KERNELS)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(run.stdout[-6000:], run.stderr[-2000:])
    assert run.returncode == 0
    assert " passed" in run.stdout
