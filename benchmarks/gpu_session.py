"""Fifteen minutes on a GPU, in two calls: python -m benchmarks.gpu_session 1, then 2. docs/gpu-in-15-minutes.md is the page.

The first call (330 s) says whether the kernels are right and how fast a step is, then tests everything; the second (430 s)
measures the device's parts, tunes tiles, compares with peers and trains the article's networks. `--dry-run` prints the
commands, each with its timeout; the longest path through them ends within the limit. Both share what they compile, in
runs/gpu-session.

all.tgz has all that was found, and summary.txt what is printed last. They are written after every stage, so that they are there
whatever happens. The exit code is 1 where a metric, a test or a sanitizer was wrong, 2 where another command failed or there is
no CUDA device: then only what needs none runs, and the rest is said to be left out. A command that fails stops no other.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import goals
from benchmarks.gpu.calls import FOLDER, LOADING, NO_DEVICE, PACKING, Call, Command, Lane, calls, digits
from benchmarks.gpu.parts import PLAYED, TOOLS, collect, extension
from benchmarks.gpu.run import NewRows, archive, shorten
from benchmarks.gpu.runner import Outcome, Shell
from benchmarks.harness.rows import ROOT

GAMES = [f"{game} {precision}" for game, precision in PLAYED]
CORRECTNESS = {*GAMES, "kernels", "kernels again", "tests", *TOOLS}
WIDTH, FAILED = 150, 20  # characters of a line of the summary, lines of a command that failed
CACHES = dict(TRITON_CACHE_DIR="triton", TORCHINDUCTOR_CACHE_DIR="inductor", JAX_COMPILATION_CACHE_DIR="jax")


def settings() -> dict[str, str]:
    """What every command finds in its environment: caches that both calls share, digits, an extension that was built by now."""
    caches = {name: str(FOLDER / "caches" / folder) for name, folder in CACHES.items()}
    return caches | extension() | (dict(FASTGAN_TEST_MNIST=folder) if (folder := digits()) else {})


class Session:
    """Runs a call. began: when its first second was, on the monotonic clock."""

    def __init__(self, call: Call, folder: Path, out: Path, began: float) -> None:
        self.call, self.folder, self.out, self.began = call, folder, out, began
        self.shell = Shell(folder, began + call.limit - PACKING)
        self.outcomes: dict[str, Outcome] = {}
        self.took: dict[str, float] = {}
        self.finished: set[str] = set()  # commands that came to their end
        self.said: list[str] = []  # of wrong metrics
        self.stopped = False
        self.rows = NewRows()

    def now(self) -> float:
        return time.monotonic() - self.began

    def run(self) -> None:
        """Every stage in its turn; what was found so far is packed after each."""
        ends = self.call.ends()
        background: list[Future[None]] = []
        with ThreadPoolExecutor(64) as pool:
            try:
                for stage in self.call.stages:
                    if stage.waits:
                        wait(background)
                    if stage.background:
                        background.append(pool.submit(self.lane, stage.background, ends["background"]))
                    jobs = [pool.submit(self.lane, lane, ends[stage.name]) for lane in stage.lanes]
                    for job in jobs:
                        job.result()
                    self.say_what_is_wrong()
                    self.pack()
                wait(background)
            finally:
                self.stopped = True
                self.shell.stop()  # nothing is left where all went well

    def lane(self, lane: Lane, end: float) -> None:
        for command in lane:
            start = time.monotonic()
            try:
                self.outcomes[command.name] = self.outcome(command, end)
            except Exception as error:
                self.outcomes[command.name] = Outcome("failed", [f"{type(error).__name__}: {error}"])
            self.took[command.name] = time.monotonic() - start
            if self.outcomes[command.name].state != "skipped":  # why others did not run is said in the end
                sys.stdout.write(f"{self.now():4.0f} s  {self.heading(command.name)}\n")
                sys.stdout.flush()

    def outcome(self, command: Command, end: float) -> Outcome:
        """Of one command, which ends by `end` seconds of the call at the latest where it may take what others left."""
        if self.stopped:
            return Outcome("skipped", ["the session was stopped"])
        if command.missing:
            return Outcome("skipped", [command.missing])
        if command.unless_finished in self.finished:
            return Outcome("skipped", [f"needless: {command.unless_finished} came to its end"])
        seconds = max(command.seconds, end - self.now()) if command.stretch else command.seconds
        line = command.words(min(seconds, self.shell.left()))
        code, text = self.shell.run(f"{slug(command.name)}.txt", line, seconds, **settings() | command.settings)
        if code is not None:
            self.finished.add(command.name)
        return command.outcome(code, text)

    def heading(self, name: str) -> str:
        return f"{name}: {self.outcomes[name].state}, {self.took[name]:.0f} s"

    def wrong_metrics(self) -> list[str]:
        return [line for name in GAMES if name in self.outcomes for line in self.outcomes[name].lines if "WRONG" in line]

    def say_what_is_wrong(self) -> None:
        """Once, as soon as it is known."""
        lines = [line for line in self.wrong_metrics() if line not in self.said]
        self.said += lines
        if lines:
            bar = 60 * "!"
            print("\n".join([bar, "METRICS ARE WRONG: believe no time before this is mended", *lines, bar]), flush=True)

    def summary(self) -> Iterator[str]:
        """What matters most of all that was found."""
        yield from (f"!! {line}" for line in self.wrong_metrics())
        skipped: dict[str, list[str]] = {}
        for command in self.call.commands():
            if (outcome := self.outcomes.get(command.name)) is None:
                skipped.setdefault("the session ended before", []).append(command.name)
            elif outcome.state == "skipped" and len(outcome.lines) == 1:
                skipped.setdefault(outcome.lines[0], []).append(command.name)
            else:
                yield f"== {self.heading(command.name)}"
                most = FAILED if outcome.state == "failed" else command.lines
                yield from (line[:WIDTH] for line in shown(outcome.lines, most) if line not in self.said)
        for reason, names in skipped.items():
            yield f"== left out: {reason}: {', '.join(names)}"
        if table := self.rows.table():
            yield from ["== rows", *table]
        if torch.cuda.is_available() and (rows := self.rows.all()):
            yield from ["== goals, by all rows so far", *goals.lines(rows)]

    def pack(self) -> list[str]:
        """Writes the summary and the archive; what was left out of it."""
        (self.folder / "rows.jsonl").write_text(self.rows.text())
        outcomes = {name: dict(seconds=round(self.took.get(name, 0.0), 1), **o._asdict()) for name, o in self.outcomes.items()}
        (self.folder / "outcomes.json").write_text(json.dumps(outcomes, indent=1) + "\n")
        (self.folder / "summary.txt").write_text("\n".join(self.summary()) + "\n")
        collect(self.folder)
        shorten(self.folder)
        if self.out != self.folder:
            shutil.copy(self.folder / "summary.txt", self.out)
        return archive(self.folder, self.out / "all.tgz")

    def exit_code(self) -> int:
        failed = {name for name, outcome in self.outcomes.items() if outcome.state == "failed"}
        if failed & CORRECTNESS:
            return 1
        return 2 if failed or self.stopped_early() or self.lacks_device() else 0

    def stopped_early(self) -> bool:
        return any(command.name not in self.outcomes for command in self.call.commands())

    def lacks_device(self) -> bool:
        return any(command.missing == NO_DEVICE for command in self.call.commands())


def shown(lines: list[str], most: int) -> list[str]:
    """The first line, and as many of the last ones as there is space for."""
    return lines if len(lines) <= most else [*lines[:1], *lines[len(lines) - most + 1 :]] if most else []


def slug(name: str) -> str:
    return name.replace(" ", "-")


def dry_run(number: int, call: Call) -> Iterator[str]:
    """The commands, each with its timeout, and the longest path through them."""
    ends = call.ends()
    yield f"call {number}, {call.limit:.0f} s: {LOADING:.0f} s to begin, {PACKING:.0f} s for the archive at the end"
    for stage in call.stages:
        also = ", when all in the background has ended" if stage.waits else ""
        yield f"{stage.name}: {'side by side, ' if len(stage.lanes) > 1 else ''}ends by {ends[stage.name]:.0f} s{also}"
        yield from (f"  in the background {_line(command)}" for command in stage.background)
        yield from (f"  {_line(command)}" for lane in stage.lanes for command in lane)
    yield f"the longest path takes {call.longest():.0f} s"


def _line(command: Command) -> str:
    words = ["python3" if word == sys.executable else word for word in command.words(command.seconds)]
    why = f"  [left out: {command.missing}]" if command.missing else ""
    if command.unless_finished:
        why = why or f"  [only where {command.unless_finished} was out of time]"
    given = "".join(f"{name}={value} " for name, value in command.settings.items())
    return f"{command.seconds:3.0f} s  {given}{shlex.join(words)}{why}".replace(f"{ROOT}/", "")


def stop(*_: Any) -> None:
    raise SystemExit("stopped")


def main(given: list[str] | None = None) -> int:
    began = time.monotonic() - LOADING  # importing torch came before
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_session", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("call", type=int, choices=(1, 2))
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    parser.add_argument("--out", type=Path, help="for all.tgz and summary.txt: $OUT, or runs/gpu-session/call-N unless given")
    arguments = parser.parse_args(given)
    folder = FOLDER / f"call-{arguments.call}"
    call = calls(folder)[arguments.call]
    if arguments.dry_run:
        print("\n".join(dry_run(arguments.call, call)))
        return 0
    out = arguments.out or Path(os.environ.get("OUT") or folder)
    shutil.rmtree(folder, ignore_errors=True)
    for path in (folder, out):
        path.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available():
        print(f"{NO_DEVICE}: only what needs none runs")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    session = Session(call, folder.resolve(), out.resolve(), began)
    try:
        session.run()
    except SystemExit as reason:
        print(f"the session was {reason}")
    left_out = session.pack()
    print((folder / "summary.txt").read_text(), end="")
    print(f"all of it is in {out / 'all.tgz'}" + (f", without {', '.join(left_out)}" if left_out else ""), flush=True)
    return session.exit_code()


if __name__ == "__main__":
    sys.exit(main())
