"""sample: (seed, step) -> latents, dropout masks, batches and interpolates.

Every random number is a function of a 64-bit seed and a counter (block, row, step, stream), so nothing has a
state to save and every backend draws the same numbers (Philox4x32-10, see reference.philox4x32). A step may have 63 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .backend import implementation, resolve

ROWS, COLUMNS = 2**32, 2**34  # a counter's words are of 32 bits; a block has four columns at least


class Role(IntEnum):
    """What a random number is for."""

    LATENT = 0  # a discriminator update's latents
    GENERATOR_LATENT = 1  # the generator update's latents
    BATCH = 2  # the order of the data
    ALPHA = 3  # interpolation weights of a penalty
    NOISE = 4  # a penalty's additive noise
    DROPOUT = 5
    INITIAL = 6  # initial weights
    PREVIEW = 7  # latents of sample grids
    DATA = 8  # synthetic data sets


def stream(role: Role, *, pass_: int = 0, index: int = 0, d_step: int = 0) -> int:
    """A counter's stream word: bits 0-3 the role, 4-7 the pass, 8-15 a layer or penalty, 16-31 the inner d_step.

    ValueError where one of them does not fit: another's numbers would be drawn again.
    """
    if not (0 <= pass_ < 1 << 4 and 0 <= index < 1 << 8 and 0 <= d_step < 1 << 16):
        raise ValueError(f"pass {pass_}, layer or penalty {index}, d_step {d_step}: a stream has room for 16, 256 and 65,536")
    return int(role) | pass_ << 4 | index << 8 | d_step << 16


for _name in ("normals", "uniforms", "dropout_scale", "batch_indices", "gather_rows", "interpolate"):
    implementation(f"sample.{_name}", "reference")(getattr(reference, _name))


def _resolve(name: str, device: torch.device | str, backend: str) -> Callable:
    """What runs an operator on a device; inside torch.compile, where it is traced, the reference."""
    if torch.compiler.is_compiling():
        return getattr(reference, name)
    kind = device.partition(":")[0] if isinstance(device, str) else device.type
    return resolve(f"sample.{name}", kind, backend)


def check_counter(rows: int, columns: int, first_row: int | Tensor = 0, **_: object) -> None:
    """ValueError for rows or columns beyond the counter's words of 32 bits: others' numbers would be drawn again."""
    last = rows if isinstance(first_row, Tensor) else first_row + rows
    if last > ROWS or columns > COLUMNS:
        raise ValueError(f"random numbers differ in {ROWS:,} rows and {COLUMNS:,} columns, not in {last:,} and {columns:,}")


def normals(rows: int, columns: int, *, device="cpu", backend="auto", **counter) -> Tensor:
    """Standard normals [rows, columns]; counter: seed, step, stream, and first_row and dtype if not 0 and fp32."""
    check_counter(rows, columns, **counter)
    run = _resolve("normals", device, backend)
    return run(rows, columns, device=device, **counter)


def uniforms(rows: int, columns: int, *, device="cpu", backend="auto", **counter) -> Tensor:
    """Uniform numbers in [0, 1), [rows, columns]; counter as in `normals`."""
    check_counter(rows, columns, **counter)
    run = _resolve("uniforms", device, backend)
    return run(rows, columns, device=device, **counter)


def dropout_scale(rows: int, columns: int, probability: float, *, device="cpu", backend="auto", **counter) -> Tensor:
    """Dropout as a factor [rows, columns]: 0 with the given probability, else 1 / (1 - probability)."""
    check_counter(rows, columns, **counter)
    run = _resolve("dropout_scale", device, backend)
    return run(rows, columns, probability, device=device, **counter)


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor, *, backend="auto") -> Tensor:
    """real + alpha (fake - real), one alpha [B] per sample: real, fake [B, ...]; no derivative exists."""
    return _resolve("interpolate", real.device, backend)(real, fake, alpha)


def batch_indices(rows: int, size: int, position: int | Tensor, *, seed, stream: int, device="cpu", backend="auto") -> Tensor:
    """Indices [rows] of the samples at `position` ... of the endless shuffled stream over a data set of `size`."""
    run = _resolve("batch_indices", device, backend)
    return run(rows, size, position, seed=seed, stream=stream, device=device)


def gather_rows(images: Tensor, indices: Tensor, *, dtype=torch.float32, out: Tensor | None = None, backend="auto") -> Tensor:
    """Rows of a data set as a batch in [-1, 1], [B, features]; uint8 images are scaled by (x / 255 - 0.5) / 0.5.

    out: where the batch goes, of that shape and dtype, contiguous; None for a new tensor.
    """
    run = _resolve("gather_rows", images.device, backend)
    return run(images, indices, dtype=dtype, out=out)


class MaskCounter(NamedTuple):
    """Where the dropout masks of a layer come from in stacked passes of equally many rows; pass k has the word streams[k]."""

    seed: int | Tensor
    step: int | Tensor
    streams: tuple[int, ...]
    first_row: int


@dataclass(frozen=True)
class Draws:
    """The random numbers of one update: a function of (seed, step, d_step) and of this process's global rows.

    step: a number or a 0-d int64 tensor; first_row: the global number of this process's first row; device and dtype: where
    the numbers are made.
    """

    seed: int | Tensor
    step: int | Tensor
    d_step: int = 0
    first_row: int = 0
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def _counter(self, role: Role, **fields) -> dict:
        word = stream(role, d_step=self.d_step, **fields)
        place = dict(seed=self.seed, step=self.step, stream=word, first_row=self.first_row)
        return place | dict(device=self.device, dtype=self.dtype)

    def latents(self, rows: int, width: int, role: Role = Role.LATENT) -> Tensor:
        """Standard normals [rows, width]."""
        return normals(rows, width, **self._counter(role))

    def alpha(self, rows: int, penalty: int) -> Tensor:
        """One uniform interpolation weight for each row, [rows]; `penalty` tells several penalties apart."""
        return uniforms(rows, 1, **self._counter(Role.ALPHA, index=penalty)).flatten()

    def noise(self, rows: int, width: int, penalty: int) -> Tensor:
        """Uniform noise [rows, width]."""
        return uniforms(rows, width, **self._counter(Role.NOISE, index=penalty))

    def dropout_scale(self, rows: int, width: int, probability: float, *, pass_: int, layer: int) -> Tensor:
        """The dropout factor of one layer in one pass over the network, [rows, width]."""
        return dropout_scale(rows, width, probability, **self._counter(Role.DROPOUT, pass_=pass_, index=layer))

    def on(self, device, dtype: torch.dtype) -> Draws:
        """The same draws, made on another device or in another dtype."""
        return replace(self, device=device, dtype=dtype)


def masks(passes: Sequence[tuple[Draws, int]], layer: int) -> MaskCounter:
    """The dropout masks of one layer in stacked passes, each with its draws and number, which share a seed, step and rows."""
    draws = passes[0][0]
    words = tuple(stream(Role.DROPOUT, pass_=number, index=layer, d_step=each.d_step) for each, number in passes)
    return MaskCounter(draws.seed, draws.step, words, draws.first_row)
