"""sample by C++: counters and data that are plain numbers and contiguous fp32; the reference for all else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..backend import fake, implementation, transforms_active


def _counter_words(*, seed, step, stream: int, first_row=0, dtype=torch.float32) -> tuple[int, int, int, int] | None:
    """A counter as the C++ operators take it; None for what they leave to the reference: counters in tensors, other dtypes."""
    plain = isinstance(seed, int) and isinstance(step, int) and isinstance(first_row, int)
    if not plain or dtype != torch.float32:
        return None
    return reference.key_of(seed, step), step & reference.WORD, stream, first_row


@implementation("sample.normals", "cpp", "cpu")
def _normals_cpp(rows: int, columns: int, *, device, **counter) -> Tensor:
    if (words := _counter_words(**counter)) is None:
        return reference.normals(rows, columns, device=device, **counter)
    torch.ops.fastgan.normals_.default(out := torch.empty(rows, columns, device=device, dtype=torch.float32), *words)
    return out


@implementation("sample.uniforms", "cpp", "cpu")
def _uniforms_cpp(rows: int, columns: int, *, device, **counter) -> Tensor:
    if (words := _counter_words(**counter)) is None:
        return reference.uniforms(rows, columns, device=device, **counter)
    torch.ops.fastgan.uniforms_.default(out := torch.empty(rows, columns, device=device, dtype=torch.float32), *words)
    return out


@implementation("sample.dropout_scale", "cpp", "cpu")
def _dropout_scale_cpp(rows: int, columns: int, probability: float, *, device, **counter) -> Tensor:
    if (words := _counter_words(**counter)) is None:
        return reference.dropout_scale(rows, columns, probability, device=device, **counter)
    threshold, scale = round(probability * 65536), 1.0 / (1.0 - probability)
    torch.ops.fastgan.dropout_scale_.default(
        out := torch.empty(rows, columns, device=device, dtype=torch.float32), threshold, scale, *words
    )
    return out


@implementation("sample.batch_indices", "cpp", "cpu")
def _batch_indices_cpp(rows: int, size: int, position: int, *, seed, stream: int, device) -> Tensor:
    if not isinstance(seed, int) or not isinstance(position, int):
        return reference.batch_indices(rows, size, position, seed=seed, stream=stream, device=device)
    out = torch.empty(rows, dtype=torch.int64, device=device)
    torch.ops.fastgan.batch_indices_.default(out, size, position, reference.as_int64(seed), stream)
    return out


@implementation("sample.gather_rows", "cpp", "cpu")
def _gather_rows_cpp(images: Tensor, indices: Tensor, *, dtype=torch.float32, out: Tensor | None = None) -> Tensor:
    plain = images.dtype == torch.uint8 and dtype == torch.float32 and indices.dtype == torch.int64
    dense = images.dim() >= 2 and images.is_contiguous() and indices.is_contiguous() and indices.dim() == 1
    if not plain or not dense:
        return reference.gather_rows(images, indices, dtype=dtype, out=out)
    if out is None:
        out = torch.empty(len(indices), images.shape[1:].numel(), device=images.device, dtype=dtype)
    torch.ops.fastgan.gather_rows_.default(out, images, indices)
    return out


@implementation("sample.interpolate", "cpp", "cpu")
def _interpolate_cpp(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    plain = all(type(x) is Tensor and x.dtype == torch.float32 and x.is_contiguous() for x in (real, fake, alpha))
    if not plain or transforms_active():
        return reference.interpolate(real, fake, alpha)
    torch.ops.fastgan.interpolate_.default(out := torch.empty_like(real), real, fake, alpha)
    return out


@fake("uniforms_", "normals_", "dropout_scale_", "batch_indices_", "gather_rows_", "interpolate_")
def _fill(*_: Any) -> None:
    """Nothing is returned."""
