"""sample in plain torch: (seed, step) -> random numbers, batches, interpolates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
FEISTEL_ROUNDS = 6
WORD = 0xFFFFFFFF
KEY_STRIDE = 0x9E3779B97F4A7C15 - 2**64  # odd: 2^64 turns have keys of their own


def as_int64(word: int) -> int:
    """The signed 64-bit integer with the bits of a seed or a counter."""
    return (word + 2**63) % 2**64 - 2**63


def key_of(seed: int | Tensor, step: int | Tensor) -> Any:
    """The 64-bit key of a step's random numbers, signed: the seed, and another one for each 2^32 steps.

    A counter has the lower 32 bits of a step alone.
    """
    seed = as_int64(seed) if isinstance(seed, int) else seed
    key = seed + (step >> 32) * KEY_STRIDE
    return as_int64(key) if isinstance(key, int) else key


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int | Tensor) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), int64 tensors of 32-bit words.

    counter: four broadcastable ones; seed: the 64-bit key, an int or a 0-d int64 tensor. Returns four.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(PHILOX_ROUNDS):
        # int64 products wrap modulo 2^64, which keeps all 64 bits of the unsigned product
        p0, p1 = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) & WORD) ^ c1 ^ k0, ((p0 >> 32) & WORD) ^ c3 ^ k1
        c1, c3 = p1 & WORD, p0 & WORD
        k0, k1 = (k0 + PHILOX_WEYL[0]) & WORD, (k1 + PHILOX_WEYL[1]) & WORD
    return [c0, c1, c2, c3]


def random_words(rows: int, blocks: int, *, seed, step, stream: int, first_row=0, device=None) -> Tensor:
    """The 32-bit words of counters (block, row, step, stream): int64 [rows, blocks, 4].

    Rows are global: a process that holds rows 64..127 of a batch passes first_row=64. A step's bits above 32 are in the key.
    """
    block = torch.arange(blocks, device=device)  # [blocks]
    row = (first_row + torch.arange(rows, device=device)).unsqueeze(1)  # [rows, 1]
    moment, word = (x if isinstance(x, Tensor) else torch.full((), x, device=device) for x in (step, stream))
    return torch.stack(philox4x32((block, row, moment & WORD, word), key_of(seed, step)), dim=-1)


def uniforms(rows: int, columns: int, *, dtype=torch.float32, **counter) -> Tensor:
    """Uniform numbers k / 2^24 in [0, 1), [rows, columns]; four columns to a Philox block."""
    words = random_words(rows, -(-columns // 4), **counter).flatten(1)[:, :columns]
    return (words >> 8).to(dtype) * 2.0**-24


def normals(rows: int, columns: int, *, dtype=torch.float32, **counter) -> Tensor:
    """Standard normals by Box and Muller, [rows, columns]; words (0, 1) and (2, 3) of a block make two each.

    radius = sqrt(-2 ln((w + 1/2) / 2^24)), angle = 2 pi w' / 2^24 on 24-bit w, w'; |normal| <= 5.9.
    """
    words = (random_words(rows, -(-columns // 4), **counter) >> 8).to(dtype)
    radius = torch.sqrt(-2.0 * torch.log((words[..., 0::2] + 0.5) * 2.0**-24))
    angle = words[..., 1::2] * (2.0 * math.pi * 2.0**-24)
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)  # [rows, blocks, 2, 2]
    return pairs.flatten(1)[:, :columns]


def dropout_scale(rows: int, columns: int, probability: float, *, dtype=torch.float32, **counter) -> Tensor:
    """Dropout as a factor, [rows, columns]: 0 with the given probability, else 1 / (1 - probability).

    Eight columns to a Philox block, read as eight little-endian 16-bit numbers; a column is dropped
    where its number is below round(probability * 2^16).
    """
    words = random_words(rows, -(-columns // 8), **counter)
    halves = torch.stack((words & 0xFFFF, words >> 16), dim=-1).flatten(1)[:, :columns]
    keep = halves >= round(probability * 65536)
    return keep.to(dtype) * (1.0 / (1.0 - probability))


def _mix(value: Tensor) -> Tensor:
    """The 32-bit finalizer of MurmurHash3: every input bit reaches every output bit."""
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & WORD
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & WORD
    return value ^ (value >> 16)


def permute(index: Tensor, epoch: Tensor, size: int, *, seed: int | Tensor, stream: int) -> Tensor:
    """Position `index` of epoch `epoch` in a keyed permutation of [0, size), elementwise; nothing is stored.

    A Feistel network over the smallest power of two that holds `size`, its halves differing by at most
    one bit, walked until the value falls below `size` (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002). Round keys: the first six words of Philox counters (block, epoch, its upper 32 bits, stream).
    """
    bits = max(6, (size - 1).bit_length())  # with halves of one or two bits, tiny sets would be shuffled with a bias
    low_bits = bits // 2
    zero = torch.zeros_like(epoch)
    counters = [philox4x32((zero + block, epoch & WORD, epoch >> 32, zero + stream), seed) for block in range(2)]
    keys = counters[0] + counters[1]

    def shuffle(value: Tensor) -> Tensor:
        widths = (bits - low_bits, low_bits)
        high, low = value >> low_bits, value & ((1 << low_bits) - 1)
        for number in range(FEISTEL_ROUNDS):
            mask = (1 << widths[0]) - 1
            high, low, widths = low, (high ^ _mix(low ^ keys[number])) & mask, widths[::-1]
        return (high << low_bits) | low

    value = shuffle(index)
    while bool((outside := value >= size).any()):
        value = torch.where(outside, shuffle(value), value)
    return value


def batch_indices(rows: int, size: int, position: int | Tensor, *, seed, stream: int, device=None) -> Tensor:
    """Which samples of a data set of `size` stand at `position`, position + 1, ... of its endless stream: int64 [rows]."""
    place = position + torch.arange(rows, device=device)
    return permute(place % size, place // size, size, seed=seed, stream=stream)


def gather_rows(images: Tensor, indices: Tensor, *, dtype=torch.float32, out: Tensor | None = None) -> Tensor:
    """Rows of a data set as a batch in [-1, 1], [B, features]: uint8 by (x / 255 - 0.5) / 0.5, floats as they are."""
    rows = images.flatten(1).index_select(0, indices)
    batch = rows.to(dtype) * (2.0 / 255.0) - 1.0 if rows.dtype == torch.uint8 else rows.to(dtype)
    return batch if out is None else out.copy_(batch)


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """real + alpha (fake - real), one alpha per sample: real, fake [B, ...], alpha [B]."""
    return real + alpha.reshape(-1, *[1] * (real.dim() - 1)) * (fake - real)
