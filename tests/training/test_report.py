"""What a run reports: whole files, what is cut at a resume, and rates by the clock of the steps alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastgan import Trainer
from fastgan.mlp import MLP
from fastgan.training import fit
from fastgan.training.report import RunFolder, RunFolderError

DATA = torch.linspace(-1, 1, 42).view(21, 2)


def trainer(**options: Any) -> Trainer:
    torch.manual_seed(0)
    return Trainer(MLP((3, 4, 2)), MLP((2, 4, 1)), **dict(seed=0, device="cpu") | options)


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, write = RunFolder(tmp_path), os.write
    folder.write_json("config.json", {"steps": 1})

    def torn(descriptor: int, data: memoryview) -> int:
        write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "write", torn)
    with pytest.raises(RunFolderError, match=r"config.json cannot be written: no space"):
        folder.write_json("config.json", {"steps": 2})
    monkeypatch.undo()
    assert folder.read_config() == {"steps": 1} and [path.name for path in tmp_path.iterdir()] == ["config.json"]
    folder.write_json("config.json", {"steps": 3})
    assert folder.read_config() == {"steps": 3} and [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("step", [-1, 0, 4, 6, 9])
def test_what_comes_after_a_step_is_forgotten(step: int, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    for number in range(0, 8, 2):
        folder.append_metrics({"step": number})
        (folder.samples / f"step_{number:08d}.png").touch()
    with folder.metrics.open("a") as stream:
        stream.write('{"step": 8')
    folder.cut_after(step)
    kept = [number for number in range(0, 8, 2) if number <= step]
    assert [row["step"] for row in folder.read_metrics()] == kept
    assert sorted(path.name for path in folder.samples.iterdir()) == [f"step_{number:08d}.png" for number in kept]
    assert folder.metrics.read_text().count("\n") == len(kept)


# where a run that is resumed may begin, having no checkpoint to go on from


@pytest.fixture
def run(tmp_path: Path) -> Path:
    trainer().fit(DATA, steps=2, batch_size=8, out=tmp_path / "run", log_every=1, progress=False)
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil(run: Path) -> None:
    for file in run.glob("checkpoints/*/state.pt"):
        file.write_bytes(file.read_bytes()[:-1])


def lose(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def forget(run: Path) -> None:
    lose(run)
    (run / "metrics.jsonl").unlink()
    (run / "config.json").write_text('{"model_type": "another program\'s"}')


def replace(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("mine")


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        pytest.param(
            None, "checkpoints", "lies inside the run .*run .*continue that one with --out .*run", id="its checkpoints"
        ),
        pytest.param(None, "checkpoints/step_00000002", "lies inside the run .*run and", id="a checkpoint"),
        pytest.param(None, "new/one", "lies inside the run .*run and", id="a new folder inside a run"),
        pytest.param(None, "..", r"is no run and was left untouched, it has run: name the run's folder", id="a folder of runs"),
        pytest.param(spoil, ".", "a run without a whole checkpoint, .* choose another --out", id="damaged checkpoints"),
        pytest.param(lose, ".", "a run without a whole checkpoint", id="lost checkpoints"),
        pytest.param(forget, ".", "is no run and was left untouched, it has config.json", id="another program's configuration"),
        pytest.param(replace, ".", "is no run and was left untouched, it has run", id="a file"),
    ],
)
def test_nothing_is_resumed_where_something_else_stands(change: Any, place: str, message: str, run: Path) -> None:
    if change:
        change(run)
    before = contents(run.parent)
    with pytest.raises(RunFolderError, match=message):
        trainer().fit(DATA, steps=4, batch_size=8, out=run / place, resume=True, progress=False)
    assert contents(run.parent) == before and not (run / "new").exists()


@pytest.mark.parametrize("begun", ["nothing", "an empty folder", "folders", "a configuration", "half a checkpoint"])
def test_a_run_that_was_stopped_before_its_first_checkpoint_begins(begun: str, run: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "early")
    if begun == "an empty folder":
        folder.path.mkdir()
    elif begun != "nothing":
        folder.create()
    if begun in ("a configuration", "half a checkpoint"):
        shutil.copy(run / "config.json", folder.path)
        (folder.path / ".summary.json").touch()
    if begun == "half a checkpoint":
        (folder.checkpoints / ".step_00000000.7").mkdir()
    trainer().fit(DATA, steps=2, batch_size=8, out=folder.path, log_every=1, resume=True, progress=False)
    assert [row["step"] for row in folder.read_metrics()] == [1, 2] and folder.is_run()
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [f"step_{step:08d}" for step in (0, 1, 2)]


@pytest.mark.parametrize(("d_steps", "batch_size"), [(1, 8), (3, 8), (2, 5)])
def test_images_per_second_are_those_that_the_discriminator_saw(
    d_steps: int, batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the steps since the row before, by a clock that goes on by two seconds for each of them and for each pause."""
    run = trainer(d_steps=d_steps)
    ticks = {"now": 100.0}
    step, save = run.step, run.save

    def stepping(n: int = 1) -> Any:
        ticks["now"] += 2.0 * n
        return step(n)

    def saving(folder: Path) -> None:
        ticks["now"] += 1000.0  # off the clock
        save(folder)

    monkeypatch.setattr(run, "step", stepping)
    monkeypatch.setattr(run, "save", saving)
    monkeypatch.setattr("time.perf_counter", lambda: ticks["now"])
    options = dict(log_every=3, sample_every=0, checkpoint_every=2, progress=False)
    summary = run.fit(DATA, steps=7, batch_size=batch_size, out=tmp_path / "run", **options)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [3, 6, 7]
    assert [row["images_per_second"] for row in rows] == pytest.approx([d_steps * batch_size / 2.0] * 3)
    assert [row["seconds"] for row in rows] == pytest.approx([6.0, 12.0, 14.0])
    epoch = -(-21 // (d_steps * batch_size))
    assert [row["epoch"] for row in rows] == pytest.approx([step / epoch for step in (3, 6, 7)])
    assert summary["seconds"] == pytest.approx(14.0) and summary["epochs"] == pytest.approx(7 / epoch)
    assert summary["images_per_second"] == pytest.approx(d_steps * batch_size / 2.0)


@pytest.mark.parametrize(
    ("d_steps", "batch_size", "steps"), [(1, 7, 3), (1, 8, 3), (2, 5, 3), (3, 7, 1), (5, 8, 1), (1, 1, 21)]
)
def test_an_epoch_is_once_through_the_data(d_steps: int, batch_size: int, steps: int) -> None:
    run = trainer(d_steps=d_steps).attach(DATA, batch_size)
    assert run.steps_per_epoch() == steps
    assert run.prepare(epochs=4).options.steps == 4 * steps


def test_a_run_without_a_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary = trainer().fit(DATA, steps=3, batch_size=7, log_every=1, sample_every=1, checkpoint_every=1, progress=False)
    assert summary["steps"] == 3 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "due"),
    [
        (
            dict(log_every=2, sample_every=3, checkpoint_every=4),
            {"logged": [2, 4, 6, 7], "drawn": [0, 3, 6, 7], "saved": [0, 4, 7]},
        ),
        (dict(log_every=10, sample_every=0, checkpoint_every=0), {"logged": [7], "drawn": [], "saved": [0, 7]}),
    ],
    ids=["each", "neither pictures nor checkpoints"],
)
def test_reports_come_when_they_are_due(
    given: dict[str, int], due: dict[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first step, at each k-th and at the last one."""
    saved: list[int] = []
    run = trainer()
    newest = lambda root: max(int(path.name.removeprefix("step_")) for path in root.iterdir())  # noqa: E731
    monkeypatch.setattr(fit.checkpoint, "prune", lambda root, keep, check: saved.append(newest(root)))
    run.fit(DATA, steps=7, batch_size=7, out=tmp_path / "run", progress=False, **given)
    rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    drawn = sorted(int(path.stem.removeprefix("step_")) for path in (tmp_path / "run" / "samples").iterdir())
    assert {"logged": rows, "drawn": drawn, "saved": saved} == due


# what is left of metrics and pictures after a crash, or of earlier versions

LINES = {
    "a torn row": b'{"step": 1, "d_lo',
    "two rows in one line": b'{"step": 1}{"step": 1}',
    "no text": b"\x00\xff\xfe\x80" * 9,
    "no row": b"[1, 2]",
    "a number": b"7",
    "nesting": b"[" * 10**5,
    "nothing": b"",
    "no step": b'{"d_loss": 0.5}',
    "a step below 0": b'{"step": -1}',
    "a step that is a text": b'{"step": "1"}',
    "a step that is true": b'{"step": true}',
    "5000 digits": b'{"step": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("line", LINES)
def test_rows_behind_a_broken_one_are_kept(line: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in range(1, 4):
        folder.append_metrics({"step": step, "d_loss": 0.5})
    first, second, third = folder.metrics.read_bytes().splitlines()
    folder.metrics.write_bytes(b"\n".join([first, LINES[line], second, third]))  # and the last line has no end
    assert [row["step"] for row in folder.read_metrics()] == [1, 2, 3]
    folder.cut_after(2)
    folder.append_metrics({"step": 4})
    assert folder.metrics.read_bytes().splitlines() == [first, second, b'{"step": 4}']


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "null", '"high"', "[1]", "{}", "1" + "0" * 400], ids=range(7))
def test_rows_with_something_else_than_numbers_stop_nothing(value: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    fields = "".join(f', "{name}": {value}' for name in ("d_loss", "d_real", "seconds"))
    folder.metrics.write_text(f'{{"step": 1{fields}}}\n{{"step": 2, "d_loss": 0.5}}\n')
    assert [row["d_loss"] for row in folder.read_metrics()] == [None, 0.5]
    folder.finish({"steps": 2})
    assert (tmp_path / "losses.png").stat().st_size and (tmp_path / "summary.json").exists()
    folder.cut_after(1)
    (line,) = folder.metrics.read_text().splitlines()
    assert json.loads(line, parse_constant=lambda token: pytest.fail(token))["step"] == 1


def test_a_run_goes_on_behind_rows_without_numbers(run: Path) -> None:
    lines = RunFolder(run).metrics.read_text().splitlines()
    rows = [json.loads(line) | {"seconds": "long"} for line in lines]
    RunFolder(run).metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer().fit(DATA, steps=3, batch_size=8, out=run, log_every=1, resume=True, progress=False)
    assert RunFolder(run).read_metrics()[-1]["seconds"] > 0


def other_size(picture: Path) -> None:
    Image.new("RGB", (7, 5)).save(picture)


def flipped(picture: Path) -> None:
    data = bytearray(picture.read_bytes())
    data[len(data) // 2] ^= 0x40
    picture.write_bytes(data)


PICTURES = {
    "empty": lambda picture: picture.write_bytes(b""),
    "no picture": lambda picture: picture.write_bytes(b"not a picture" * 99),
    "of a few bytes": lambda picture: os.truncate(picture, 20),
    "cut": lambda picture: os.truncate(picture, picture.stat().st_size // 2),
    "flipped": flipped,
    "of another size": other_size,
    "of 10^10 pixels": lambda picture: picture.write_bytes(_enlarged(picture.read_bytes(), 100_000)),
}


def _enlarged(png: bytes, side: int) -> bytes:
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("damage", PICTURES)
def test_a_damaged_picture_is_left_out_of_the_animation(damage: str, step: int, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    for number in range(4):
        Image.effect_noise((40, 30), 9.0).save(folder.samples / f"step_{number:08d}.png")
    picture = folder.pictures()[step]
    PICTURES[damage](picture)
    before = picture.read_bytes()
    folder.finish({"steps": 3})
    assert (tmp_path / "summary.json").exists() and picture.read_bytes() == before
    if damage != "of another size" or step < 3:  # the newest one says the size
        with Image.open(tmp_path / "samples.gif") as animation:
            assert animation.n_frames == 3 and animation.size == (40, 30)
