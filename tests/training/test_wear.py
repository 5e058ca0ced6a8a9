"""What could wear out with the count of steps or of runs: names, files, descriptors, threads, memory of what was seen."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest
import torch

from fastgan import Trainer
from fastgan.mlp import MLP
from fastgan.training import checkpoint, lock
from fastgan.training.checkpoint import Checkpoint, step_folder
from fastgan.training.report import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = torch.linspace(-1, 1, 42).view(21, 2)
LONG = (99_999_998, 99_999_999, 100_000_000, 2**31, 2**40)  # steps; names have eight digits up to the second


def fit(out: Path, steps: int, resume: bool = False, every: int = 1) -> dict:
    torch.manual_seed(0)
    run = Trainer(MLP((3, 4, 2)), MLP((2, 4, 1)), seed=0, device="cpu")
    reports = dict(log_every=1, sample_every=0, checkpoint_every=every, keep=2, progress=False)
    return run.fit(DATA, steps=steps, batch_size=8, out=out, resume=resume, **reports)


def test_checkpoints_of_long_runs_are_in_order(tmp_path: Path) -> None:
    for step in LONG:
        checkpoint.save(step_folder(tmp_path, step), Checkpoint({"generator": {"w": torch.ones(2)}}, {"step_count": step}))
        assert checkpoint.latest(tmp_path) == step_folder(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {step_folder(tmp_path, LONG[at]).name for at in (0, 3, 4)}


def test_pictures_of_long_runs_are_in_order(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    for step in LONG[::-1]:
        folder.write_samples(step, torch.zeros(4, 1, 8, 8))
    assert [*folder.pictures()] == [*LONG]
    folder.cut_after(LONG[2])
    assert [*folder.pictures()] == [*LONG[:3]]


def test_seconds_go_on_in_a_resumed_run(tmp_path: Path) -> None:
    first = fit(tmp_path, 3)
    again = fit(tmp_path, 6, resume=True)
    rows = RunFolder(tmp_path).read_metrics()
    assert [row["step"] for row in rows] == [*range(1, 7)]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds) and seconds[2] == first["seconds"] < seconds[3] and again["seconds"] == seconds[-1]


def test_a_resume_rewrites_no_metrics_that_are_whole(tmp_path: Path) -> None:
    fit(tmp_path, 3)
    before = (tmp_path / "metrics.jsonl").stat()
    fit(tmp_path, 3, resume=True)
    after = (tmp_path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_many_runs_leave_nothing_open(tmp_path: Path) -> None:
    def left() -> tuple[int, int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len([*lock._held])

    if not Path("/proc/self/fd").exists():
        pytest.skip("descriptors are counted on Linux alone")
    fit(tmp_path / "first", 2)
    before = left()
    for number in range(3):
        fit(tmp_path / str(number), 2)
        fit(tmp_path / str(number), 3, resume=True)
    assert left() == before


def test_what_was_found_whole_is_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "DISTINCT_NS", -1)
    monkeypatch.setattr(checkpoint, "MOST_REMEMBERED", 3)
    monkeypatch.setattr(checkpoint, "_whole", {})
    for step in range(8):
        checkpoint.save(step_folder(tmp_path, step), Checkpoint({"generator": {"w": torch.ones(2)}}, {"step_count": step}))
        assert 1 <= len(checkpoint._whole) <= 3


@pytest.mark.parametrize("change", ["cut", "another byte", "a file gone", "another inode"])
def test_what_was_found_whole_is_looked_at_again_once_it_has_changed(change: str, tmp_path: Path, monkeypatch) -> None:
    """Else a removal would count a damaged checkpoint as one of the newest, and remove a whole one."""
    monkeypatch.setattr(checkpoint, "_whole", {})
    for step in (0, 1, 2, 3):
        checkpoint.save(step_folder(tmp_path, step), Checkpoint({"generator": {"w": torch.ones(2)}}, {"step_count": step}))
    checkpoint.prune(tmp_path, keep=9)
    file = step_folder(tmp_path, 3) / "state.pt"
    content = file.read_bytes()
    if change == "cut":
        file.write_bytes(content[:-1])
    elif change == "another byte":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif change == "another inode":
        times = file.stat()
        (tmp_path / "other").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(tmp_path / "other", ns=(times.st_atime_ns, times.st_mtime_ns))
        (tmp_path / "other").replace(file)
    else:
        file.unlink()
    checkpoint.prune(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step:08d}" for step in (0, 2, 3)]
