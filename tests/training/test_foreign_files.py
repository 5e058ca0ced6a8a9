"""What a person keeps in a run's folders is never deleted, never taken for the run's own, and never stops it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan import CheckpointError, Trainer
from fastgan.training import checkpoint
from fastgan.training.checkpoint import Checkpoint
from fastgan.training.report import RunFolder
from tests.training.runs import POINTS, critic, generator

pytestmark = pytest.mark.usefixtures("one_thread")


def fit(out: Path, steps: int, resume: bool = True) -> None:
    torch.manual_seed(0)
    trainer = Trainer(generator(), critic(), seed=3, device="cpu")
    options = dict(log_every=1, sample_every=1, checkpoint_every=1, keep=1, resume=resume, progress=False)
    trainer.fit(POINTS, steps=steps, batch_size=4, out=out, **options)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 0 and 2, and pictures of 0 to 2."""
    out = tmp_path_factory.mktemp("begun") / "run"
    fit(out, 2, resume=False)
    return out


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all that is tested here."""
    for name in ("write_grid", "plot_losses"):
        monkeypatch.setattr(f"fastgan.training.report.{name}", lambda path, _: Image.new("L", (2, 2)).save(path))


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return shutil.copytree(begun, tmp_path / "run")


def contents(path: Path) -> dict[str, object]:
    """All that is in a folder or file, and where its links lead."""
    if path.is_symlink():
        return {path.name: path.readlink()}
    if path.is_dir():
        return {path.name: {name: value for file in path.iterdir() for name, value in contents(file).items()}}
    return {path.name: path.read_bytes()}


def copied(name: str) -> Callable[[Path], Path]:
    return lambda root: shutil.copytree(root / "step_00000002", root / name)


def written(name: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (root / name).write_text("mine")
        return root / name

    return write


def linked(name: str, to: str) -> Callable[[Path], Path]:
    def link(root: Path) -> Path:
        (root / name).symlink_to(to)
        return root / name

    return link


def moved(root: Path) -> Path:
    """The newest checkpoint stands elsewhere, with a link in its place."""
    (root / "step_00000002").rename(root.parent.parent / "kept")
    return linked("step_00000002", "../../kept")(root)


COPIES = ("step_00000002.bak", "step_00000002_best", "step_best", "step_1", "step_000000009", "STEP_00000009", "step_٠٠٠٠٠٠٠٩",
          ".step_00000002.backup", ".step_00000002.1", "my.step_00000009", "step_00000009 (copy)")  # fmt: skip
BESIDE: dict[str, Callable[[Path], Path]] = {
    **{f"a copy named {name}": copied(name) for name in COPIES},
    "an archive": written("step_00000009.tar"),
    "a file of a checkpoint's name": written("step_00000009"),
    "a file of a temporary name": written(".step_00000002.0123abcd.removed"),
    "a link": linked("best", "step_00000002"),
    "a link to nothing": linked("step_00000009", "nowhere"),
    "a link to itself": linked("step_00000009", "step_00000009"),
    "notes in a checkpoint": written("step_00000002/notes.txt"),
    "weights in a checkpoint": written("step_00000002/mine.safetensors"),
    "notes in the first checkpoint": written("step_00000000/.notes"),
    "a checkpoint moved elsewhere": moved,
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_is_no_checkpoint_of_the_run(what: str, run: Path) -> None:
    root = run / "checkpoints"
    theirs = BESIDE[what](root)
    before = contents(theirs)
    assert checkpoint.latest(root) == root / "step_00000002"
    checkpoint.sweep(root)
    checkpoint.prune(root, 1)
    assert contents(theirs) == before
    fit(run, 5)
    assert contents(theirs) == before
    assert checkpoint.latest(root) == root / "step_00000005"
    kept = {path.name for path in root.iterdir()} - {theirs.relative_to(root).parts[0]}
    first = "step_00000002" if what == "notes in the first checkpoint" else "step_00000000"
    assert kept <= {first, "step_00000005"}, "and the run's own are thinned as ever"
    assert (run.parent / "kept").exists() == (what == "a checkpoint moved elsewhere")


@pytest.mark.parametrize("what", ["a link", "a file", "notes"])
def test_a_save_touches_nothing_that_stands_in_its_place(what: str, run: Path) -> None:
    place = run / "checkpoints" / "step_00000002"
    if what == "a link":
        moved(place.parent)
    elif what == "a file":
        shutil.rmtree(place)
        place.write_text("mine")
    else:
        (place / "notes.txt").write_text("mine")
    before = contents(run)
    with pytest.raises(CheckpointError, match=r"step_00000002 is .* and was left untouched"):
        checkpoint.save(place, Checkpoint({"generator": {"weight": torch.ones(3)}}, {}, {}))
    assert contents(run) == before


@pytest.mark.parametrize(("name", "stays"), [(".step_00000002.77", True), (".step_00000009.77", False), (".step_9.77", True)])
def test_of_folders_as_earlier_versions_left_them_only_halves_are_cleared_up(name: str, stays: bool, run: Path) -> None:
    """A whole copy of that name may be somebody's; a half has no manifest."""
    made = copied(name)(run / "checkpoints")
    if name == ".step_00000009.77":
        (made / "manifest.json").unlink()
    checkpoint.sweep(run / "checkpoints")
    assert made.exists() == stays


def test_what_a_killed_save_left_is_cleared_up(run: Path) -> None:
    """Though it may be whole already: it was about to get its name."""
    root = run / "checkpoints"
    for kind in ("partial", "removed", "replaced"):
        copied(f".step_00000002.0123abcd.{kind}")(root)
    copied(".step_00000001.0123abcd.replaced")(root)
    checkpoint.sweep(root)
    assert sorted(path.name for path in root.iterdir()) == [f"step_{step:08d}" for step in range(3)]


def test_a_web_manifest_in_a_run_folder_makes_it_no_checkpoint(run: Path) -> None:
    (run / "manifest.json").write_text("{}")
    assert checkpoint.find(run) == run / "checkpoints" / "step_00000002"


# among the pictures

NAMES = ("step_best.png", "step_9.png", "step_000000009.png", "step_٠٠٠٠٠٠٠٩.png", ".step_9.png", "notes.txt")
PICTURES: dict[str, Callable[[Path], Path]] = {
    **{name: written(name) for name in NAMES},
    "a folder": lambda samples: (samples / "step_00000009.png" / "in").mkdir(parents=True) or samples / "step_00000009.png",
    "a link": linked("step_00000009.png", "step_00000001.png"),
    "a link to nothing": linked("step_00000009.png", "nowhere"),
    "a link of a half's name": linked(".step_00000009.png", "step_00000001.png"),
}  # fmt: skip


@pytest.mark.parametrize("what", PICTURES)
def test_what_is_no_picture_of_the_run(what: str, run: Path) -> None:
    theirs = PICTURES[what](run / "samples")
    before = contents(theirs)
    assert list(RunFolder(run).pictures()) == [0, 1, 2]
    fit(run, 3)
    assert contents(theirs) == before
    assert list(RunFolder(run).pictures()) == [0, 1, 2, 3] and (run / "summary.json").exists()


def test_a_folder_in_a_picture_s_place_stops_nothing(run: Path) -> None:
    (run / "samples" / "step_00000003.png").mkdir()
    (run / "losses.png").unlink()
    (run / "losses.png" / "in").mkdir(parents=True)
    fit(run, 4)
    assert (run / "losses.png" / "in").is_dir() and (run / "samples" / "step_00000003.png").is_dir()
    assert list(RunFolder(run).pictures()) == [0, 1, 2, 4]
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []
