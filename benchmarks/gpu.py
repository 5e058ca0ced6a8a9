"""Proves and measures everything on a machine with a GPU: python -m benchmarks.gpu [--parts build tests ...] [--minutes 8].

Parts: build (the extension, in place), tests (all of them), sanitizer (compute-sanitizer on eager steps), profile (the launches
of a captured step), bench (the step against its peers, then single operators). A part that fails does not stop the others, and
what does not fit into the minutes is left out, and said to be. Needs no network and installs nothing.

One folder holds what they found: summary.txt, environment.json, tests.txt, tests.xml, profile.txt, rows.jsonl and, of all
other commands, commands.txt. The exit code is 1 where a test or the sanitizer found an error, 2 where another part failed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import ROOT, commit, machine
from benchmarks.shell import TAIL, Outcome, Shell, of_code, python, tail

LIBRARIES = ("torch", "triton", "jax", "numpy", "pytest", "pytest-xdist", "ninja")
MARGIN = 10.0  # seconds kept for the summary
WORKERS = 4  # of the tests: they share one device
MORE = ("256", "1024", "8192")  # batch sizes after the first one, as time allows
TOOLS = ("memcheck", "racecheck")
LIMIT = 15 << 20  # bytes of a file


def architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def build(shell: Shell, seconds: float) -> Outcome:
    """The C++ and CUDA extension in place, for the device that is here."""
    command = python("setup.py", "build_ext", "--inplace")
    settings = dict(TORCH_CUDA_ARCH_LIST=architecture(), MAX_JOBS=str(os.cpu_count() or 4), FASTGAN_REQUIRE_EXT="1")
    code, text = shell.run("commands.txt", command, seconds, **settings)
    if code == 0:
        code, text = shell.run("commands.txt", python("-c", _ASK), 60.0)
    return of_code(code, text)


_ASK = """
from fastgan.ops import backend
import fastgan.ops.loss
problem = backend.extension_problem() or backend.cuda_problem()
assert problem is None, problem
print("fastgan._C is there, with CUDA")
"""


def tests(shell: Shell, seconds: float) -> Outcome:
    """The whole suite, in a few processes where pytest-xdist is there."""
    command = python("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={shell.folder / 'tests.xml'}")
    settings = dict(FASTGAN_REQUIRE_EXT="1") if any((ROOT / "fastgan").glob("_C*.so")) else {}
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(WORKERS), "--dist", "loadfile"]
        settings["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or WORKERS) // WORKERS))
    code, text = shell.run("tests.txt", command, seconds, **settings)
    failed = re.findall(r"^(?:FAILED|ERROR) .*", text, re.MULTILINE)
    counts = _counts(shell.folder / "tests.xml") or next(iter(tail(text, 1)), "")
    lines = [counts, *(line[:220] for line in failed[:40])]
    if code == 0:
        return Outcome("ok", lines)
    if code is None:
        return Outcome("failed" if failed else "skipped", ["out of time, some tests have not run", *lines])
    return Outcome("failed", lines if failed else [*lines, *tail(text)])


def _counts(path: Path) -> str:
    """tests, failures, errors and skips of a JUnit file, "" without one."""
    try:
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return ""
    names = ("tests", "failures", "errors", "skipped")
    return ", ".join(f"{sum(int(suite.get(name, 0)) for suite in suites)} {name}" for name in names)


def sanitizer(shell: Shell, seconds: float) -> Outcome:
    """compute-sanitizer's checks of memory and of races, on eager steps of tiny networks."""
    script = python("-m", "benchmarks.sanitize")
    settings = dict(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    code, text = shell.run("commands.txt", script, seconds / 2, **settings)  # compiles the kernels, too
    if code != 0:
        return of_code(code, text)
    if not shutil.which("compute-sanitizer"):
        return Outcome("skipped", ["there is no compute-sanitizer on the PATH; the steps alone ran"])
    outcomes = []
    for tool in TOOLS:
        share = max(1.0, min(seconds / 2, shell.left() - MARGIN))
        options = ["--tool", tool, "--error-exitcode", "86", "--target-processes", "application-only", "--print-limit", "20"]
        code, text = shell.run("commands.txt", ["compute-sanitizer", *options, *script], share, **settings)
        outcomes.append(judge_sanitizer(tool, code, text))
    state = next((s for s in ("failed", "ok") if any(outcome.state == s for outcome in outcomes)), "skipped")
    return Outcome(state, [line for outcome in outcomes for line in outcome.lines])


def judge_sanitizer(tool: str, code: int | None, text: str) -> Outcome:
    """What a tool found; one that does not work here is no error of ours."""
    refusals = ("Device not supported", "not supported on this", "No attachable process", "Unable to find injection")
    if any(refusal in text for refusal in refusals):
        return Outcome("skipped", [f"{tool} does not work on this machine"])
    if code is None:
        return Outcome("skipped", [f"{tool} ran out of time"])
    found = re.findall(r"^=+ ((?:ERROR|RACECHECK) SUMMARY: .*)$", text, re.MULTILINE)
    lines = [f"{tool}: {found[-1] if found else f'exit code {code}, no summary'}"]
    if code == 0 and found:
        return Outcome("ok", lines)
    errors = [line for line in text.splitlines() if line.startswith("=====")]
    return Outcome("failed", lines + (errors or tail(text))[:TAIL])


def profile(shell: Shell, seconds: float) -> Outcome:
    """Every launch of a captured standard step, and wgan-gp's by kernel."""
    code, text = shell.run("profile.txt", python("-m", "benchmarks.phases"), seconds)
    return Outcome("ok", text.splitlines()[1:]) if code == 0 else of_code(code, text)


def bench(shell: Shell, seconds: float) -> Outcome:
    """The step against its peers, then losses and the other operators for as long as there is time."""
    path = ROOT / "benchmarks" / "results" / f"{machine()}.jsonl"
    before = path.stat().st_size if path.exists() else 0
    start = time.monotonic()
    minutes = f"{0.85 * seconds / 60.0:.2f}"
    command = python("-m", "benchmarks.step", "--quick", "--keep-going", "--case", "standard", "wgan-gp", "--batch", "64")
    command += ["--more", *MORE, "--minutes", minutes]
    code, text = shell.run("commands.txt", command, seconds)
    outcome = of_code(code, text)
    for stem in ("loss", "penalty", "update", "sample"):
        left = min(shell.left(), start + seconds - time.monotonic())
        if (ROOT / f"benchmarks/ops/{stem}.py").exists() and left > 30.0:
            code, text = shell.run("commands.txt", python("-m", f"benchmarks.ops.{stem}", "--quick"), left)
            if code is not None and code != 0:
                outcome = Outcome("failed", [*outcome.lines, f"benchmarks.ops.{stem}:", *tail(text)])
    rows = _rows(path, before, shell.folder / "rows.jsonl")
    return Outcome(outcome.state, [*(outcome.lines if outcome.state == "failed" else []), *table(rows)])


def _rows(path: Path, begin: int, copy: Path) -> list[dict[str, Any]]:
    """The rows that were added to a file since it had so many bytes; copied as well."""
    if not path.exists():
        return []
    with path.open() as file:
        file.seek(begin)
        text = file.read()
    copy.write_text(text)
    return [json.loads(line) for line in text.splitlines()]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each row of a step, and one for each operator."""
    lines = []
    for row in (row for row in rows if row["benchmark"] == "step"):
        place, times = f"{row['label']} {row['shape'][0]}", f"{row['p20']:10.1f} {row['p50']:10.1f} {row['p80']:10.1f} us"
        facts = f"cold {row['cold_start']:.1f} s" + (f", graph of {row['steps_per_graph']}" if "steps_per_graph" in row else "")
        lines.append(f"{place:14} {row['name']:22} {times}  {row['peer']} is {1 / row['ratio']:6.2f} times as fast, {facts}")
    operators: dict[str, list[dict[str, Any]]] = {}
    for row in (row for row in rows if row["benchmark"] != "step" and row["name"] == "fastgan"):
        operators.setdefault(row["benchmark"], []).append(row)
    for name, members in operators.items():
        worst = min(members, key=lambda row: row["ratio"])
        where = f"{worst['label']} {worst['shape']} {worst['dtype']}"
        lines.append(f"{name}: {len(members)} cases, the worst {worst['ratio']} times as fast as {worst['peer']}: {where}")
    return lines


# of all the time, at most: what one part leaves goes to those after it
PARTS: dict[str, tuple[Callable[[Shell, float], Outcome], float]] = {
    "build": (build, 0.4),
    "tests": (tests, 0.5),
    "sanitizer": (sanitizer, 0.25),
    "profile": (profile, 0.25),
    "bench": (bench, 1.0),
}
LEAST = 20.0  # seconds that a part must have to begin


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
        start = time.monotonic()
        if seconds < LEAST:
            outcomes[name] = Outcome("skipped", ["no time was left"])
        else:
            try:
                outcomes[name] = part(shell, seconds)
            except Exception as error:
                outcomes[name] = Outcome("failed", [f"{type(error).__name__}: {error}"])
        line = f"== {name}: {outcomes[name].state}, {time.monotonic() - start:.0f} s"
        with (shell.folder / "summary.txt").open("a") as file:
            file.write("\n".join([line, *outcomes[name].lines, ""]))
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "runs" / "gpu"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="always in the order of this list")
    parser.add_argument("--minutes", type=float, default=8.0, help="everything ends within")
    arguments = parser.parse_args()
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
    shell = Shell(arguments.out, time.monotonic() + total)
    outcomes = run_parts([name for name in PARTS if name in arguments.parts], shell, total)
    shorten(arguments.out)
    print((arguments.out / "summary.txt").read_text(), flush=True)
    return exit_code(outcomes)


if __name__ == "__main__":
    sys.exit(main())
