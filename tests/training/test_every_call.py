"""Every call to the file system of a save, of one that replaces, of a removal and of a resume, each of which may be the last.

For each call in turn: the process is killed there, or the disk is full from there on, or that one call fails. Afterwards the
newest whole checkpoint is found, nothing that was whole is lost, nothing half made stays, and the message is one line.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgan import Trainer
from fastgan.mlp import MLP
from fastgan.training import checkpoint, lock
from fastgan.training.checkpoint import Checkpoint, CheckpointError, step_folder
from fastgan.training.fit import FitOptions, prepare
from fastgan.training.report import RunFolder, RunFolderError

pytestmark = pytest.mark.usefixtures("one_thread")

READS = ("listdir", "scandir", "stat", "lstat", "fstat", "read")
NEED_SPACE = ("mkdir", "write", "fsync", "ftruncate")  # and what opens a file to write it
CHANGES = ("open", "close", "rename", "replace", "unlink", "rmdir")
FAULTS = ("killed", "killed in the middle", "full", "one error")


class Killed(BaseException):
    """The process ends here: no line of it runs any more, and no call is made."""


class Disk:
    """Counts the calls of a piece of work, and lets the one with a number, from 0, fail."""

    def __init__(self, fault: str = "", number: int = -1) -> None:
        self.fault, self.number = fault, number
        self.calls: list[str] = []
        self.failed = ""  # the call that did
        self.watching = self.dead = False
        self.opened: set[int] = set()

    def call(self, real: Callable, name: str, *arguments: Any, **options: Any) -> Any:
        if not self.watching or threading.current_thread() is not threading.main_thread():
            return real(*arguments, **options)
        if self.dead:
            raise Killed
        index = len(self.calls)
        self.calls.append(name)
        reached = index >= self.number >= 0
        if self.fault == "full" and reached and self._needs_space(name, arguments):
            self._note(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if index == self.number and self.fault != "full":
            self._note(name)
            self._fail(real, name, arguments)
        result = real(*arguments, **options)
        if name == "open":
            self.opened.add(result)
        elif name == "close":
            self.opened.discard(arguments[0])
        return result

    def _needs_space(self, name: str, arguments: tuple) -> bool:
        return name in NEED_SPACE or (name == "open" and bool(arguments[1] & os.O_CREAT))

    def _note(self, name: str) -> None:
        self.failed = self.failed or name

    def _fail(self, real: Callable, name: str, arguments: tuple) -> None:
        if name == "close":  # a descriptor is gone whatever its close says
            self.opened.discard(arguments[0])
            real(*arguments)
        if self.fault == "one error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.fault == "killed in the middle" and name == "write":
            real(arguments[0], arguments[1][: len(arguments[1]) // 2])
        self.dead = True
        raise Killed

    @contextmanager
    def under(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for module, names in ((os, (*READS, *NEED_SPACE, *CHANGES)), (fcntl, ("flock",))):
                for name in names:
                    patch.setattr(module, name, self._counted(getattr(module, name), name))
            self.watching = True
            try:
                yield
            finally:
                self.watching = False
        if self.dead:  # the kernel closes what it had open, and frees its locks
            locks = {held.descriptor for held in lock._held if held._end.alive}
            lock._forget_in_child()
            for descriptor in self.opened - locks:
                with suppress(OSError):
                    os.close(descriptor)

    def _counted(self, real: Callable, name: str) -> Callable:
        return lambda *arguments, **options: self.call(real, name, *arguments, **options)


def content(number: float) -> Checkpoint:
    return Checkpoint({"generator": {"w": torch.full((3,), number)}}, {"step_count": int(number)}, {"loss": "hinge"})


def number_of(place: Path) -> float:
    return float(next(iter(checkpoint.load(place).weights["generator"].values())).flatten()[0])


def whole(root: Path) -> dict[str, float]:
    """The checkpoints that can be read, and a number that each holds."""
    found = {}
    for place in root.iterdir():
        with suppress(CheckpointError):
            found[place.name] = number_of(place)
    return found


def half_made(*folders: Path) -> list[str]:
    return [path.name for folder in folders for path in folder.iterdir() if path.name[0] == "."]


def saved(root: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save(step_folder(root, step), content(step))


def damage(place: Path) -> None:
    (place / "state.pt").write_bytes(b"torn")


def damaged_newest(root: Path) -> None:
    saved(root, 0, 2, 4)
    damage(step_folder(root, 4))


# what stands there before, what is done, and what may be whole after it: alternatives of names and contents


def a_first_save(root: Path) -> None:
    checkpoint.save(step_folder(root, 0), content(0))


def a_save(root: Path) -> None:
    checkpoint.save(step_folder(root, 4), content(4.5))


def a_removal(root: Path) -> None:
    checkpoint.prune(root, keep=1)


def kept(*steps: int) -> dict[str, float]:
    return {f"step_{step:08d}": float(step) for step in steps}


NEW = {"step_00000004": 4.5}
SCENES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], list[dict[str, float]]]] = {
    "the first save": (lambda root: None, a_first_save, [{}, kept(0)]),
    "a save": (lambda root: saved(root, 0, 2), a_save, [kept(0, 2), kept(0, 2) | NEW]),
    "a save that replaces": (lambda root: saved(root, 0, 2, 4), a_save, [kept(0, 2, 4), kept(0, 2) | NEW]),
    "a save that replaces a damaged one": (damaged_newest, a_save, [kept(0, 2), kept(0, 2) | NEW]),
    "a removal": (
        lambda root: saved(root, 0, 2, 4, 6),
        a_removal,
        [kept(0, 2, 4, 6), kept(0, 2, 6), kept(0, 4, 6), kept(0, 6)],
    ),
}


def is_like_another(fault: str, name: str) -> bool:
    """Whether a fault in this call is what it is in one after it: a full disk does not show before space is needed."""
    return (fault == "full" and name not in (*NEED_SPACE, "open")) or (fault == "killed in the middle" and name != "write")


def calls_of(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    disk = Disk()
    with disk.under(monkeypatch):
        work()
    return disk.calls


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scene", SCENES)
def test_every_call_of_a_save_and_of_a_removal(scene: str, fault: str, tmp_path: Path, monkeypatch, caplog) -> None:
    before, work, allowed = SCENES[scene]
    template, root = tmp_path / "template", tmp_path / "checkpoints"
    before(template)
    template.mkdir(exist_ok=True)
    first = shutil.copytree(template, tmp_path / "counted")
    calls = calls_of(lambda: work(first), monkeypatch)
    assert whole(first) == allowed[-1]
    for number, name in enumerate(calls):
        if is_like_another(fault, name):
            continue
        shutil.copytree(template, root)
        disk, caught = Disk(fault, number), None
        with caplog.at_level(logging.CRITICAL), disk.under(monkeypatch):
            try:
                work(root)
            except (CheckpointError, Killed) as error:
                caught = error
        where = f"call {number}: {disk.failed}"
        found = checkpoint.latest(root)
        newest = number_of(found) if found else -1.0
        checkpoint.sweep(root)
        assert whole(root) in allowed, where
        assert newest == max(whole(root).values(), default=-1.0), f"{where}: what is found then was found before the sweep"
        assert not half_made(root), where
        if fault == "full" and disk.failed:
            assert isinstance(caught, CheckpointError) and "No space left on device" in str(caught), where
        assert caught is None or isinstance(caught, Killed) or len(str(caught).splitlines()) == 1, where
        work(root)
        assert whole(root) == allowed[-1], where
        shutil.rmtree(root)


@pytest.mark.parametrize("scene", [scene for scene in SCENES if "save" in scene])
def test_a_disk_that_fails_in_a_save_is_left_as_it_was(scene: str, tmp_path: Path, monkeypatch) -> None:
    """Also without the sweep of a resume: what was half made would take the space that is lacking."""
    before, work, _ = SCENES[scene]
    template, root = tmp_path / "template", tmp_path / "checkpoints"
    before(template)
    template.mkdir(exist_ok=True)
    calls = calls_of(lambda: work(shutil.copytree(template, tmp_path / "counted")), monkeypatch)
    reached = 0
    for fault in ("full", "one error"):
        for number in range(len(calls)):
            shutil.copytree(template, root)
            disk = Disk(fault, number)
            with disk.under(monkeypatch), suppress(CheckpointError):
                work(root)
            # a removal that fails leaves what it should have removed
            if disk.failed not in ("unlink", "rmdir", "scandir", "stat", "lstat", "fstat", "listdir", "open", "close", ""):
                assert not half_made(root), f"{fault} in call {number}, {disk.failed}"
                reached += 1
            shutil.rmtree(root)
    assert reached > 10


# a resume: of a run with a damaged newest checkpoint, rows past the one before, and what two kills have left behind


def trainer() -> Trainer:
    torch.manual_seed(0)
    return Trainer(MLP((3, 4, 2)), MLP((2, 4, 1)), seed=0, device="cpu").attach(torch.zeros(21, 2), 8)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    trainer().prepare(steps=3, out=out, checkpoint_every=1, log_every=1, sample_every=1, keep=9, progress=False).run()
    root = out / "checkpoints"
    shutil.rmtree(step_folder(root, 0))
    damage(step_folder(root, 3))
    step_folder(root, 2).rename(root / ".step_00000002.0123abcd.replaced")
    shutil.copytree(step_folder(root, 1), root / ".step_00000003.0123abcd.partial")
    for picture in ("samples/step_00000000.png", "losses.png", "samples.gif"):
        (out / picture).unlink()
    (out / ".config.json").write_text("{")
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "d_l')
    return out


def resume(run: Trainer, out: Path) -> RunFolder:
    folder = prepare(run, FitOptions(8, 3, out=out, resume=True, keep=9, progress=False))  # type: ignore[arg-type]
    assert folder
    folder.unlock()
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_of_a_resume(fault: str, begun: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    run, out = trainer(), tmp_path / "run"
    first = shutil.copytree(begun, tmp_path / "counted")
    with caplog.at_level(logging.CRITICAL):
        calls = calls_of(lambda: resume(run, first), monkeypatch)
        assert run.step_count == 2
        for number, name in enumerate(calls):
            if is_like_another(fault, name):
                continue
            shutil.copytree(begun, out)
            disk, caught = Disk(fault, number), None
            with disk.under(monkeypatch):
                try:
                    resume(run, out)
                except (CheckpointError, RunFolderError, Killed) as error:
                    caught = error
            where = f"call {number}: {disk.failed}"
            assert caught is None or isinstance(caught, Killed) or len(str(caught).splitlines()) == 1, where
            # what cannot be read is passed over, like what is damaged, and the run goes on from the one before
            cut = fault == "one error" and caught is None and run.step_count == 1
            folder = resume(run, out)
            assert run.step_count == 2, where
            assert [row["step"] for row in folder.read_metrics()] == ([1] if cut else [1, 2]), where
            assert [*folder.pictures()] == ([1] if cut else [1, 2]), where
            assert not half_made(out, folder.checkpoints, folder.samples), where
            assert whole(folder.checkpoints).keys() == kept(1, 2).keys(), where
            shutil.rmtree(out)
