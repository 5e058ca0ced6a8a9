"""Proves and measures everything on a machine with a GPU: python -m benchmarks.gpu [--parts build tests ...] [--minutes 8].

Parts: build (the extension, in place), tests (those that a device changes), sanitizer (metrics of eager steps against stored
ones, then compute-sanitizer on these steps), profile (the launches of a captured step), micro (nodes, barriers, memory,
cuBLASLt), bench (the step against its peers, then single operators). Two more run when they are named: tune (writes
kernels/tiles.json), article (its 100 epochs on the digits in FASTGAN_TEST_MNIST). Parts that are named run in the caller's
order. A part that fails does not stop the others, and what does not fit into the minutes is left out, and said to be. Needs no
network and installs nothing.

One folder holds what they found: summary.txt, environment.json, tests.txt, tests.xml, profile.txt, rows.jsonl, what else was
measured and drawn and, of all other commands, commands.txt; all.tgz is the whole folder. The exit code is 1 where a test or the
sanitizer found an error, 2 where another part failed. Where there are fifteen minutes in all, see `benchmarks.gpu_session`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import goals
from benchmarks.gpu.parts import MARGIN, NAMED, PARTS
from benchmarks.gpu.runner import Outcome, Shell
from benchmarks.harness.rows import ROOT, commit, machine, results
from benchmarks.tables import rows_of

LIBRARIES = ("torch", "triton", "jax", "numpy", "pytest", "pytest-xdist", "ninja")
LIMIT = 15 << 20  # bytes of a file
LEAST = 20.0  # seconds that a part must have to begin


class NewRows:
    """The rows that are added to this machine's from now on."""

    def __init__(self) -> None:
        self.path = results(machine())
        self.begin = self.path.stat().st_size if self.path.exists() else 0

    def text(self) -> str:
        if not self.path.exists():
            return ""
        with self.path.open() as file:
            file.seek(self.begin)
            return file.read()

    def all(self) -> list[dict[str, Any]]:
        """Those from before, too."""
        return rows_of(self.path) if self.path.exists() else []

    def table(self) -> list[str]:
        return table([json.loads(line) for line in self.text().splitlines()])


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each row of a step or of the article's whole game, and one for each operator."""
    lines = []
    for row in (row for row in rows if row["benchmark"] == "article"):
        line = f"{row['label']}: {row['seconds']} s of training, {row['wall_seconds']} s with all that a run leaves behind"
        lines.append(line + (f", cold start {row['cold_start']} s" if "cold_start" in row else ""))
    for row in (row for row in rows if row["benchmark"] == "step"):
        place, times = f"{row['label']} {row['shape'][0]}", f"{row['p20']:10.1f} {row['p50']:10.1f} {row['p80']:10.1f} us"
        facts = f"cold {row['cold_start']:.1f} s" if "cold_start" in row else f"warm {row['warm_start']:.1f} s"
        facts += f", graph of {row['steps_per_graph']}" if "steps_per_graph" in row else ""
        lines.append(f"{place:14} {row['name']:22} {times}  {row['peer']} is {1 / row['ratio']:6.2f} times as fast, {facts}")
    operators: dict[str, list[dict[str, Any]]] = {}
    for row in (row for row in rows if row["benchmark"].startswith("ops.") and row["name"] == "fastgan"):
        operators.setdefault(row["benchmark"], []).append(row)
    for name, members in operators.items():
        worst = min(members, key=lambda row: row["ratio"])
        where = f"{worst['label']} {worst['shape']} {worst['dtype']}"
        lines.append(f"{name}: {len(members)} cases, the worst {worst['ratio']} times as fast as {worst['peer']}: {where}")
    return lines


def environment() -> dict[str, Any]:
    """What everything ran on and with."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm,memory.total", "--format=csv,noheader"]
    versions = {name: _version(name) for name in LIBRARIES}
    facts = dict(
        machine=machine(), commit=commit(), python=platform.python_version(), versions=versions, cuda=torch.version.cuda
    )
    return facts | dict(cores=os.cpu_count(), gpu=_said(query), nvcc=_said(["nvcc", "--version"])[-1:])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _said(command: list[str]) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return []


def run_parts(names: list[str], shell: Shell, total: float) -> dict[str, Outcome]:
    """Each part in its turn; what one raises is its failure."""
    outcomes: dict[str, Outcome] = {}
    for name in names:
        part, share = PARTS[name]
        seconds = min(share * total if len(names) > 1 else total, shell.left() - MARGIN)
        start, new = time.monotonic(), NewRows()
        if seconds < LEAST:
            outcomes[name] = Outcome("skipped", ["no time was left"])
        else:
            try:
                outcomes[name] = part(shell, seconds)
            except Exception as error:
                outcomes[name] = Outcome("failed", [f"{type(error).__name__}: {error}"])
        line = f"== {name}: {outcomes[name].state}, {time.monotonic() - start:.0f} s"
        with (shell.folder / "summary.txt").open("a") as file:
            file.write("\n".join([line, *outcomes[name].lines, *new.table(), ""]))
        print(line, flush=True)
    return outcomes


def exit_code(outcomes: dict[str, Outcome]) -> int:
    """1 where tests or the sanitizer failed, 2 where another part did."""
    failed = {name for name, outcome in outcomes.items() if outcome.state == "failed"}
    return 1 if failed & {"tests", "sanitizer"} else 2 if failed else 0


def shorten(folder: Path) -> None:
    """Cuts files that are too long to travel, from their middle."""
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_size > LIMIT:
            content = path.read_bytes()
            path.write_bytes(content[: LIMIT // 2] + b"\n...\n" + content[-LIMIT // 2 :])


def archive(folder: Path, path: Path) -> list[str]:
    """Packs a folder into one file that may travel, without checkpoints; names files that are left out for being too large."""
    files = [file for file in folder.rglob("*") if file.is_file() and file != path and "checkpoints" not in file.parts]
    files.sort(key=lambda file: file.stat().st_size)
    left_out: list[str] = []
    while True:
        with tarfile.open(path, "w:gz") as tar:
            for file in sorted(files):
                tar.add(file, file.relative_to(folder))
        if path.stat().st_size <= LIMIT or not files:
            return left_out
        left_out.append(str(files.pop().relative_to(folder)))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "runs" / "gpu"))
    default = [name for name in PARTS if name not in NAMED]
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=default, help="run in this order")
    parser.add_argument("--minutes", type=float, default=8.0, help="everything ends within")
    parser.add_argument("--environment", action="store_true", help="only print what everything would run on and with")
    arguments = parser.parse_args()
    if arguments.environment:
        print("\n".join(f"{name}: {json.dumps(value)}" for name, value in environment().items()))
        return 0
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA device, and there is none")
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for stale in ("summary", "tests", "profile", "commands", "rows"):
        for path in arguments.out.glob(f"{stale}.*"):
            path.unlink()
    facts = environment()
    (arguments.out / "environment.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts), flush=True)
    total = 60.0 * arguments.minutes
    shell, new = Shell(arguments.out, time.monotonic() + total), NewRows()
    outcomes = run_parts(list(dict.fromkeys(arguments.parts)), shell, total)
    (arguments.out / "rows.jsonl").write_text(new.text())
    with (arguments.out / "summary.txt").open("a") as file:
        file.write("\n".join(["== goals, by all rows so far", *goals.lines(new.all()), ""]))
    shorten(arguments.out)
    archive(arguments.out, arguments.out / "all.tgz")
    print((arguments.out / "summary.txt").read_text(), flush=True)
    return exit_code(outcomes)
