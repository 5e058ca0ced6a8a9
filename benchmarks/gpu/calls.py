"""What the two calls of `benchmarks.gpu_session` run, as data: commands, each with its timeout, in lanes and stages.

Stages run one after the other, the lanes of a stage side by side, the commands of a lane one after the other. What a stage
starts in the background may outlast it. The times are for sixteen cores: a Triton kernel takes 0.75 to 1 s to compile, torch
6 s to import, the extension 120 to 140 s to build, most of it a single file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu import parts
from benchmarks.gpu.parts import MICRO, NO_CACHING, PLAYED, TOOLS, game_command, of_game, of_tests, tests_command, whole
from benchmarks.gpu.runner import Outcome, of_code, python
from benchmarks.harness.rows import ROOT
from benchmarks.step.comparison import YARDSTICK

FOLDER = ROOT / "runs" / "gpu-session"  # what lies here stays between the calls
LOADING, PACKING = 8.0, 12.0  # seconds before the first command, and for the summary and the archive
BUILDERS, TESTERS, WORKERS = 4, 8, 12  # processes of the build, of the kernels' tests beside it, of all other tests
PEERS = {
    "standard": ("graph bf16", "eager bf16", "jax bf16", "compile graph bf16"),
    "wgan-gp": ("graph bf16", "eager bf16"),
}
MINUTES, SHARE = "{minutes}", 0.9  # of a command's time is what it is told to use itself
NO_DEVICE = "there is no CUDA device"
NO_DIGITS = "FASTGAN_TEST_MNIST names no folder with MNIST's files"


class Command(NamedTuple):
    """A command line, and the seconds after which it is killed.

    outcome: of its exit code, None where time ran out, and of what it printed. missing: why it cannot run here.
    unless_finished: it is needless where that command came to its end in time. stretch: it may take what time earlier stages
    left, too; MINUTES in its line becomes nine tenths of what it has. lines: how many of its outcome are in the summary.
    """

    name: str
    line: list[str]
    seconds: float
    outcome: Callable[[int | None, str], Outcome] = of_code
    settings: dict[str, str] = {}  # noqa: RUF012  (read, never written)
    missing: str = ""
    unless_finished: str = ""
    stretch: bool = False
    lines: int = 6

    def words(self, seconds: float) -> list[str]:
        """Its line where it has so many seconds."""
        return [f"{SHARE * seconds / 60.0:.2f}" if word == MINUTES else word for word in self.line]


Lane = list[Command]


class Stage(NamedTuple):
    """Lanes side by side, and what begins with them. waits: only after everything in the background has ended."""

    name: str
    lanes: list[Lane]
    background: Lane = []  # noqa: RUF012  (read, never written)
    waits: bool = False


class Call(NamedTuple):
    """One call: everything ends within `limit` seconds."""

    limit: float
    stages: list[Stage]

    def commands(self) -> Iterator[Command]:
        for stage in self.stages:
            for lane in (stage.background, *stage.lanes):
                yield from lane

    def ends(self) -> dict[str, float]:
        """When each stage ends at the latest, in seconds: where every command takes all of its time."""
        now, background, found = LOADING, 0.0, {}
        for stage in self.stages:
            now = max(now, background) if stage.waits else now
            background = max(background, now + _seconds(stage.background) if stage.background else 0.0)
            now += max((_seconds(lane) for lane in stage.lanes), default=0.0)
            found[stage.name] = now
        found["background"] = background
        return found

    def longest(self) -> float:
        """Seconds of the longest path, with what comes before and after all commands."""
        return max(self.ends().values()) + PACKING


def _seconds(lane: Lane) -> float:
    return sum(command.seconds for command in lane)


def step(name: str, seconds: float, works: list[str], candidates: tuple[str, ...], *options: str, **more: object) -> Command:
    """A comparison of steps that compiles nothing again."""
    line = python("-m", "benchmarks.step", "--case", *works, "--batch", "64", "--candidates", *candidates)
    line += ["--keep-cache", "--keep-going", "--minutes", MINUTES, *options]
    return Command(name, line, seconds, lines=0, **more)  # type: ignore[arg-type]  # its rows are in the summary


def compiling(name: str, seconds: float, work: str, *candidates: str) -> Command:
    """Checks candidates and runs each once, while nothing is timed: later comparisons find what they compile."""

    def outcome(code: int | None, text: str) -> Outcome:
        return of_code(code, text) if code is not None else Outcome("skipped", ["out of time; what it compiled is kept"])

    return step(name, seconds, [work], candidates, "--rounds", "1", "--seconds", "0.1", "--no-rows", outcome=outcome)


def kernels(name: str, folder: Path, seconds: float, **more: Any) -> Command:
    """Triton's kernels against the reference."""
    results = folder / f"{name.replace(' ', '-')}.xml"
    settings = parts.threads(TESTERS)
    line = tests_command(results, "tests/kernels", workers=TESTERS)
    return Command(name, line, seconds, partial(of_tests, results=results), settings, **more)


