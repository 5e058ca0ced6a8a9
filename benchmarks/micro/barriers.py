"""Barriers of a whole grid inside one launch: what a persistent kernel would pay in place of a graph's node."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from fastgan.kernels.launch import architecture
from torch.utils.cpp_extension import CUDA_HOME

from benchmarks.harness.cuda_graphs import times
from benchmarks.harness.measurement import PATIENCE, Measurement, slopes
from benchmarks.micro.nodes import multiprocessors

SOURCE = Path(__file__).with_name("barriers.cu")
KINDS = ("flat", "two levels", "cooperative groups")  # the order of barriers.cu
CLUSTER = 3
CLUSTERS = (8, 16)  # blocks
ROUNDS = (20, 1020)
FAN, STRIDE = 12, 32  # of barriers.cu: blocks that share a counter, and words from one counter to the next
WARPS = 8

Run = Callable[[torch.Tensor, torch.Tensor, int], None]  # words [2, blocks], counters, rounds


class Refused(RuntimeError):
    """A launch that the device does not take."""


def flags(arch: int) -> list[str]:
    """What nvcc is told, for a library with machine code for one architecture."""
    return ["-O3", "-std=c++17", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-shared", "-Xcompiler", "-fPIC"]


def find_nvcc() -> str:
    """The compiler, as torch would find it; RuntimeError where there is none."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{CUDA_HOME}/bin")
    if nvcc is None:
        raise RuntimeError("barriers need nvcc, on the PATH or in CUDA_HOME")
    return nvcc


def library(arch: int) -> ctypes.CDLL:
    """barriers.cu, compiled for this device."""
    nvcc = find_nvcc()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "barriers.so"
        subprocess.run([nvcc, *flags(arch), "-o", str(path), str(SOURCE)], check=True)
        return ctypes.CDLL(str(path))


def state_words(blocks: int) -> int:
    """How many words barriers of so many blocks count in: a counter for all of them, and one for each FAN."""
    return STRIDE * (1 + -(-blocks // FAN))


def _compiled(found: ctypes.CDLL, kind: int, word: bool) -> Run:
    def run(words: torch.Tensor, counters: torch.Tensor, rounds: int) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        pointers = (ctypes.c_void_p(place) for place in (counters.data_ptr(), words.data_ptr(), stream))
        if error := found.grid_barriers(kind, words.shape[1], int(word), rounds, *pointers):
            raise Refused(f"a kernel with barriers is not launched: CUDA error {error}")

    return run


def _by_triton(word: bool) -> Run:
    from benchmarks.micro.kernels import barrier_kernel

    def run(words: torch.Tensor, counters: torch.Tensor, rounds: int) -> None:
        options = dict(WORD=word, num_warps=WARPS, launch_cooperative_grid=True)
        barrier_kernel[(words.shape[1],)](words, counters, rounds, **options)

    return run


def barriers() -> Iterator[Measurement]:
    """A barrier's share of a launch with 1,020 of them, alone and with a word that every block takes from its neighbour."""
    blocks = multiprocessors()
    found = library(architecture())
    for word in (True, False):
        suffix = ", a word" if word else ""
        for kind, name in enumerate(KINDS):
            yield _measure(name + suffix, blocks, _compiled(found, kind, word), word)
        yield _measure("Triton" + suffix, blocks, _by_triton(word), word)
    for word, cluster in itertools.product((True, False), CLUSTERS if architecture() >= 90 else ()):
        try:
            name = "one cluster" + (", a word" if word else "")
            yield _measure(name, cluster, _compiled(found, CLUSTER, word), word)
        except Refused as error:  # not every device has clusters of 16
            print(f"a cluster of {cluster} blocks: {error}")


def _measure(name: str, blocks: int, run: Run, word: bool) -> Measurement:
    words = torch.zeros(2, blocks, dtype=torch.int32, device="cuda")
    counters = torch.zeros(state_words(blocks), dtype=torch.int32, device="cuda")

    def fresh(rounds: int) -> None:
        words.zero_()
        counters.zero_()
        run(words, counters, rounds)

    short, long = (times(partial(fresh, rounds), PATIENCE) for rounds in ROUNDS)
    if word:
        assert torch.all(words[ROUNDS[1] % 2] == ROUNDS[1]), f"{name}: a barrier let a block through too early"
    return Measurement("barrier", name, slopes(short, long, ROUNDS[1] - ROUNDS[0]), (blocks,))
