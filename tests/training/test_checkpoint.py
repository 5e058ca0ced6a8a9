"""Checkpoints on the disk: when they are synced, which are kept, and that they appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from fastgan import CheckpointError, Trainer
from fastgan.mlp import MLP
from fastgan.training import checkpoint
from fastgan.training.checkpoint import Checkpoint, step_folder

FILES = {"config.json", "generator.safetensors", "manifest.json", "state.pt"}


def content(number: float = 1.0) -> Checkpoint:
    return Checkpoint({"generator": {"weight": torch.full((3,), number)}}, {"step_count": int(number)}, {"loss": "hinge"})


def test_everything_is_synced_before_the_rename_and_its_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a checkpoint could have its name before it has its content, after a crash of the machine."""
    events: list[tuple[str, str]] = []
    sizes: dict[str, int] = {}
    rename, root = os.rename, tmp_path / "checkpoints"

    def synced(descriptor: int) -> None:
        found = os.fstat(descriptor).st_ino
        path = next(path for path in (root, *root.rglob("*")) if path.stat().st_ino == found)
        sizes[path.name] = path.stat().st_size
        events.append(("synced", "." if path == root else path.name if path.is_file() else "the new folder"))

    monkeypatch.setattr(os, "fsync", synced)

    def renamed(path: Path, to: Path) -> None:
        rename(path, to)
        events.append(("renamed", "aside" if to.name.endswith(".replaced") else to.name))

    monkeypatch.setattr(os, "rename", renamed)
    for number in (1.0, 2.0):
        events.clear()
        checkpoint.save(step_folder(root, 7), content(number))
        before, after = events[: len(FILES) + 1], events[len(FILES) + 1 :]
        assert set(before) == {("synced", name) for name in FILES | {"the new folder"}} and len(before) == len(FILES) + 1
        assert before[-1] == ("synced", "the new folder"), "whose names are there by then"
        replacing = [("renamed", "aside")] if number == 2.0 else []
        assert after == [*replacing, ("renamed", "step_00000007"), ("synced", ".")]
        saved = {path.name: path.stat().st_size for path in step_folder(root, 7).iterdir()}
        assert saved == {name: sizes[name] for name in FILES}, "they are synced when they are whole"


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused(version: int | str | None, tmp_path: Path) -> None:
    folder = step_folder(tmp_path, 1)
    checkpoint.save(folder, content(1.0))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == 1
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": version}))
    with pytest.raises(CheckpointError, match=f"checkpoint format {version}; this fastgan reads 1"):
        checkpoint.load(folder)


def test_a_save_that_fails_leaves_what_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = step_folder(tmp_path, 1)
    checkpoint.save(folder, content(1.0))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"step_00000001 cannot be written: no space left on device$"):
        checkpoint.save(folder, content(2.0))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert checkpoint.load(folder).state == {"step_count": 1}
    assert checkpoint.latest(tmp_path) == folder
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_checkpoint_is_what_was_saved(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "one", content(3.0))
    found = checkpoint.load(tmp_path / "one")
    assert found.state == {"step_count": 3} and found.config == {"loss": "hinge"}
    assert list(found.weights) == ["generator"] and found.weights["generator"]["weight"].tolist() == [3.0] * 3


@pytest.mark.parametrize(
    ("count", "keep", "kept"),
    [
        (0, 1, []),
        (1, 1, [0]),
        (2, 1, [0, 1]),
        (3, 1, [0, 2]),
        (5, 1, [0, 4]),
        (5, 2, [0, 3, 4]),
        (5, 4, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
    ],
)
def test_the_first_checkpoint_and_the_newest_ones_are_kept(count: int, keep: int, kept: list[int], tmp_path: Path) -> None:
    for number in range(count):
        checkpoint.save(step_folder(tmp_path, 10**number), content(number))
    checkpoint.prune(tmp_path, keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{10**number:08d}" for number in kept]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_keeps_as_many_as_it_is_told(keep: int, tmp_path: Path) -> None:
    run = Trainer(MLP((3, 4, 2)), MLP((2, 4, 1)), seed=0, device="cpu")
    options = dict(steps=6, batch_size=4, sample_every=0, checkpoint_every=1, keep=keep, progress=False)
    run.fit(torch.zeros(8, 2), out=tmp_path / "run", **options)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"step_{step:08d}" for step in (0, *range(7 - keep, 7))]


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        checkpoint.save(step_folder(tmp_path / "checkpoints", step), content(step))
    assert checkpoint.find(tmp_path).name == "step_00000010"
    (step_folder(tmp_path / "checkpoints", 10) / "state.pt").write_bytes(b"torn")
    assert checkpoint.load(tmp_path).state == {"step_count": 9}
    for step in (2, 9):
        (step_folder(tmp_path / "checkpoints", step) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path)


def test_what_was_skipped_is_counted_on_after_a_resume(tmp_path: Path) -> None:
    """In a trainer that has counted something of its own, too."""

    def trainer(broken: bool) -> Trainer:
        torch.manual_seed(0)
        made = Trainer(MLP((3, 4, 2)), MLP((2, 4, 1)), seed=0, device="cpu").attach(torch.zeros(8, 2), 4)
        if broken:
            with torch.no_grad():
                made.discriminator.layers[-1].bias.fill_(torch.nan)
            made.step(3)
        return made

    saved = trainer(broken=True)
    count = saved.skipped
    assert count > 0 and count % 3 == 0, "the same in each step"
    saved.save(tmp_path / "saved")
    assert Trainer.load(tmp_path / "saved", MLP((3, 4, 2)), MLP((2, 4, 1)), device="cpu").skipped == count
    for other in (trainer(broken=False), trainer(broken=True)):
        other.step(2)
        other.load_state_dict(saved.state_dict())
        assert other.skipped == count
        other.step()
        assert other.skipped == count + count // 3
