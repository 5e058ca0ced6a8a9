"""Rows: every measurement is one JSON line of results/<machine>.jsonl, with where, when and with what it was made."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> str:
    """A short name of what computes: the GPU's, or the CPU's with its number of cores; no host name."""
    if torch.cuda.is_available():
        return _slug(torch.cuda.get_device_name().removeprefix("NVIDIA "))
    cpus = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", cpus, re.MULTILINE)
    cores = torch.get_num_threads()
    return _slug(f"{model[1] if model else platform.processor() or platform.machine()} {cores} cores")


def device() -> str:
    """Where operators are measured: on the GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _slug(name: str) -> str:
    name = re.sub(r"\((R|TM)\)|\bCPU\b|@.*?GHz|\bProcessor\b|\d+-Core", " ", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commit() -> str:
    """The short commit of this checkout, with a + when files differ from it; FASTGAN_COMMIT, where it is set.

    A copy of a checkout may have come without its history, or lie inside another repository: whoever copied it knows better.
    """
    if named := os.environ.get("FASTGAN_COMMIT"):
        return named
    try:
        run = [subprocess.check_output(["git", *a.split()], cwd=ROOT, text=True, stderr=subprocess.DEVNULL) for a in _GIT]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run[0].strip() + ("+" if run[1].strip() else "")


_GIT = ("rev-parse --short HEAD", "status --porcelain --untracked-files=no -- . :!benchmarks/results")


def instruction_set() -> str:
    """The widest vectors of this CPU that products of matrices are made of; its architecture where they are none of x86."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    known = {"amx_tile": "amx", "avx512_bf16": "avx512-bf16", "avx512f": "avx512", "avx2": "avx2"}
    return next((name for flag, name in known.items() if flag in flags), platform.machine())


def circumstances(quick: bool) -> dict[str, Any]:
    """Where, when and with what a row is measured."""
    versions = dict(python=platform.python_version(), torch=torch.__version__)
    load, threads = round(os.getloadavg()[0], 2), torch.get_num_threads()
    row = dict(quick=quick, load=load, commit=commit(), machine=machine(), threads=threads, versions=versions)
    return row if torch.cuda.is_available() else row | dict(instruction_set=instruction_set())


def results(machine: str) -> Path:
    """Where a machine's rows are kept."""
    return RESULTS / f"{machine}.jsonl"


def append(row: dict[str, Any]) -> None:
    """Adds a row to results/<machine>.jsonl."""
    path = results(row["machine"])
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
