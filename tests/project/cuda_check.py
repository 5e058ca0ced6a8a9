"""Compiles all CUDA sources for every architecture without a GPU, shows each kernel's registers and fails if one spills.

Run by `make cuda-check`. Nothing is linked; the flags are those that setup.py and torch compile with.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.cpp_extension import COMMON_NVCC_FLAGS, include_paths

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = sorted([*(ROOT / "csrc" / "cuda").glob("*.cu"), *(ROOT / "benchmarks").rglob("*.cu")])
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
# setup.py leaves the standard to torch, which here is not asked
STANDARD = "-std=c++20" if torch.__version__ >= (2, 13) else "-std=c++17"
FLAGS = [STANDARD, "-O3", *COMMON_NVCC_FLAGS, *(f"-I{path}" for path in include_paths()), "-cubin", "-Xptxas=-v"]


class Kernel(NamedTuple):
    """One line of the report."""

    name: str
    architecture: str
    registers: int
    spilled: int  # bytes, stored or loaded


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")


def known_architectures(nvcc: str) -> list[str]:
    known = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True).stdout.split()
    return [architecture for architecture in ARCHITECTURES if architecture in known]


def compile_for(nvcc: str, architecture: str, source: Path, folder: str) -> str:
    """What ptxas says of a source; raises where it does not compile."""
    output = Path(folder) / f"{source.stem}.{architecture}.cubin"
    command = [nvcc, *FLAGS, f"-arch={architecture}", "-o", str(output), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{source.name} does not compile for {architecture}:\n{result.stdout}{result.stderr}")
    return result.stderr


def demangle(text: str) -> str:
    """C++ names as they are written, where binutils are there to read them."""
    if not shutil.which("c++filt"):
        return text
    return subprocess.run(["c++filt"], input=text, check=True, capture_output=True, text=True).stdout


def read_kernels(report: str) -> list[Kernel]:
    found = []
    for part in report.split("Compiling entry function ")[1:]:
        name, architecture = re.findall(r"'(.+?)'", part.splitlines()[0])
        name = re.sub(r"\(anonymous namespace\)::|^void ", "", name).partition("(")[0]
        spilled = sum(int(count) for count in re.findall(r"(\d+) bytes spill", part))
        found.append(Kernel(name, architecture, int(re.findall(r"Used (\d+) registers", part)[0]), spilled))
    return found


def show(kernels: list[Kernel], architectures: list[str]) -> None:
    cells = {(kernel.name, kernel.architecture): kernel for kernel in kernels}
    print("registers".rjust(9 * len(architectures)), "(+ bytes spilled)")
    print("".join(architecture.rjust(9) for architecture in architectures), " kernel")
    for name in sorted({kernel.name for kernel in kernels}):
        row = [cells[name, architecture] for architecture in architectures]
        texts = [f"{kernel.registers}+{kernel.spilled}" if kernel.spilled else str(kernel.registers) for kernel in row]
        print("".join(text.rjust(9) for text in texts), "", name)


def main() -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        print("cuda-check: there is no nvcc on PATH or in CUDA_HOME; CUDA sources are not compiled")
        return
    architectures = known_architectures(nvcc)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_for, nvcc, *job, folder) for job in product(architectures, SOURCES)]
        kernels = [kernel for job in jobs for kernel in read_kernels(demangle(job.result()))]
    show(kernels, architectures)
    if left_out := [architecture for architecture in ARCHITECTURES if architecture not in architectures]:
        print(f"cuda-check: this nvcc does not know {', '.join(left_out)}")
    if spilling := [kernel for kernel in kernels if kernel.spilled]:
        sys.exit(f"cuda-check: {len(spilling)} kernels keep registers in memory")
    print(f"cuda-check: {len(kernels)} kernels, none spills")


if __name__ == "__main__":
    main()
