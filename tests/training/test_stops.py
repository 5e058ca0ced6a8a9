"""What stops a run: signals at every moment, a disk that is full; and what is saved then."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastgan import CheckpointError, Interrupted, Trainer
from fastgan.mlp import MLP
from fastgan.training import checkpoint, report
from fastgan.training.report import RunFolder, RunFolderError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(), reason="Python handles signals in the main thread alone"
    ),
]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
DATA = torch.linspace(-1, 1, 42).view(21, 2)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """None of them is ignored here, whatever runs the tests."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def trainer() -> Trainer:
    torch.manual_seed(0)
    return Trainer(MLP((3, 4, 2)), MLP((2, 4, 1)), seed=0, device="cpu")


def train(out: Path, **options: Any) -> int:
    """A run's exit code, 0 for one that comes to its end."""
    fixed = dict(steps=8, batch_size=8, checkpoint_every=4, log_every=1, sample_every=4, progress=False)
    try:
        trainer().fit(DATA, out=out, **fixed | options)
    except Interrupted as stop:
        return stop.exit_code
    return 0


def newest(out: Path) -> int:
    found = checkpoint.latest(out / "checkpoints")
    return int(found.name.removeprefix("step_")) if found else -1


def rows(out: Path) -> list[int]:
    file = out / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.open()] if file.exists() else []


def at(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, number: int, act: Callable[[], None]) -> None:
    """Lets something happen as a function is called for the n-th time, from 1."""
    real, calls = getattr(place, name), []

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            act()
        return real(*arguments, **options)

    monkeypatch.setattr(place, name, called)


# a moment: what is called then and for which time; the newest checkpoint that there is afterwards, None for any
MOMENTS: dict[str, tuple[Any, str, int, int | None]] = {
    "the first save": (checkpoint, "save", 1, 0),
    "the first picture": (RunFolder, "write_samples", 1, 0),
    "the first step": (Trainer, "step", 1, 1),
    "a step": (Trainer, "step", 3, 3),
    "a row": (RunFolder, "append_metrics", 2, 2),
    "a picture": (RunFolder, "write_samples", 2, 4),
    "a save": (checkpoint, "save", 2, None),  # beside the training, which may be further by then
    "a removal": (checkpoint, "prune", 2, None),
    "the last step": (Trainer, "step", 8, 8),
    "the last save": (checkpoint, "save", 3, 8),
    "the loss curves": (report, "plot_losses", 1, 8),
    "the animation": (report, "animate", 1, 8),
    "the summary": (RunFolder, "write_json", 2, 8),
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [*((moment, signal.SIGTERM) for moment in MOMENTS), ("a step", signal.SIGINT), ("a step", signal.SIGHUP)],
)
def test_a_signal_saves_and_ends_with_its_code(moment: str, number: int, tmp_path: Path, monkeypatch) -> None:
    place, name, call, step = MOMENTS[moment]
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at(patch, place, name, call, lambda: os.kill(os.getpid(), number))
        assert train(out) == CODES[number]
    assert step is None or newest(out) == step
    assert rows(out) == [*range(1, newest(out) + 1)]
    assert not (out / "summary.json").exists() and not (out / ".lock").exists()
    # and the run is the same as one that nobody stopped
    assert train(out, resume=True) == 0
    assert rows(out) == [*range(1, 9)] and json.loads((out / "summary.json").read_text())["steps"] == 8
    assert (out / "losses.png").exists() and (out / "samples.gif").exists()
    assert not [path for path in out.rglob("*") if path.name[0] == "."]


