"""The precision of matrix products, and why one is impossible."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from .device import has_native_bf16, has_tf32

log = logging.getLogger("fastgan")

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16", "fp64")


def resolve_precision(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The precision of matrix products; "auto" is bf16 where it is native, fp32 elsewhere, fp64 for networks in fp64.

    ValueError for an unknown or an impossible one.
    """
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; choose one of {', '.join(PRECISIONS)}")
    if name == "auto":
        native = "bf16" if has_native_bf16(device) else "fp32"
        return "fp64" if dtype == torch.float64 else native
    if name == "tf32" and not has_tf32(device):
        raise ValueError("precision 'tf32' exists on CUDA devices only; use fp32 or bf16")
    if dtype == torch.float64 and name != "fp64":
        raise ValueError(f"the networks are in fp64, which precision {name!r} would not use; use fp64 or auto")
    return name


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Inside, torch's fp32 products and convolutions are IEEE's or tf32, where one of the two is the precision asked for.

    Libraries read this when an operation is launched: it must be there while a backward pass runs, too.
    """
    settings = _fp32_settings() if precision in ("fp32", "tf32") else None
    if settings is None:
        yield
        return
    _set_fp32("high" if precision == "tf32" else "highest", precision == "tf32")
    try:
        yield
    finally:
        _set_fp32(*settings)


@cache
def _say_that_settings_stay() -> None:
    log.warning("torch's newer and older settings of fp32 precision contradict each other: fp32 products stay as they are set")


def _fp32_settings() -> tuple[str, bool] | None:
    """How fp32 is multiplied now; None where torch's newer settings, which somebody has made, contradict these."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        _say_that_settings_stay()
        return None


def _set_fp32(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
