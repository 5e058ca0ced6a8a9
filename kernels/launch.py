"""How a kernel is launched: on the device of its tensors, with programmatic dependent launch where the device has it.

With PDL a kernel may begin while the one before it ends. Every kernel therefore calls `wait_for_predecessor`; before that it
writes nothing, and reads only what was written at least two launches before: weights, moments, tables.
"""

from __future__ import annotations

import functools
import os
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


@triton.jit
def wait_for_predecessor(PDL: tl.constexpr):
    """Waits until the launch before this one is complete, and lets the next one begin to be scheduled."""
    if PDL:
        cuda.gdc_wait()
        cuda.gdc_launch_dependents()


def architecture(device: torch.device | None = None) -> int:
    """The compute capability of a device, 90 for sm_90; 0 under the interpreter."""
    if INTERPRETED:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


class Launcher:
    """Launches kernels on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.arch = device, architecture(device)
        self.pdl = self.arch >= 90

    def __call__(
        self, kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, stages: int = 1, **named: Any
    ) -> None:
        """Runs a kernel with a `PDL` parameter on a grid."""
        named |= dict(PDL=self.pdl, num_warps=warps, num_stages=stages)
        self.run(kernel, grid, *arguments, **named, **({"launch_pdl": True} if self.pdl else {}))

    def run(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **named: Any) -> None:
        """Runs a kernel with all its parameters and options."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            kernel[grid](*arguments, **named)


@functools.cache
def launcher(device: torch.device) -> Launcher:
    """A device's launcher."""
    return Launcher(device)
