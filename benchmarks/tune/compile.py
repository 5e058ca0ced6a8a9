"""Compiling candidates in processes beside the one that times them, for its device, on tensors of the CPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import torch
from fastgan.kernels.tiles import Tile

from benchmarks.harness.offline_compile import Compiler, compile_for, resources, spills
from benchmarks.tune.launches import chosen, record

CANONICAL = 1024  # rows of a batch beyond which kernels are the same


def prepare_worker(arch: int) -> None:
    """Turns this process into one that compiles for a device, on tensors of the CPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    compile_for(arch)


@functools.cache
def _recorded(case: str, batch: int, precision: str) -> list[list[Callable[[], None]]]:
    return list(record(case, batch, precision, "cpu").values())


def begin(cases: list[str], batch: int, precision: str) -> None:
    """In a worker: what all its compilations of a batch size need first."""
    for case in cases:
        _recorded(case, _canonical(batch), precision)


def _canonical(batch: int) -> int:
    return CANONICAL if batch > CANONICAL and batch % 16 == 0 else batch


def compile_tile(case: str, batch: int, precision: str, index: int, tile: Tile) -> int:
    """In a worker: compiles the launches of a step's index-th line of the table; bytes of shared memory.

    ValueError where registers are spilled: such a kernel is refused, however fast it may be.
    """
    Compiler.made.clear()
    calls = _recorded(case, _canonical(batch), precision)[index]
    with chosen(calls, tile):
        for call in calls:
            call()
    if any(spills(resources(kernel.asm["cubin"])) for kernel in Compiler.made.values()):
        raise ValueError(f"{list(tile)} spills registers")
    return max((kernel.metadata.shared for kernel in Compiler.made.values()), default=0)
