"""The CPU's kernels on other compilers and processors: `make portability`, which needs clang, GCC for aarch64 and qemu-user."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from .conftest import CSRC, Check

pytestmark = pytest.mark.long

KERNELS = {
    "sample": ("sample", "philox", "threads"),
    "loss": ("loss", "loss_half", "loss_rows", "threads"),
    "update": ("update", "threads"),
    "packed": ("packed/portable", "packed/avx2", "update", "philox", "threads"),
}
OPTIMIZED = ("-O2", "-ftree-vectorize", "-fno-math-errno", "-fno-trapping-math")
NEHALEM, HASWELL = ("qemu-x86_64", "-cpu", "Nehalem"), ("qemu-x86_64", "-cpu", "Haswell")
# compiler, instruction set of the packed kernels, flags, what runs the program
MACHINES = {
    "clang": ("clang++", "portable", (), ()),
    "aarch64": ("aarch64-linux-gnu-g++", "portable", ("-static",), ("qemu-aarch64",)),
    "x86-64 of 2008": ("g++", "portable", ("-static",), NEHALEM),
    "x86-64 of 2013": ("g++", "avx2", ("-static",), HASWELL),
}


@pytest.mark.parametrize("program", KERNELS)
@pytest.mark.parametrize("machine", MACHINES)
def test_kernels_run(machine: str, program: str, check: Check) -> None:
    compiler, set_, flags, emulator = MACHINES[machine]
    check(program, *KERNELS[program], compiler=compiler, flags=(*OPTIMIZED, *flags, f"-DSET={set_}"), emulator=emulator)


@pytest.mark.parametrize("compiler", ["clang++", "aarch64-linux-gnu-g++"])
@pytest.mark.parametrize("source", [*CSRC.glob("*.cpp"), *(CSRC / "cpu").rglob("*.cpp")], ids=lambda path: path.stem)
def test_the_extension_compiles(compiler: str, source: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    includes = [Path(torch.__file__).parent / "include", sysconfig.get_paths()["include"]]
    command = [compiler, "-std=c++17", "-fsyntax-only", "-fopenmp-simd", *(f"-I{path}" for path in includes), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
