"""Commands of a long run: each has a deadline, is stopped with all it has started, and leaves what it printed in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.rows import ROOT

STOPPED = 0.0  # a deadline that is over
TAIL = 25  # lines of a failed command that are shown


class Outcome(NamedTuple):
    """What became of a part: ok, failed, or skipped, and lines about it."""

    state: str
    lines: list[str]


class Shell:
    """Runs commands in the checkout until a deadline, each with what it prints in a file."""

    def __init__(self, folder: Path, deadline: float) -> None:
        self.folder, self.deadline = folder, deadline
        self._running: set[subprocess.Popen] = set()

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def stop(self) -> None:
        """Kills what is running, from another thread than those that run it; what they begin now has a second."""
        self.deadline = STOPPED
        for process in list(self._running):
            _kill(process)

    def run(self, log: str, command: list[str], seconds: float, **environment: str) -> tuple[int | None, str]:
        """The exit code, None where time ran out, and what was printed.

        A command that is short of time is interrupted, and killed where it still runs after `seconds`.
        """
        path, limit = self.folder / log, max(1.0, min(seconds, self.left()))
        begin = path.stat().st_size if path.exists() else 0
        settings = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)} | environment
        with path.open("a") as file:
            file.write(f"$ {' '.join(command)}\n")
            file.flush()
            process = subprocess.Popen(
                command, cwd=ROOT, env=settings, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._running.add(process)
            if self.deadline == STOPPED:  # since this was asked for
                _kill(process)
            try:
                code = _wait(process, limit)
            finally:
                self._running.discard(process)
        with path.open(errors="replace") as file:
            file.seek(begin)
            return code, file.read()


def _wait(process: subprocess.Popen, limit: float) -> int | None:
    last_words = min(10.0, limit / 5)
    try:
        return process.wait(limit - last_words)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest then says what it has found so far
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(last_words)
    _kill(process)
    process.wait()
    return None


def _kill(process: subprocess.Popen) -> None:
    """With what it has started: it leads a group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def tail(text: str, lines: int = TAIL) -> list[str]:
    return text.rstrip().splitlines()[-lines:]


def of_code(code: int | None, text: str) -> Outcome:
    """A command's outcome by its exit code."""
    if code == 0:
        return Outcome("ok", tail(text, 1))
    return Outcome("failed", [f"exit code {code}" if code is not None else "out of time", *tail(text)])
