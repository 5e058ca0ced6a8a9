"""What this installation is and what it will run: versions, devices, the extension, an implementation for every operator."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from . import __version__
from .hardware import has_native_bf16
from .ops import backend, linear, loss, penalty, sample, update

OPERATORS = (sample, linear, loss, penalty, update)  # importing a stem registers its implementations


def versions() -> dict[str, str]:
    """Names and versions of what a result depends on."""
    found = {"fastgan": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in ("torchvision", "triton", "numpy", "safetensors"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | {"CUDA of torch": torch.version.cuda or "none"}


def devices() -> dict[str, str]:
    """The devices a run can choose, with their native precision."""
    cpu = torch.device("cpu")
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    found = {"cpu": f"{platform.machine()}, {threads}, auto precision {_precision(cpu)}"}
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
        found[str(device)] = f"{torch.cuda.get_device_name(device)}, {capability}, auto precision {_precision(device)}"
    return found if len(found) > 1 else found | {"cuda": "no device"}


def _precision(device: torch.device) -> str:
    return "bf16" if has_native_bf16(device) else "fp32"


def native_code() -> dict[str, str]:
    """Whether the C++ extension and Triton can run, or why not."""
    problems = {"C++ extension": backend.extension_problem(), "Triton": backend.triton_problem()}
    return {name: problem or "ready" for name, problem in problems.items()}


def choices() -> list[tuple[str, str, str, str]]:
    """(operator, device type, implementation, reason) for every operator on every kind of device here."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [(line.operator, kind, line.backend, line.reason) for kind in kinds for line in backend.choices(kind)]
