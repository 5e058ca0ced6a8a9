"""Compiling for a GPU that is not here: a step is run as ever, on CPU tensors, but its launches do something else."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
import triton
from fastgan.kernels import launch

from fastgan.ops import backend

CUOBJDUMP = "backends/nvidia/bin/cuobjdump"  # which Triton's package carries
PARKED = 8  # bytes of stack


class AbsentDriver:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # by which a kernel remembers what it was compiled to

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiler(launch.Launcher):
    """A launcher that only compiles; `made` has every kernel once, by its hash."""

    made: ClassVar[dict[str, Any]] = {}

    def __init__(self, device: torch.device, arch: int) -> None:
        self.device, self.arch, self.pdl = device, arch, arch >= 90

    def run(self, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]) -> None:
        compiled = kernel.warmup(grid=grid, **arguments, **options)
        self.made[compiled.hash] = compiled


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, and bytes of stack and of local memory, which is where registers are spilled to."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(Path(triton.__file__).parent / CUOBJDUMP), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text.stdout + text.stderr))
    return {name: int(value) for name, value in found.items()}


def spills(found: dict[str, int]) -> bool:
    """Whether a kernel of these resources keeps registers in memory, beyond a word or two that the assembler parks there."""
    return found["STACK"] > PARKED or found["LOCAL"] > 0


def compile_for(arch: int) -> None:
    """From now on this process compiles what it would launch, for an architecture."""
    from triton.runtime import driver

    driver.set_active(AbsentDriver(arch))
    backend.launch_by(lambda device: Compiler(device, arch))
