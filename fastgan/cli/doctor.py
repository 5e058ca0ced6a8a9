"""fastgan doctor: what this installation is and what it will run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._version import __version__
from .command import Job

if TYPE_CHECKING:
    import torch


def versions() -> dict[str, str]:
    """Names and versions of what a result depends on."""
    import torch

    found = {"fastgan": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in ("torchvision", "triton", "numpy", "safetensors"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | {"CUDA of torch": torch.version.cuda or "none"}


def devices() -> dict[str, str]:
    """The devices a run can choose, with their native precision."""
    import torch

    cpu = torch.device("cpu")
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    found = {"cpu": f"{platform.machine()}, {threads}, auto precision {_precision(cpu)}"}
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
        found[str(device)] = f"{torch.cuda.get_device_name(device)}, {capability}, auto precision {_precision(device)}"
    return found if len(found) > 1 else found | {"cuda": "no device"}


def _precision(device: torch.device) -> str:
    from ..runtime.device import has_native_bf16

    return "bf16" if has_native_bf16(device) else "fp32"


def native_code() -> dict[str, str]:
    """Whether the C++ extension and Triton can run, or why not."""
    from ..ops import backend

    problems = {"C++ extension": backend.extension_problem(), "Triton": backend.triton_problem()}
    return {name: problem or "ready" for name, problem in problems.items()}


def cpu_products() -> dict[str, str]:
    """What products of MLPs run on this CPU in each precision, and why."""
    from ..runtime.instruction_sets import choose

    chosen = {precision: choose(precision) for precision in ("fp32", "bf16")}
    return {name: f"{used.name if used else 'those of torch'} ({reason})" for name, (used, reason) in chosen.items()}


def choices() -> list[tuple[str, str, str, str]]:
    """(operator, device type, implementation, reason) for every operator on every kind of device here."""
    import torch

    from ..chain import products  # noqa: F401  registers the storages
    from ..ops import backend

    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [(line.operator, kind, line.backend, line.reason) for kind in kinds for line in backend.choices(kind)]


@dataclass(frozen=True)
class Doctor:
    """Print versions, devices, and which implementation runs for every operator, with the reason."""

    def prepare(self) -> Job:
        from ..runtime import instruction_sets

        instruction_sets.check()
        return _diagnose


def _diagnose() -> None:
    from rich.table import Table

    from ..training.display import Output

    console = Output()
    facts_of = {"versions": versions, "devices": devices, "native code": native_code, "products on the CPU": cpu_products}
    for title, facts in {title: find() for title, find in facts_of.items()}.items():
        table = Table("what", "value", title=title, title_justify="left")
        for row in facts.items():
            table.add_row(*row)
        console.print(table)
    table = Table("operator", "device", "runs", "why", title="operators", title_justify="left")
    for choice in choices():
        table.add_row(*choice)
    console.print(table)
