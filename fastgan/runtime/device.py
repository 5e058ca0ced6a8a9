"""Which device a run uses, what it can, and why one is not there."""

from __future__ import annotations

import os
from functools import cache

import torch

from ..ops.backend import is_launched_by_tool
from . import instruction_sets


def resolve_device(name: str | torch.device) -> torch.device:
    """The device meant by "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...; ValueError if it is not there."""
    if str(name) == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
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


def has_native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 run on instructions of their own: GPUs from sm_80, CPUs with bf16 dot products.

    ValueError for a value of FASTGAN_CPU that is unknown or cannot run here.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return not instruction_sets.caps_bf16() and _processor_has_bf16()


@cache
def _processor_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if capabilities:
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def has_tf32(device: torch.device) -> bool:
    """Whether matrix products may be in tf32, as on GPUs; what a tool compiles on tensors of the CPU is for one, too."""
    return device.type == "cuda" or is_launched_by_tool()
