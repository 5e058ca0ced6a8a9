"""Paths that no file can have, or that lead through a file: refused by the errors that are documented, and nothing is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgan import Trainer
from fastgan.training import checkpoint
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.report import RunFolder, RunFolderError
from tests.training.runs import POINTS, critic, generator, trained

pytestmark = pytest.mark.usefixtures("one_thread")

PATHS = {
    "a null character": ("a\0b", r"must be a path, got 'a\\x00b', which has a null character in it"),
    "only a null character": (Path("\0"), r"got '\\x00', which has a null character"),
    "a name that is too long": ("x" * 300, "(written|read): File name too long"),
    "a folder's name that is too long": (Path("x" * 300, "run"), "(written|read): File name too long"),
    "a place inside a file": ("file/run", "written: Not a directory|there is no checkpoint in file/run"),
}
CALLS: dict[str, tuple[Any, type[ValueError]]] = {
    "fit": (lambda t, path: t.fit(POINTS, steps=3, batch_size=4, out=path, progress=False), RunFolderError),
    "resume": (
        lambda t, path: t.fit(POINTS, steps=3, batch_size=4, out=path, resume=True, progress=False),
        (RunFolderError, CheckpointError),
    ),
    "save": (lambda t, path: t.save(path), CheckpointError),
    "restore": (lambda t, path: t.restore(path), CheckpointError),
    "load": (lambda t, path: Trainer.load(path, generator(), critic(), device="cpu"), CheckpointError),
    "checkpoint.latest": (lambda t, path: checkpoint.latest(RunFolder(path).checkpoints), (RunFolderError, CheckpointError)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_cannot_be(name: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    trainer = trained()
    (path, message), (run, kind) = PATHS[name], CALLS[call]
    if (name, call) == ("a place inside a file", "checkpoint.latest"):
        assert run(trainer, path) is None
        return
    with pytest.raises(kind, match=message):
        run(trainer, path)
    assert [found.name for found in tmp_path.iterdir()] == ["file"] and trainer.step_count == 2


def test_a_name_that_leaves_no_place_for_a_checkpoint_in_the_making(tmp_path: Path) -> None:
    """It is written beside its place under a longer name."""
    with pytest.raises(CheckpointError, match="cannot be written: File name too long; choose another folder"):
        trained().save(tmp_path / ("y" * 250))
    assert not [*tmp_path.iterdir()]
