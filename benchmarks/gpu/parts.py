"""The parts of `benchmarks.gpu`: each runs commands, within seconds, and says what became of them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.gpu import sanitize
from benchmarks.gpu.runner import TAIL, Outcome, Shell, of_code, python, tail
from benchmarks.harness.rows import RESULTS, ROOT

MARGIN = 10.0  # seconds kept for the summary
WORKERS = 12  # of the tests: they share one device
JOBS = 8  # compilers of the extension at a time
COMPILING = 90.0  # seconds in which the kernels of the games are compiled, one process for each game and precision
MORE = ("256", "1024", "8192")  # batch sizes after the first one, as time allows
CPU_ONLY = (  # tests that compute the same whatever device there is
    "tests/benchmarks/test_gpu_parts.py",
    "tests/benchmarks/test_gpu_tools.py",
    "tests/benchmarks/test_tables.py",
    "tests/chain/test_penalty.py",
    "tests/chain/test_products.py",
    "tests/chain/test_recognition.py",
    "tests/chain/test_updater.py",
    "tests/contexts/test_contexts.py",
    "tests/contexts/test_critics.py",
    "tests/contexts/test_precision.py",
    "tests/data/test_convert.py",
    "tests/data/test_data.py",
    "tests/data/test_idx.py",
    "tests/engines/test_flat_network.py",
    "tests/golden/test_golden.py",
    "tests/losses/test_arguments.py",
    "tests/losses/test_bce.py",
    "tests/losses/test_loss_forms.py",
    "tests/losses/test_losses.py",
    "tests/ops/test_linear.py",
    "tests/ops/test_loss_rows.py",
    "tests/ops/test_sample.py",
    "tests/ops/test_update.py",
    "tests/penalties/test_penalties.py",
    "tests/project/test_architecture.py",
    "tests/project/test_contributing.py",
    "tests/project/test_docstrings.py",
    "tests/project/test_packaging.py",
    "tests/project/test_vocabulary.py",
    "tests/test_layers.py",
    "tests/test_mlp.py",
    "tests/test_models.py",
    "tests/test_optim.py",
    "tests/testing",
)
HOST_KERNELS = (  # the same of kernels' own tests, beside which those that run kernels lie
    "tests/kernels/test_cubins.py",
    "tests/kernels/test_interpreter.py",
    "tests/kernels/test_launch.py",
    "tests/kernels/test_tiles.py",
)
TOOLS = ("memcheck", "racecheck")
MICRO = ("ceilings", "nodes", "replays", "optimizers", "libraries", "barriers")  # of benchmarks.micro


def architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def build_settings(jobs: int) -> dict[str, str]:
    """What setup.py is told: compilers at a time, that a failure is an error, and the device that is here."""
    settings = dict(MAX_JOBS=str(jobs), FASTGAN_REQUIRE_EXT="1")
    return settings | (dict(TORCH_CUDA_ARCH_LIST=architecture()) if torch.cuda.is_available() else {})


BUILD = python("setup.py", "build_ext", "--inplace")
ASK = python(
    "-c",
    "import fastgan.ops.loss; from fastgan.ops import backend; problem = backend.cuda_problem(); "
    "assert problem is None, problem; print('fastgan._C is there, with CUDA')",
)


def build(shell: Shell, seconds: float) -> Outcome:
    """The C++ and CUDA extension in place, for the device that is here."""
    code, text = shell.run("commands.txt", BUILD, seconds, **build_settings(os.cpu_count() or JOBS))
    if code == 0:
        code, text = shell.run("commands.txt", ASK, 60.0)
    return of_code(code, text)


def tests_command(results: Path, *paths: str, workers: int = WORKERS) -> list[str]:
    """Tests that a device changes, in processes that take them from each other where pytest-xdist is there.

    Left out are those that compute on the CPU by their file or by their name, and those that compile for absent devices.
    """
    command = python("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={results}", *paths)
    command += [f"--ignore={path}" for path in CPU_ONLY if not paths]
    command += ["-k", "not cpu and not micro_benchmarks_compile"]
    # what is measured here has not been written into README.md yet
    left_out = (*HOST_KERNELS, "tests/project/test_docs.py::test_nobody_typed_the_readmes_tables")
    command += [f"--deselect={test}" for test in left_out]
    return [*command, "-n", str(workers), "--dist", "worksteal"] if importlib.util.find_spec("xdist") else command


def threads(workers: int = WORKERS) -> dict[str, str]:
    """Threads for each of some processes."""
    return dict(OMP_NUM_THREADS=str(max(1, (os.cpu_count() or workers) // workers)))


def extension() -> dict[str, str]:
    """That an extension that was built must load, for tests that need it."""
    return dict(FASTGAN_REQUIRE_EXT="1") if any((ROOT / "fastgan").glob("_C*.so")) else {}


def tests(shell: Shell, seconds: float) -> Outcome:
    """The tests that a device changes."""
    results = shell.folder / "tests.xml"
    return of_tests(*shell.run("tests.txt", tests_command(results), seconds, **threads(), **extension()), results)


def of_tests(code: int | None, text: str, results: Path) -> Outcome:
    """What tests found. results: the JUnit file that they write."""
    failed = re.findall(r"^(?:FAILED|ERROR) .*", text, re.MULTILINE)
    counts = _counts(results) or next(iter(tail(text, 1)), "")
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


GAMES = python("-m", "benchmarks.gpu.sanitize")
NO_CACHING = dict(PYTORCH_NO_CUDA_MEMORY_CACHING="1")  # of memory: an access past a tensor's end shows


def game_command(game: str, precision: str) -> list[str]:
    return [*GAMES, "--game", game, "--precision", precision]


def of_game(code: int | None, text: str) -> Outcome:
    """Whether a game's metrics are right; where time ran out while its kernels were compiled nothing is known of them."""
    if code is None:
        return Outcome("skipped", ["out of time: its kernels were still being compiled"])
    wrong = [line for line in text.splitlines() if line.startswith("WRONG")]
    return Outcome("failed", wrong) if wrong else of_code(code, text)


