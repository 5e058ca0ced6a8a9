"""sample by Triton: the public operators for counters and data on a GPU, and what loads the operands of a whole step."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..backend import Launch, implementation, launcher, transforms_active
from ..sample import Role, check_counter, stream


def _on_device(step: int | Tensor, device: torch.device | str) -> Tensor:
    return step if isinstance(step, Tensor) else torch.full((), step, device=device)


def _numbers_triton(kind: str, rows: int, columns: int, device, probability: float = 0.0, **counter) -> Tensor:
    seed, step, word, first_row, dtype = (
        counter.get(name, default)
        for name, default in (("seed", 0), ("step", 0), ("stream", 0), ("first_row", 0), ("dtype", torch.float32))
    )
    if dtype == torch.float64 or isinstance(seed, Tensor) or isinstance(first_row, Tensor):
        return getattr(reference, kind)(rows, columns, *[probability] * (kind == "dropout_scale"), device=device, **counter)
    out = torch.empty(rows, columns, dtype=dtype, device=device)
    streams = torch.full((1,), word, device=device)
    _launch_numbers(launcher(device), kind, out, columns, rows, seed, _on_device(step, device), streams, first_row, probability)
    return out


def _launch_numbers(
    launch: Launch, kind: str, out: Tensor, columns: int, pass_rows: int, seed: int, step: Tensor, streams: Tensor,
    first_row: int, probability: float = 0.0,
) -> None:  # fmt: skip
    from ...kernels import sample as kernels

    rows = len(out)
    given: dict[str, Any] = dict(out=out, out_stride=out.stride(0), rows=rows, columns=columns, pass_rows=pass_rows)
    given |= dict(seed=reference.as_int64(int(seed)), step=step, streams=streams, first_row=first_row)
    given |= dict(threshold=round(probability * 65536), scale=1.0 / (1.0 - probability))
    grid = (-(-rows // 8) * -(-columns // 64),)
    launch(kernels.numbers_kernel, grid, **given, KIND=kind, BLOCK_R=8, BLOCK_C=64)


for _name in ("normals", "uniforms"):
    implementation(f"sample.{_name}", "triton", "cuda", "cpu")(functools.partial(_numbers_triton, _name))


@implementation("sample.dropout_scale", "triton", "cuda", "cpu")
def _dropout_scale_triton(rows: int, columns: int, probability: float, *, device, **counter) -> Tensor:
    return _numbers_triton("dropout_scale", rows, columns, device, probability, **counter)


def _bits(size: int) -> dict[str, int]:
    """The halves of the Feistel network that shuffles a data set; ValueError beyond the 32 bits that it has."""
    if size > reference.WORD:
        raise ValueError(f"a data set of {size:,} samples is more than a kernel shuffles, {reference.WORD:,} at most")
    bits = max(6, (size - 1).bit_length())
    return dict(LOW=bits // 2, HIGH=bits - bits // 2)


@implementation("sample.batch_indices", "triton", "cuda", "cpu")
def _batch_indices_triton(rows: int, size: int, position: int | Tensor, *, seed, stream: int, device) -> Tensor:
    from ...kernels import sample as kernels

    if isinstance(seed, Tensor) or size > reference.WORD:
        return reference.batch_indices(rows, size, position, seed=seed, stream=stream, device=device)
    out = torch.empty(rows, dtype=torch.int64, device=device)
    # a position that is a tensor counts as the step of a stream that moves on by one each step
    first, step, moves = (0, position, 1) if isinstance(position, Tensor) else (position, out, 0)
    counter: dict[str, Any] = dict(
        position=first, step=step, per_step=moves, seed=reference.as_int64(seed), batch_stream=stream
    )
    grid = (-(-rows // 128),)
    launcher(device)(kernels.indices_kernel, grid, out=out, rows=rows, size=size, **counter, BLOCK_R=128, **_bits(size))
    return out


@implementation("sample.gather_rows", "triton", "cuda", "cpu")
def _gather_rows_triton(images: Tensor, indices: Tensor, *, dtype=torch.float32, out: Tensor | None = None) -> Tensor:
    from ...kernels import sample as kernels

    features = images.shape[1:].numel()
    dense = images.dim() >= 2 and images.is_contiguous() and indices.is_contiguous() and indices.dim() == 1
    if not dense or dtype == torch.float64 or images.dtype == torch.float64:
        return reference.gather_rows(images, indices, dtype=dtype, out=out)
    out = torch.empty(len(indices), features, dtype=dtype, device=images.device) if out is None else out
    grid = (-(-len(indices) // 8) * -(-features // 128),)
    extents = dict(rows=len(indices), features=features, BLOCK_R=8, BLOCK_C=128)
    launcher(images.device)(kernels.gather_kernel, grid, out=out, images=images, indices=indices, **extents)
    return out


@implementation("sample.interpolate", "triton", "cuda", "cpu")
def _interpolate_triton(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    from ...kernels import sample as kernels

    plain = all(type(x) is Tensor and x.dtype == torch.float32 and x.is_contiguous() for x in (real, fake, alpha))
    if not plain or transforms_active():
        return reference.interpolate(real, fake, alpha)
    out, features = torch.empty_like(real), real.shape[1:].numel()
    grid = (-(-len(real) // 8) * -(-features // 128),)
    extents = dict(rows=len(real), features=features, BLOCK_R=8, BLOCK_C=128)
    launcher(real.device)(kernels.interpolate_kernel, grid, out=out, real=real, fake=fake, alpha=alpha, **extents)
    return out


class BatchPosition(NamedTuple):
    """Which real rows a process sees in a step: its number on the device, rows of all processes, the first of this one."""

    seed: int
    step: Tensor
    d_steps: int
    all_rows: int
    first_row: int


def load_normals_(
    launch: Launch, out: Tensor, columns: int, pass_rows: int, seed: int, step: Tensor, streams: Tensor, first_row: int
) -> None:
    """Standard normals as an operand, stacked passes of pass_rows rows with a stream each."""
    check_counter(pass_rows, columns, first_row)
    _launch_numbers(launch, "normals", out, columns, pass_rows, seed, step, streams, first_row)


def load_batches_(launch: Launch, location: tuple[Tensor, int], updates: int, images: Tensor, position: BatchPosition) -> None:
    """The real rows of a step's updates as operands; location: the first update's, and how many rows on the next one's are."""
    from ...kernels import sample as kernels

    features, real = images.shape[1:].numel(), _real_rows(location, images, position)
    launch(kernels.batch_kernel, (-(-len(location[0]) // 8) * -(-features // 128) * updates,), **real)


def load_points_(
    launch: Launch,
    location: tuple[Tensor, int],
    updates: int,
    first: int,
    fake: Tensor,
    word: int,
    images: Tensor,
    position: BatchPosition,
) -> None:
    """Interpolates of real rows and fake ones [updates, rows, features], fp32, as operands of updates first, first + 1, ..."""
    from ...kernels import sample as kernels

    features, real = images.shape[1:].numel(), _real_rows(location, images, position)
    grid = (-(-len(location[0]) // 8) * -(-features // 128) * updates,)
    launch(kernels.points_kernel, grid, **real, fake=fake, first_update=first, alpha_stream=word)


def _real_rows(location: tuple[Tensor, int], images: Tensor, position: BatchPosition) -> dict[str, Any]:
    """What a launch that reads the real rows of updates takes."""
    out, update_rows = location
    operands = dict(out=out, out_stride=out.stride(0), update_rows=update_rows, images=images)
    counter = position._asdict() | dict(seed=reference.as_int64(position.seed), batch_stream=stream(Role.BATCH))
    extents = dict(rows=len(out), features=images.shape[1:].numel(), size=len(images), BLOCK_R=8, BLOCK_C=128)
    return operands | counter | extents | _bits(len(images))
