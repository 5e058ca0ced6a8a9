"""Every Triton kernel that steps launch, compiled to machine code for four architectures, none of which need be here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED = {80: 163, 90: 227, 100: 227, 120: 99}  # KiB that a block of threads may have
WITH_PRODUCTS = {"adjoint", "forward", "gradient", "output", "tangent", "update"}
KERNELS = WITH_PRODUCTS | {"batch", "flat", "gather", "indices", "load", "numbers", "points", "flush"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]


# everything for one architecture; the step with most kinds of kernels in the other precisions, and for the two architectures
# whose products are other instructions: sm_120 has those of sm_80
EVERYTHING, ONE = ["90:bf16"], ["80:bf16", "100:bf16", "90:fp32", "90:tf32"]
ALL = [f"{arch}:bf16" for arch in SHARED]
# a quarter of an hour of one core
LONG = [
    *(("games", [target]) for target in [*ONE, "120:bf16"]),
    *((what, [target]) for what in ("ladder", "table") for target in ALL),
]


def compiled(what: str, targets: list[str]) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compile_kernels", what, *targets]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def names(kernels: list[dict]) -> set[str]:
    return {kernel["kernel"].removesuffix("_kernel") for kernel in kernels}


@pytest.mark.parametrize(
    ("what", "targets"),
    [
        ("games", EVERYTHING),
        ("one", ONE[:2]),
        ("one", ONE[2:]),
        *(pytest.param(*each, marks=pytest.mark.long) for each in LONG),
    ],
    ids=str,
)
def test_every_kernel_compiles_within_its_resources(what: str, targets: list[str]) -> None:
    found = compiled(what, targets)
    if what == "table" and not found:
        pytest.skip(f"the table of tiles has none of {targets}")
    for target in targets:
        kernels = [kernel for kernel in found if kernel["asked"] == target]
        arch, precision = int(target.partition(":")[0]), target.partition(":")[2]
        assert names(kernels) >= (KERNELS if what == "games" else WITH_PRODUCTS)
        assert {kernel["arch"] for kernel in kernels} == {arch}
        assert not [kernel for kernel in kernels if kernel["spills"]]
        # what the rule chooses is chosen everywhere, so that what is compiled for one must fit into each; a table is one's own
        limit = SHARED[arch] if what == "table" else min(SHARED.values())
        assert all(kernel["shared"] <= limit * 1024 for kernel in kernels)
        assert names([kernel for kernel in kernels if kernel["tf32"]]) == (WITH_PRODUCTS if precision == "tf32" else set())