def game(name: str, precision: str, seconds: float) -> Command:
    """Metrics of a few eager steps against stored ones; without a device in fp32, under Triton's interpreter."""
    settings = NO_CACHING if torch.cuda.is_available() else dict(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    return Command(f"{name} {precision}", game_command(name, precision), seconds, of_game, settings)


def phases(seconds: float) -> Command:
    """Every launch of a step, and what was expected of it."""
    return Command("phases", python("-m", "benchmarks.gpu.phases"), seconds, whole, lines=60)


def first(folder: Path) -> Call:
    """Whether it is right and how fast it is; then all tests, and the sanitizers."""
    build = Command("build", parts.BUILD, 165.0, settings=parts.build_settings(BUILDERS))
    loads = Command("extension", parts.ASK, 20.0)
    beginning = [
        [Command("environment", python("-m", "benchmarks.gpu", "--environment"), 50.0, whole, lines=9)],
        *([game(name, precision, 78.0)] for name, precision in PLAYED),
        *([compiling(f"compile {work}", 78.0, work, YARDSTICK)] for work in PEERS),
        [kernels("kernels", folder, 78.0)],
    ]
    timed = step("step", 74.0, list(PEERS), (YARDSTICK,), "--rounds", "2", "--seconds", "0.5")
    results = folder / "tests.xml"
    line = [*tests_command(results, workers=WORKERS), "--ignore=tests/kernels"]
    settings = parts.threads(WORKERS)
    everything = [
        [Command("tests", line, 118.0, partial(of_tests, results=results), settings, stretch=True, lines=12)],
        [kernels("kernels again", folder, 118.0, unless_finished="kernels", stretch=True)],
        *([sanitizer(tool, 118.0)] for tool in TOOLS),
        [compiling("compile peers", 118.0, "standard", *PEERS["standard"][2:])],
    ]
    return Call(
        330.0,
        [
            Stage("right", beginning, background=[build, loads]),
            Stage("step", [[timed]]),
            Stage("phases", [[phases(40.0)]]),
            Stage("everything", everything, waits=True),
        ],
    )


def sanitizer(tool: str, seconds: float) -> Command:
    def outcome(code: int | None, text: str) -> Outcome:
        return parts.of_sanitizer(tool, code, text)

    missing = "" if shutil.which("compute-sanitizer") else "there is no compute-sanitizer on the PATH"
    return Command(tool, parts.sanitizer_command(tool), seconds, outcome, NO_CACHING, missing, stretch=True)


def second(folder: Path) -> Call:
    """What the device's parts can do, tiles, phases and steps with them, peers, the article's game, samples."""
    tuning = python("-m", "benchmarks.tune", "--batch", "64", "--minutes", MINUTES)
    measuring = python("-m", "benchmarks.micro", "--parts", *MICRO, "--minutes", MINUTES)
    once = ("--rounds", "1", "--seconds", "1.0")
    standard = step("peers standard", 118.0, ["standard"], (YARDSTICK, *PEERS["standard"]), *once, stretch=True)
    wgan_gp = step("peers wgan-gp", 66.0, ["wgan-gp"], (YARDSTICK, *PEERS["wgan-gp"]), *once, stretch=True)
    commands = [
        Command("micro", measuring, 50.0, whole, lines=4),
        Command("tiles", tuning, 80.0, whole),
        phases(32.0),
        standard,
        wgan_gp,
        article("article", folder / "article", 46.0),
        article("samples wgan-gp", folder / "wgan-gp", 18.0, "--loss", "wgan-gp", "--epochs", "40"),
    ]
    return Call(430.0, [Stage(command.name, [[command]]) for command in commands])


def article(name: str, out: Path, seconds: float, *options: str) -> Command:
    """The article's networks on real digits, a hundred epochs unless told; samples and curves in a folder."""
    folder = digits()
    line = python("-m", "benchmarks.article", "--no-cold", "--data-root", folder or "?", "--out", str(out), *options)
    return Command(name, line, seconds, missing="" if folder else NO_DIGITS)


def digits() -> str:
    """The folder of MNIST's files, the same from everywhere; "" where none is named."""
    named = os.environ.get("FASTGAN_TEST_MNIST")
    return str(Path(named).resolve()) if named else ""


INTERPRETED = [f"{name} fp32" for name, precision in PLAYED if precision == "fp32"]  # by Triton where there is no device
WITHOUT_DEVICE = ("environment", *INTERPRETED)  # runs all the same


def calls(folder: Path) -> dict[int, Call]:
    """Both calls, on this machine: what cannot run here says why. folder: where a call leaves what it finds."""
    found = {1: first(folder), 2: second(folder)}
    return found if torch.cuda.is_available() else {number: _without_device(call) for number, call in found.items()}


def _without_device(call: Call) -> Call:
    def left(lane: Lane) -> Lane:
        return [c if c.name in WITHOUT_DEVICE else c._replace(missing=NO_DEVICE) for c in lane]

    return call._replace(
        stages=[stage._replace(lanes=[*map(left, stage.lanes)], background=left(stage.background)) for stage in call.stages]
    )