def test_pictures_are_left_out_once_a_signal_has_come(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "run"
    at(monkeypatch, Trainer, "step", 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(report, "plot_losses", lambda *_: pytest.fail("drawn"))
    assert train(out) == 143
    assert newest(out) == 4 and [path.name for path in (out / "samples").iterdir()] == ["step_00000000.png"]


def test_a_second_signal_lets_a_save_end(tmp_path: Path, monkeypatch) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    at(monkeypatch, checkpoint, "save", 2, twice)
    assert train(tmp_path / "run") == 130
    assert newest(tmp_path / "run") >= 4 and rows(tmp_path / "run")[-1] == newest(tmp_path / "run")


@pytest.mark.parametrize("number", CODES)
def test_a_third_signal_ends_at_once(number: int, tmp_path: Path, monkeypatch) -> None:
    release = threading.Event()

    def thrice() -> None:
        for _ in range(3):
            os.kill(os.getpid(), number)
            time.sleep(0.1)
        release.wait(60)

    at(monkeypatch, checkpoint, "save", 2, thrice)
    begun = time.monotonic()
    assert train(tmp_path / "run") == CODES[number]
    assert time.monotonic() - begun < 30, "the save, which takes a minute, is not waited for"
    release.set()
    (writer,) = [thread for thread in threading.enumerate() if thread.name == "fastgan writer"] or [None]
    if writer:
        writer.join()
    assert train(tmp_path / "run", resume=True) == 0 and newest(tmp_path / "run") == 8


# a disk that is full


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_row_that_does_not_fit_is_written_later(tmp_path: Path, monkeypatch, caplog) -> None:
    out = tmp_path / "run"
    write, failed = os.write, []

    def no_space(descriptor: int, content: Any) -> int:
        if bytes(content[:9]) == b'{"step": ' and len(failed) < 3:
            failed.append(write(descriptor, content[:5]))
            full()
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", no_space)
    assert train(out) == 0
    assert len(failed) == 3 and rows(out) == [*range(1, 9)], "none is lost, none is torn"
    said = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert said == ["a row of metrics cannot be written, and the training goes on: No space left on device"]


def test_rows_that_never_fit_end_the_run_after_its_last_save(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fastgan.training.metrics_file.MetricsFile.flush", full)
    with pytest.raises(RunFolderError, match=r"metrics.jsonl cannot be written, rows are lost: No space left on device"):
        train(tmp_path / "run")
    assert newest(tmp_path / "run") == 8


@pytest.mark.parametrize("what", ["write_grid", "plot_losses", "animate"])
def test_a_picture_that_does_not_fit_ends_nothing(what: str, tmp_path: Path, monkeypatch, caplog) -> None:
    def half(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        full()

    monkeypatch.setattr(report, what, half)
    assert train(tmp_path / "run") == 0
    assert "cannot be written" in caplog.text and "No space left on device" in caplog.text
    assert newest(tmp_path / "run") == 8 and (tmp_path / "run" / "summary.json").exists()
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"half"]
    assert not left


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_full_disk_in_a_save_is_one_line(number: int, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "run"
    write, save, saves = os.write, checkpoint.save, []

    def no_space(descriptor: int, content: Any) -> int:
        if len(saves) >= number and len(content) > 1000:
            write(descriptor, content[:100])
            full()
        return write(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_space)
        patch.setattr(checkpoint, "save", lambda *given: (saves.append(1), save(*given)))
        with pytest.raises(CheckpointError, match=r"step_0000000. cannot be written: No space left on device$"):
            train(out)
    assert newest(out) == (-1, 0, 4)[number - 1]
    assert not [path for path in (out / "checkpoints").iterdir() if path.name[0] == "."]
    assert train(out, resume=True) == 0 and newest(out) == 8


def test_a_torn_picture_is_left_out_of_the_animation(tmp_path: Path, caplog) -> None:
    out = tmp_path / "run"
    assert train(out) == 0
    picture = out / "samples" / "step_00000004.png"
    picture.write_bytes(picture.read_bytes()[:200])
    assert train(out, resume=True, steps=12) == 0
    assert "step_00000004.png is left out of the animation" in caplog.text
    with Image.open(out / "samples.gif") as animation:
        assert animation.n_frames == 3
