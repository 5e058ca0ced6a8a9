"""Every Triton kernel that steps launch, compiled to machine code for four architectures, none of which need be here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = {80: 163, 90: 227, 100: 227, 120: 99}  # KiB that a block of threads may have
WITH_PRODUCTS = {"adjoint", "forward", "gradient", "output", "tangent", "update"}
KERNELS = WITH_PRODUCTS | {"batch", "flat", "gather", "indices", "load", "numbers", "points", "settle"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]


def compiled(arch: int, precision: str, *more: str) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.compile_kernels", str(arch), precision, *more]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def reports() -> Iterator[dict[tuple[int, str], Future]]:
    """What the compiler said of each architecture and precision, two of them at a time."""
    with ThreadPoolExecutor(2) as pool:
        jobs = {(arch, "bf16"): pool.submit(compiled, arch, "bf16", "ladder") for arch in SHARED}
        yield jobs | {(90, precision): pool.submit(compiled, 90, precision) for precision in ("fp32", "tf32")}


def names(kernels: list[dict]) -> set[str]:
    return {kernel["kernel"].removesuffix("_kernel") for kernel in kernels}


@pytest.mark.parametrize(("arch", "precision"), [*((arch, "bf16") for arch in SHARED), (90, "fp32"), (90, "tf32")])
def test_every_kernel_compiles_within_its_resources(arch: int, precision: str, reports: dict[tuple[int, str], Future]) -> None:
    kernels = reports[arch, precision].result()
    assert names(kernels) >= KERNELS and {kernel["arch"] for kernel in kernels} == {arch}
    assert not [kernel for kernel in kernels if kernel["spills"]]
    assert all(kernel["shared"] <= SHARED[arch] * 1024 for kernel in kernels)
    assert names([kernel for kernel in kernels if kernel["tf32"]]) == (WITH_PRODUCTS if precision == "tf32" else set())
