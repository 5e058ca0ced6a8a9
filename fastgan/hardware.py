"""Which device and which precision a run uses, and why a choice is impossible."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

log = logging.getLogger("fastgan")

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16", "fp64")


def resolve_device(name: str | torch.device) -> torch.device:
    """The device meant by "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...; ValueError if it is not there."""
    if str(name) == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {str(name)!r}; choose auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {str(name)!r} is not supported; choose auto, cpu or cuda")
    if device.type == "cuda":
        return _resolve_cuda(device)
    return device


def _resolve_cuda(device: torch.device) -> torch.device:
    if not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} is not there: torch {torch.__version__} finds no CUDA device; use cpu")
    index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"device 'cuda:{index}' is not there: this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", index)


@cache
def has_native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 run on instructions of their own: GPUs from sm_80, CPUs with bf16 dot products."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if capabilities:
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def resolve_precision(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The precision of matrix products; "auto" is bf16 where it is native, fp32 elsewhere, fp64 for networks in fp64.

    ValueError for an unknown or an impossible one.
    """
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; choose one of {', '.join(PRECISIONS)}")
    if name == "auto":
        native = "bf16" if has_native_bf16(device) else "fp32"
        return "fp64" if dtype == torch.float64 else native
    if name == "tf32" and device.type != "cuda":
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
