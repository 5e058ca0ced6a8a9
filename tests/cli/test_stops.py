"""What stops the command: signals as it starts and as it runs, and a reader that goes away; what it says, and its code."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tyro", reason="the command needs tyro")

from fastgan import cli, data
from fastgan.training import report
from fastgan.training.report import RunFolder
from fastgan.training.trainer import Trainer
from tests.training.test_stops import CODES, at, newest, rows

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(), reason="Python handles signals in the main thread alone"
    ),
]
RUN = (
    "--data",
    "ring",
    "--batch-size",
    "4",
    "--steps",
    "3",
    "--checkpoint-every",
    "0",
    "--log-every",
    "1",
    "--sample-every",
    "0",
)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """None of them is ignored here, whatever runs the tests."""
    before = {
        number: signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        for number in CODES
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def train(out: Path, *flags: str) -> int:
    return cli.main(["train", *RUN, "--out", str(out), *flags])


MOMENTS: dict[str, tuple[Any, str, int, int]] = {
    "its data are read": (data, "load", 1, -1),
    "the folder is claimed": (RunFolder, "create", 1, -1),
    "a step": (Trainer, "step", 2, 2),
    "the loss curves": (report, "plot_losses", 1, 3),
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [*((m, signal.SIGINT) for m in MOMENTS), ("a step", signal.SIGTERM), ("its data are read", signal.SIGHUP)],
)
def test_a_signal_ends_with_its_code_and_a_line(moment: str, number: int, tmp_path: Path, monkeypatch, capsys) -> None:
    place, name, call, step = MOMENTS[moment]
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at(patch, place, name, call, lambda: os.kill(os.getpid(), number))
        assert train(out) == CODES[number]
    said = capsys.readouterr().err.splitlines()
    advice = "; continue with --resume" if step >= 0 else ""
    assert said[-1] == f"fastgan: stopped by {signal.Signals(number).name}{advice}" and "Traceback" not in "".join(said)
    assert newest(out) == step
    assert train(out, "--resume") == 0 and rows(out) == [1, 2, 3]


def test_a_signal_while_samples_are_drawn_says_nothing_of_a_run(tmp_path: Path, monkeypatch, capsys) -> None:
    assert train(tmp_path / "run") == 0
    at(monkeypatch, report, "write_grid", 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert cli.main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "a.png")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "fastgan: stopped by SIGINT"


# output that cannot be written


class Output(io.StringIO):
    """A stream whose writes fail from some number on, and that closes as a pipe does."""

    def __init__(self, error: int, number: int) -> None:
        super().__init__()
        self.error, self.left = error, number
        self.null = open(os.devnull, "w")  # noqa: SIM115

    def write(self, text: str) -> int:
        self.left -= 1
        self._check()
        return len(text)

    def flush(self) -> None:
        self._check()

    def _check(self) -> None:
        if self.left < 0:
            raise OSError(self.error, os.strerror(self.error))

    def fileno(self) -> int:
        return self.null.fileno()


@pytest.mark.parametrize("number", [0, 1])
def test_a_reader_that_goes_away_costs_nothing(number: int, tmp_path: Path, monkeypatch, capsys) -> None:
    """fastgan train | head: what was trained until then is saved, and the code is that of a broken pipe."""
    out = tmp_path / "run"
    monkeypatch.setattr("sys.stdout", Output(errno.EPIPE, number))
    assert train(out) == 141
    assert newest(out) == rows(out)[-1] <= number + 2
    assert "stopped by SIGPIPE; continue with --resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert train(out, "--resume") == 0 and rows(out) == [1, 2, 3]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_run_goes_on_where_its_lines_cannot_be_shown(error: int, tmp_path: Path, monkeypatch) -> None:
    """Its terminal is gone, and it was told to stay; or its lines go to a full disk."""
    monkeypatch.setattr("sys.stdout", Output(error, 1))
    code = train(tmp_path / "run")
    monkeypatch.undo()
    assert code in (0, 2) and newest(tmp_path / "run") == 3
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3


@pytest.mark.parametrize("arguments", [["--version"], ["doctor"], ["train", "--help"]])
def test_every_command_knows_a_broken_pipe(arguments: list[str], monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout", Output(errno.EPIPE, 0))
    try:
        code: Any = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 141
