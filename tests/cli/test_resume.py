"""How --resume takes up a run: from any folder, without its configuration, and from before its first checkpoint."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tyro", reason="the command needs tyro")

from fastgan import cli
from fastgan.cli.command import UsageError
from fastgan.cli.train import DOWNLOADS, Train, resumed
from fastgan.training import checkpoint
from fastgan.training.report import RunFolder
from tests.training.test_stops import newest, rows

pytestmark = pytest.mark.usefixtures("one_thread")
RUN = ("--data", "ring", "--batch-size", "4", "--checkpoint-every", "0", "--log-every", "1", "--sample-every", "0")


def train(out: Path | str, *flags: object) -> int:
    return cli.main(["train", "--out", str(out), *map(str, flags)])


def config(out: Path) -> dict[str, Any]:
    return json.loads((out / "config.json").read_text())


def looks(out: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    assert train(tmp_path / "begun", *RUN, "--steps", 2, "--loss", "hinge", "--seed", 7) == 0
    return tmp_path / "begun"


def test_a_run_goes_on_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose flags named its data as they are seen from where it began."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "set").mkdir(parents=True)
    there.mkdir()
    pixels = struct.pack(">IIII", 0x803, 32, 2, 2) + bytes(128)
    (here / "set" / "train-images-idx3-ubyte").write_bytes(pixels)
    monkeypatch.chdir(here)
    flags = [flag.replace("ring", "idx") for flag in RUN]
    assert train("run", *flags, "--steps", 2, "--data-root", "set") == 0
    assert config(here / "run")["command"]["data_root"] == str(here / "set")
    monkeypatch.chdir(there)
    assert train("../here/run", "--resume", "--steps", 3) == 0
    (here / "set").rename(there / "moved")
    assert train("../here/run", "--resume", "--steps", 4) == 2
    assert train("../here/run", "--resume", "--steps", 4, "--data-root", "moved") == 0


@pytest.mark.parametrize(
    ("flags", "root"),
    [
        (dict(data="mnist"), DOWNLOADS.absolute()),
        (dict(data="mnist", data_root=Path("a")), Path("a").absolute()),
        (dict(data="mnist", data_root=Path("~/a")), Path.home() / "a"),
        (dict(data="ring"), None),
    ],
)
def test_where_the_data_are_is_remembered_whole(flags: dict[str, Any], root: Path | None) -> None:
    saved = Train(**flags).to_config()
    assert saved["data_root"] == (root and str(root)) and json.loads(json.dumps(saved)) == saved
    assert Train.from_config(saved).data_root == root


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", None])
def test_a_lost_configuration_is_made_up_for_by_the_flags(text: str | None, begun: Path, capsys, caplog) -> None:
    """Which the checkpoint's own configuration is compared with."""
    (begun / "config.json").unlink() if text is None else (begun / "config.json").write_text(text)
    assert train(begun, "--resume", *RUN, "--steps", 3) == 2
    assert "was trained with another loss: hinge there, nonsaturating here" in capsys.readouterr().err
    assert newest(begun) == 2
    assert train(begun, "--resume", *RUN, "--steps", 3, "--loss", "hinge", "--seed", 7) == 0
    assert newest(begun) == 3 and config(begun)["command"]["loss"] == "hinge"
    assert "the flags given are taken, and compared with the checkpoint" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", 5), ("seed", "7"), ("seed", 7.5), ("ema", "x"), ("resume", 1), ("engine", "fast"), ("data_root", 3), ("out", {})],
)
def test_flags_of_another_kind_are_damage(name: str, value: Any, begun: Path, capsys) -> None:
    content = config(begun)
    content["command"][name] = value
    (begun / "config.json").write_text(json.dumps(content))
    assert train(begun, "--resume", "--steps", 3) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"the flags in its config.json are damaged: --{name.replace('_', '-')} is {value!r}" in said