def together(outcomes: list[Outcome]) -> Outcome:
    """Of several: failed where one has, ok where one is and none has failed."""
    state = next((s for s in ("failed", "ok") if any(outcome.state == s for outcome in outcomes)), "skipped")
    return Outcome(state, [line for outcome in outcomes for line in outcome.lines])


def games(shell: Shell, seconds: float) -> Outcome:
    """The games side by side, a process for each game and precision; what they compile is there for the sanitizer."""

    def play(game: str, precision: str) -> Outcome:
        return of_game(*shell.run(f"game-{game}-{precision}.txt", game_command(game, precision), seconds, **NO_CACHING))

    with ThreadPoolExecutor(len(PLAYED)) as pool:
        return together(list(pool.map(lambda pair: play(*pair), PLAYED)))


PLAYED = [(game, precision) for game in sanitize.GAMES for precision in sanitize.RELATIVE]


def sanitizer_command(tool: str) -> list[str]:
    options = ["--tool", tool, "--error-exitcode", "86", "--target-processes", "application-only", "--print-limit", "20"]
    return ["compute-sanitizer", *options, *GAMES]


def sanitizer(shell: Shell, seconds: float) -> Outcome:
    """The games' metrics, then compute-sanitizer's checks of memory and of races on them."""
    start = time.monotonic()
    alone = games(shell, min(COMPILING, seconds))
    if alone.state != "ok":
        return alone
    if not shutil.which("compute-sanitizer"):
        return Outcome("skipped", ["there is no compute-sanitizer on the PATH; the steps alone ran", *alone.lines])
    outcomes = []
    for count, tool in enumerate(TOOLS):
        left = min(shell.left() - MARGIN, start + seconds - time.monotonic())
        code, text = shell.run("commands.txt", sanitizer_command(tool), max(1.0, left / (len(TOOLS) - count)), **NO_CACHING)
        outcomes.append(of_sanitizer(tool, code, text))
    return together(outcomes)


def of_sanitizer(tool: str, code: int | None, text: str) -> Outcome:
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
    return whole(*shell.run("profile.txt", python("-m", "benchmarks.gpu.phases"), seconds))


def micro(shell: Shell, seconds: float) -> Outcome:
    """What the parts of the device can do, and what that says about a persistent kernel."""
    command = python("-m", "benchmarks.micro", "--parts", *MICRO, "--minutes", f"{seconds / 60.0:.2f}")
    return whole(*shell.run("commands.txt", command, seconds))


def tune(shell: Shell, seconds: float) -> Outcome:
    """The fastest tiles of each product and update, written into the table of this checkout and copied."""
    code, text = shell.run("commands.txt", python("-m", "benchmarks.tune", "--minutes", f"{0.9 * seconds / 60.0:.2f}"), seconds)
    collect(shell.folder)
    return whole(code, text)


def article(shell: Shell, seconds: float) -> Outcome:
    """The article's 100 epochs on real digits, its samples and curves."""
    if not os.environ.get("FASTGAN_TEST_MNIST"):
        return Outcome("skipped", ["FASTGAN_TEST_MNIST names no folder with MNIST's files"])
    command = python("-m", "benchmarks.article", "--data-root", os.environ["FASTGAN_TEST_MNIST"], "--out")
    code, text = shell.run("commands.txt", [*command, str(shell.folder / "article")], seconds)
    collect(shell.folder)
    return of_code(code, text)


def collect(folder: Path) -> None:
    """Copies what measurements leave in the checkout: tiles, the article's last samples and curves."""
    images = (ROOT / "docs" / "images").glob("article*.png")
    for file in (ROOT / "kernels" / "tiles.json", *images, *RESULTS.glob("article-*.json")):
        shutil.copy(file, folder)


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
    "sanitizer": (sanitizer, 0.4),
    "profile": (profile, 0.25),
    "micro": (micro, 0.2),
    "tune": (tune, 0.7),
    "article": (article, 0.5),
    "bench": (bench, 1.0),
}
NAMED = ("tune", "article")  # run only when they are asked for
