"""The lock of a run folder: one run writes at a time, the kernel frees it, and readers need none."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastgan import Trainer
from fastgan.mlp import MLP
from fastgan.training.lock import NAME, FolderInUse, FolderLock
from fastgan.training.report import RunFolder, RunFolderError

DATA = torch.zeros(21, 2)
ME = rf"process {os.getpid()} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$"


def in_child(work: Callable[[], None]) -> int:
    """A forked process's exit code, 0 for no error; negative for the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_second_holder_is_told_of_the_first(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    for _ in range(2):
        with pytest.raises(FolderInUse, match=ME):
            FolderLock(tmp_path)
    lock.release()
    assert not [*tmp_path.iterdir()]
    FolderLock(tmp_path).release()
    lock.release()  # which does nothing, and takes nothing from others
    other = FolderLock(tmp_path)
    lock.release()
    with pytest.raises(FolderInUse):
        FolderLock(tmp_path)
    other.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "x" * 5000])
def test_what_a_holder_says_may_be_anything(text: str, tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    (tmp_path / NAME).write_text(text)
    with pytest.raises(FolderInUse, match=r"^another process$"):
        FolderLock(tmp_path)
    lock.release()


def test_the_kernel_frees_a_folder(tmp_path: Path) -> None:
    def killed() -> None:
        lock = FolderLock(tmp_path)
        assert lock
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert json.loads((tmp_path / NAME).read_text())["pid"] != os.getpid(), "what is left of it locks nothing"
    lock = FolderLock(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_lock_that_nobody_holds_any_more_is_free(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    del lock
    FolderLock(tmp_path).release()


def test_a_forked_child_neither_holds_nor_frees_it(tmp_path: Path) -> None:
    """Workers of a data loader, say: one may outlive its parent, and one may end before it."""
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:
        signal.pause()
    assert in_child(lock.release) == 0
    with pytest.raises(FolderInUse, match=ME):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_file_that_is_removed_while_it_is_waited_for_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder ends between the opening of the file and the lock on it: another file has its place by then."""
    first, flock, tries = FolderLock(tmp_path), fcntl.flock, []

    def late(descriptor: int, kind: int) -> None:
        tries.append(descriptor)
        if len(tries) == 1:
            first.release()
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    second = FolderLock(tmp_path)
    assert len(tries) == 2
    with pytest.raises(FolderInUse):
        FolderLock(tmp_path)
    second.release()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        FolderLock(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def none(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with caplog.at_level(logging.WARNING):
        FolderLock(tmp_path).release()
    assert "cannot be locked (No locks available)" in caplog.text


# runs


def trainer() -> Trainer:
    torch.manual_seed(0)
    return Trainer(MLP((3, 4, 2)), MLP((2, 4, 1)), seed=0, device="cpu")


def fit(out: Path, steps: int = 2, run: Trainer | None = None, **options) -> dict:
    return (run or trainer()).fit(DATA, steps=steps, batch_size=8, out=out, progress=False, **options)


def test_a_folder_is_locked_from_its_claim_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    prepared = trainer().attach(DATA, 8).prepare(steps=2, out=out, progress=False)
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(RunFolderError, match=f"run is being written by {ME[:-1]}: wait for it, or choose another --out"):
        fit(out, resume=True)
    with pytest.raises(RunFolderError, match="already exists and was left untouched"):
        fit(out)
    assert sorted(path.name for path in out.iterdir()) == before
    prepared.run()
    assert not (out / NAME).exists()
    with pytest.raises(RunFolderError, match="already exists and was left untouched: continue it with --resume"):
        fit(out)
    assert fit(out, steps=3, resume=True)["steps"] == 3


def test_a_reader_needs_no_lock(tmp_path: Path) -> None:
    run = trainer()
    seen: list[int] = []
    step = run.step

    def looked_at(n: int = 1):
        seen.append(Trainer.load(tmp_path / "run", MLP((3, 4, 2)), MLP((2, 4, 1)), device="cpu").step_count)
        assert (tmp_path / "run" / NAME).exists()
        return step(n)

    # the writer is done before the next step begins
    run.step = looked_at  # type: ignore[method-assign]
    fit(tmp_path / "run", steps=3, run=run, checkpoint_every=1)
    assert len(seen) == 3 and seen == sorted(seen)


@pytest.mark.parametrize("what", ["a step fails", "a resume fails"])
def test_an_error_frees_the_folder(what: str, tmp_path: Path) -> None:
    out, run = tmp_path / "run", trainer()
    if what == "a step fails":
        run.step = lambda n=1: 1 / 0  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            fit(out, run=run)
    else:
        fit(out)
        other = Trainer(MLP((3, 5, 2)), MLP((2, 4, 1)), seed=0, device="cpu")
        with pytest.raises(ValueError, match="another architecture"):
            fit(out, run=other, resume=True)
    assert not (out / NAME).exists()
    assert fit(out, steps=4, resume=True)["steps"] == 4


def test_a_folder_that_was_locked_and_nothing_else_is_free(tmp_path: Path) -> None:
    """Its process was killed as it claimed the folder."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).write_text("{}")
    assert fit(tmp_path / "run")["steps"] == 2
    assert not (tmp_path / "run" / NAME).exists()


def test_of_two_runs_begun_at_once_one_has_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found the place free before either has claimed it."""
    check_free, out = RunFolder.check_free, tmp_path / "run"
    checks: list[Path] = []

    def other_is_faster(folder: RunFolder) -> None:
        check_free(folder)
        checks.append(folder.path)
        if len(checks) == 1:
            fit(out)

    monkeypatch.setattr(RunFolder, "check_free", other_is_faster)
    with pytest.raises(RunFolderError, match="already exists and was left untouched"):
        fit(out)
    monkeypatch.undo()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (out / NAME).exists()
