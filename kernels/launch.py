"""How a kernel is launched: on the device of its tensors, with programmatic dependent launch where the device has it.

With PDL a kernel may begin while the one before it ends. Every kernel therefore calls `wait_for_predecessor`; before that it
writes nothing, and reads only what was written at least two launches before: weights, moments, tables.

Kernels count rows, columns and programs in 32 bits, and multiply in 64: see `check_extents`.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
PROGRAMS = 2**31 - 1  # of a launch, at most
GRID = (("x", PROGRAMS), ("y", 65_535), ("z", 65_535))  # and along each axis
EXTENT = 2**31 - 2**16  # of what is counted in 32 bits, at most: the last block's indices run on beyond it
# arguments that kernels take in 64 bits, or of which they want the lowest 32 alone; and strides, by the end of their names
WIDE = frozenset(("seed", "position", "size", "batch_stream", "alpha_stream", "first_row"))


@triton.jit
def wait_for_predecessor(PDL: tl.constexpr):
    """Waits until the launch before this one is complete, and lets the next one begin to be scheduled."""
    if PDL:
        cuda.gdc_wait()
        cuda.gdc_launch_dependents()


@triton.jit
def unravel(number, extent, BLOCK: tl.constexpr):
    """The first index of a program's block of an extent, and its number among the other axes' blocks.

    All axes share a grid's x, the first of them fastest: along y and z there are at most 65,535 programs.
    """
    blocks = tl.cdiv(extent, BLOCK)
    return (number % blocks) * BLOCK, number // blocks


def check_grid(kernel: Any, grid: tuple[int, ...]) -> None:
    """ValueError for more programs than a device takes; where their product passes 32 bits, Triton would launch nothing."""
    for (axis, most), programs in zip(GRID, grid, strict=False):
        if not 0 <= programs <= most:
            name = kernel.__name__
            raise ValueError(f"{name} would have {programs:,} programs along {axis}, where a grid has {most:,} at most")
    if (programs := math.prod(grid)) > PROGRAMS:
        raise ValueError(f"{kernel.__name__} would have {programs:,} programs; a launch has {PROGRAMS:,} at most")


def check_extents(kernel: Any, arguments: dict[str, Any]) -> None:
    """ValueError for an integer argument beyond the 32 bits that kernels count in, unless it may be WIDE."""
    named = [(n, x) for n, value in arguments.items() for x in (value if type(value) is tuple else (value,)) if type(x) is int]
    whole = [value for _, value in named]
    if min(whole, default=0) >= -EXTENT and max(whole, default=0) <= EXTENT:  # at every launch: it must take next to no time
        return
    for name, value in named:
        if not -EXTENT <= value <= EXTENT and name not in WIDE and not name.endswith("stride"):
            raise ValueError(f"{name} = {value:,} is more than {kernel.__name__} counts in 32 bits, {EXTENT:,} at most")


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

    def __call__(self, kernel: Any, grid: tuple[int, ...], *, warps: int = 4, stages: int = 1, **arguments: Any) -> None:
        """Runs a kernel with a `PDL` parameter on a grid, all arguments by name; ValueError for extents that are too large."""
        check_grid(kernel, grid)
        check_extents(kernel, arguments)
        options = dict(num_warps=warps, num_stages=stages) | (dict(launch_pdl=True) if self.pdl else {})
        self.run(kernel, grid, arguments | dict(PDL=self.pdl), options)

    def run(self, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]) -> None:
        """Runs a kernel. arguments: all its parameters by their names; options: Triton's own."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            kernel[grid](**arguments, **options)
