"""Kernels that do next to nothing, and an optimizer's step without the gradients' products."""

from __future__ import annotations

import triton
import triton.language as tl
from fastgan.kernels.launch import wait_for_predecessor


@triton.jit
def relay(words, target, round_):
    """Takes the word that another program left in the round before, and leaves one more: it is the round's number, or late."""
    number, programs = tl.program_id(0), tl.num_programs(0)
    before = words + ((round_ + 1) % 2) * programs
    word = tl.load(before + (number + 1) % programs, cache_modifier=".cg")
    tl.store(target + number, word + 1)


@triton.jit(do_not_specialize=["round_"])
def node_kernel(words, round_, WORD: tl.constexpr, PDL: tl.constexpr):
    """A launch of a chain; WORD: it depends on the one before. words: int32 [2, programs]."""
    wait_for_predecessor(PDL)
    if WORD:
        relay(words, words + (round_ % 2) * tl.num_programs(0), round_)


@triton.jit(do_not_specialize=["rounds"])
def barrier_kernel(words, arrived, rounds, WORD: tl.constexpr):
    """Barriers of the whole grid, which must be on the device at once. arrived: int32, zero."""
    programs = tl.num_programs(0)
    for round_ in range(1, rounds + 1):
        if WORD:
            relay(words, words + (round_ % 2) * programs, round_)
        tl.debug_barrier()  # what all threads wrote comes before the arrival of one of them
        there = tl.atomic_add(arrived, 1, sem="release") + 1
        while there < round_ * programs:
            there = tl.atomic_add(arrived, 0, sem="acquire")
        tl.debug_barrier()


@triton.jit
def adam_kernel(w, m, v, g, size, beta1, beta2, rate, GRADIENT: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Adam without bias correction on flat buffers [size]; moments in their own dtype; without GRADIENT the gradient is m."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    wait_for_predecessor(PDL)
    mean = tl.load(m + place, mask=inside).to(tl.float32)
    square = tl.load(v + place, mask=inside).to(tl.float32)
    gradient = tl.load(g + place, mask=inside) if GRADIENT else mean
    mean = beta1 * mean + (1.0 - beta1) * gradient
    square = beta2 * square + (1.0 - beta2) * gradient * gradient
    weight = tl.load(w + place, mask=inside) - rate * mean / (tl.sqrt(square) + 1e-8)
    tl.store(w + place, weight, mask=inside)
    tl.store(m + place, mean.to(m.dtype.element_ty), mask=inside)
    tl.store(v + place, square.to(v.dtype.element_ty), mask=inside)