def test_flags_of_every_kind_come_back() -> None:
    for flags in (Train(), Train(ema=0.5, steps=3, data_root=Path("/a"), engine="autograd", g_lr="1e-3", resume=True)):
        assert Train.from_config(json.loads(json.dumps(flags.to_config()))) == flags
    assert Train.from_config({"ema": 1, "unknown": 3}) == Train(ema=1)


# a run that was killed before its first checkpoint


@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a claim", "a claim without a configuration"])
def test_a_run_without_a_checkpoint_begins(what: str, tmp_path: Path, caplog) -> None:
    out = tmp_path / "run"
    if what == "an empty folder":
        out.mkdir()
    elif "claim" in what:
        flags = ["--loss", "hinge", "--seed", "7"]
        command = Train(data="ring", batch_size=4, steps=9, loss="hinge", seed=7, log_every=1, sample_every=0)
        folder = RunFolder(out)
        folder.lock()
        folder.create()
        folder.write_json("config.json", {"fastgan": "0", "command": command.to_config()})
        folder.unlock()
        (out / "checkpoints" / ".step_00000000.0123abcd.partial").mkdir()
        if what != "a claim":
            (out / "config.json").unlink()
            given: list[object] = [*RUN, "--steps", 3, *flags]
        else:
            given = ["--steps", 3, "--ema", 0.5]
    if "claim" not in what:
        given = [*RUN, "--steps", 3]
    assert train(out, "--resume", *given) == 0
    assert "starting at step 0" in caplog.text and rows(out) == [1, 2, 3]
    saved = config(out)
    assert saved["data"]["name"] == "ring" and saved["command"]["batch_size"] == 4
    assert (saved["loss"], saved["seed"]) == (("hinge", 7) if "claim" in what else ("nonsaturating", 0))
    assert saved["ema"] == (0.5 if what == "a claim" else None)
    assert not [path for path in out.rglob("*") if path.name[0] == "."]


@pytest.mark.parametrize("trace", ["a row", "a picture", "a damaged checkpoint", "an empty checkpoint"])
def test_a_run_that_left_a_trace_is_not_begun_anew(trace: str, begun: Path, capsys) -> None:
    for place in (begun / "checkpoints").iterdir():
        (place / "state.pt").unlink()
        if trace != "a damaged checkpoint":
            for file in place.iterdir():
                file.unlink()
            if trace != "an empty checkpoint":
                place.rmdir()
    if trace != "a row":
        (begun / "metrics.jsonl").unlink()
    if trace == "a picture":
        (begun / "samples" / "step_00000002.png").touch()
    before = looks(begun)
    assert train(begun, "--resume", *RUN, "--loss", "hinge", "--seed", 7, "--steps", 3) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "holds a run without a whole checkpoint, which cannot be continued, and was left untouched" in said
    assert "begin anew without --resume, and choose another --out" in said
    assert looks(begun) == before


def test_a_finished_run_that_lost_its_pictures_has_them_again(begun: Path) -> None:
    summary = json.loads((begun / "summary.json").read_text())
    for name in ("losses.png", "summary.json"):
        (begun / name).unlink()
    assert train(begun, "--resume") == 0
    assert (begun / "losses.png").exists() and json.loads((begun / "summary.json").read_text()) == summary


def test_a_run_of_another_program_needs_its_own(tmp_path: Path, begun: Path) -> None:
    content = config(begun) | {"command": {}}
    (begun / "config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"was not started by this command: resume it with Trainer.fit\(..., resume=True\)"):
        resumed(Train(out=begun, resume=True), ["train", "--resume", "--out", str(begun)])


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(begun: Path, capsys, caplog) -> None:
    assert train(begun, "--resume", "--steps", 4) == 0
    newer = checkpoint.latest(begun / "checkpoints")
    assert newer and newer.name == "step_00000004"
    (newer / "state.pt").write_bytes(b"torn")
    assert train(begun, "--resume", "--steps", 5) == 0
    assert "a damaged checkpoint is passed over" in caplog.text and "step_00000004/state.pt" in caplog.text
    assert "at step 2" in caplog.text and newest(begun) == 5 and rows(begun) == [1, 2, 3, 4, 5]
