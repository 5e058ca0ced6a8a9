"""The parts of `benchmarks.gpu`: each runs commands, within seconds, and says what became of them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness import RESULTS, ROOT
from benchmarks.shell import TAIL, Outcome, Shell, of_code, python, tail

MARGIN = 10.0  # seconds kept for the summary
WORKERS = 8  # of the tests: they share one device
MORE = ("256", "1024", "8192")  # batch sizes after the first one, as time allows
TOOLS = ("memcheck", "racecheck")
MICRO = ("ceilings", "nodes", "replays", "optimizers", "libraries", "barriers")  # of benchmarks.gpu_micro


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
    """The whole suite but what compiles for absent devices, in a few processes where pytest-xdist is there."""
    command = python("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={shell.folder / 'tests.xml'}")
    command += ["--ignore", "tests/test_cubins.py", "-k", "not micro_benchmarks_compile"]
    # what is measured here has not been written into README.md yet
    command += ["--deselect", "tests/test_docs.py::test_nobody_typed_the_readmes_tables"]
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


def whole(code: int | None, text: str) -> Outcome:
    """A command's outcome, with all that it printed where it went well."""
    return Outcome("ok", text.splitlines()[1:]) if code == 0 else of_code(code, text)


def profile(shell: Shell, seconds: float) -> Outcome:
    """Every launch of a captured standard step, and wgan-gp's by kernel."""
    return whole(*shell.run("profile.txt", python("-m", "benchmarks.phases"), seconds))


def micro(shell: Shell, seconds: float) -> Outcome:
    """What the parts of the device can do, and what that says about a persistent kernel."""
    command = python("-m", "benchmarks.gpu_micro", "--parts", *MICRO, "--minutes", f"{seconds / 60.0:.2f}")
    return whole(*shell.run("commands.txt", command, seconds))


def tune(shell: Shell, seconds: float) -> Outcome:
    """The fastest tiles of each product and update, written into the table of this checkout and copied."""
    code, text = shell.run("commands.txt", python("-m", "benchmarks.tune", "--minutes", f"{0.9 * seconds / 60.0:.2f}"), seconds)
    shutil.copy(ROOT / "kernels" / "tiles.json", shell.folder / "tiles.json")
    return whole(code, text)


def article(shell: Shell, seconds: float) -> Outcome:
    """The article's 100 epochs on real digits, its samples and curves."""
    if not os.environ.get("FASTGAN_TEST_MNIST"):
        return Outcome("skipped", ["FASTGAN_TEST_MNIST names no folder with MNIST's files"])
    command = python("-m", "benchmarks.article", "--data-root", os.environ["FASTGAN_TEST_MNIST"], "--out")
    code, text = shell.run("commands.txt", [*command, str(shell.folder / "article")], seconds)
    shutil.rmtree(shell.folder / "article" / "checkpoints", ignore_errors=True)
    for file in (*(ROOT / "docs" / "images").glob("article*.png"), *RESULTS.glob("article-*.json")):
        shutil.copy(file, shell.folder)
    return of_code(code, text)


def bench(shell: Shell, seconds: float) -> Outcome:
    """The step against its peers, then losses and the other operators for as long as there is time."""
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
    return Outcome(outcome.state, outcome.lines if outcome.state == "failed" else [])


# of all the time, at most: what one part leaves goes to those after it
PARTS: dict[str, tuple[Callable[[Shell, float], Outcome], float]] = {
    "build": (build, 0.4),
    "tests": (tests, 0.5),
    "sanitizer": (sanitizer, 0.25),
    "profile": (profile, 0.25),
    "micro": (micro, 0.2),
    "tune": (tune, 0.7),
    "article": (article, 0.5),
    "bench": (bench, 1.0),
}
NAMED = ("tune", "article")  # run only when they are asked for
