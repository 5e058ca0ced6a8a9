"""The command line: real processes for what they alone show, main() in this process for the many kinds of bad input."""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("tyro", reason="the command needs tyro")

import fastgan as fastgan_package
from fastgan import cli
from fastgan.cli import commands, train

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "FASTGAN_BACKEND"}


def fastgan(*arguments: object, cwd: Path, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fastgan", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, **options)


def here(*arguments: object) -> int:
    """The exit code of the command in this process, which need not import everything again."""
    return cli.main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def run(make_once: Callable[..., Path]) -> Path:
    """A finished run of ten steps on `ring`, the quickest data set."""

    def make(folder: Path) -> None:
        flags = ("--data", "ring", "--steps", 10, "--batch-size", 8, "--log-every", 5, "--out", "run")
        done = fastgan("train", *flags, cwd=folder)
        assert done.returncode == 0, done.stderr

    return make_once("run_of_the_command", make) / "run"


@pytest.mark.slow
def test_train_writes_a_run_and_plain_lines(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "metrics.jsonl", "samples", "samples.gif", "losses.png", "checkpoints", "summary.json"} <= names
    assert json.loads((run / "summary.json").read_text())["steps"] == 10
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == [5, 10]


@pytest.mark.slow
def test_resume_continues_and_prints_lines_when_not_a_terminal(run, tmp_path):
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    done = fastgan("train", "--resume", "--out", copy, "--steps", 14, "--log-every", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stderr and "step 14/14" in done.stdout and "\x1b" not in done.stdout
    assert [json.loads(line)["step"] for line in (copy / "metrics.jsonl").open()] == [5, 10, 12, 14]


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    assert here("train", "--resume", "--out", copy, "--steps", 13) == 0
    flags = ("--data", "ring", "--steps", 13, "--batch-size", 8)
    assert here("train", *flags, "--out", tmp_path / "whole") == 0
    for name in ("generator.safetensors", "discriminator.safetensors"):
        both = [(folder / "checkpoints" / "step_00000013" / name).read_bytes() for folder in (copy, tmp_path / "whole")]
        assert both[0] == both[1]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--seed", "1"], ["--loss", "lsgan"], ["--batch-size", "16"], ["--data", "grid"]])
def test_resume_refuses_what_would_change_past_draws(run, flags, capsys):
    assert cli.main(["train", "--resume", "--out", str(run), *flags]) == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "message"), [("", "it has run: name the run"), ("run/checkpoints", "continue that one with --out")]
)
def test_resume_begins_no_run_among_other_files(place: str, message: str, tmp_path: Path, capsys) -> None:
    flags = ("--data", "ring", "--batch-size", 8, "--steps", 0)
    assert here("train", *flags, "--out", tmp_path / "run") == 0
    before = sorted(tmp_path.rglob("*"))
    assert here("train", *flags, "--resume", "--out", tmp_path / place) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_resume_allows_repeated_flags_and_new_totals(run):
    command = commands.parse(["train", "--resume", "--out", str(run), "--data", "ring", "--batch-size", "8", "--epochs", "3"])
    assert isinstance(command, train.Train)
    assert (command.epochs, command.steps, command.batch_size, command.data) == (3, None, 8, "ring")


@pytest.mark.slow
def test_sample_draws_a_picture(run, tmp_path):
    assert here("sample", run, "-n", 16, "--out", tmp_path / "points.png") == 0
    assert Image.open(tmp_path / "points.png").size[0] > 100


@pytest.mark.parametrize(("shape", "width"), [((3, 12, 16), 38), ((1, 20, 30), 66)], ids=["colours", "not square"])
def test_sample_draws_the_datas_shape(shape: tuple[int, ...], width: int, tmp_path: Path) -> None:
    features = torch.Size(shape).numel()
    pair = fastgan_package.Generator(image_size=features), fastgan_package.Discriminator(image_size=features)
    trainer = fastgan_package.Trainer(*pair, device="cpu", ema=0.5)
    trainer.attach(torch.randint(0, 256, (8, *shape), dtype=torch.uint8), 4).save(tmp_path / "saved")
    for flag in ("--ema", "--no-ema"):
        assert here("sample", tmp_path / "saved", "-n", 4, flag, "--out", tmp_path / "Drawn.PNG") == 0
        assert Image.open(tmp_path / "Drawn.PNG").size == (width, 2 * (shape[1] + 2) + 2)


def test_sample_says_that_no_picture_shows_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = fastgan_package.Generator(image_size=128), fastgan_package.Discriminator(image_size=128)
    fastgan_package.Trainer(*pair, device="cpu").attach(torch.zeros(8, 8, 4, 4), 4).save(tmp_path / "saved")
    assert here("sample", tmp_path / "saved", "--out", tmp_path / "drawn.png") == 2
    said = capsys.readouterr().err
    assert "samples of shape (8, 4, 4) have no picture" in said and ".sample(64)" in said
    assert not (tmp_path / "drawn.png").exists()


@pytest.mark.parametrize("flag", ["--epochs", "--steps"])
def test_nothing_at_all_is_trained_where_that_is_asked(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--data", "ring", "--batch-size", 8, "--out", tmp_path / "run")
    assert here("train", *flags, flag, 0) == 0
    assert "0 steps" in capsys.readouterr().out and (tmp_path / "run" / "config.json").exists()
    assert here("train", *flags, "--resume", "--steps", 2) == 0
    assert here("train", "--resume", "--out", tmp_path / "run", flag, 0) == 0
    assert "2 steps" in capsys.readouterr().out
    assert here("train", "--resume", "--out", tmp_path / "run", "--epochs", 0, "--steps", 0) == 2


def test_a_folder_that_is_gone_while_a_run_trains_is_a_short_message(tmp_path: Path, monkeypatch, capsys) -> None:
    from fastgan.training import checkpoint

    def gone(*_: object) -> None:
        raise checkpoint.CheckpointError("the folder cannot be written")

    monkeypatch.setattr(checkpoint, "save", gone)
    assert here("train", "--data", "ring", "--batch-size", 8, "--steps", 1, "--out", tmp_path / "run") == 2
    assert capsys.readouterr().err == "fastgan: the folder cannot be written\n"


@pytest.mark.slow
def test_doctor_names_every_operator_and_a_reason(capsys):
    assert here("doctor") == 0
    said = capsys.readouterr().out
    operators = ("loss.d_loss", "update.update_", "sample.normals", "linear.linear", "penalty.norm_penalty")
    assert not [word for word in ("torch", "extension", *operators) if word not in said]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_exits(number, code, tmp_path):
    command = [sys.executable, "-m", "fastgan", "train", "--data", "ring", "--steps", "1000000", "--log-every", "1"]
    command += ["--out", "run", "--sample-every", "0", "--checkpoint-every", "0"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in errors
    last = max(json.loads(line)["step"] for line in metrics.open())
    saved = max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == f"step_{last:08d}"
    assert here("train", "--resume", "--out", tmp_path / "run", "--steps", last + 2) == 0


BAD = [
    pytest.param(["train", "--loss", "foo"], "nonsaturating", id="unknown objective"),
    pytest.param(["train", "--data", "cifar"], "digits", id="unknown data"),
    pytest.param(["train", "--batch-size", "0"], "batch_size must be", id="batch size 0"),
    pytest.param(["train", "--batch-size", "-3"], "batch_size must be", id="negative batch size"),
    pytest.param(["train", "--g-lr", "-1"], "lr", id="negative rate"),
    pytest.param(["train", "--d-lr", "nan"], "lr", id="rate nan"),
    pytest.param(["train", "--g-optimizer", "no-such-rule"], "adam", id="unknown optimizer"),
    pytest.param(["train", "--penalty", "r9"], "gp", id="unknown penalty"),
    pytest.param(["train", "--penalty", "r1:-2"], "gamma", id="negative penalty"),
    pytest.param(
        ["train", "--penalty", "gp:1:2:3"],
        "[:EVERY]]: gp takes 2 of these numbers at most, got 3",
        id="a penalty of three numbers",
    ),
    pytest.param(
        ["train", "--data", "ring", "--data-root", "."], "ring reads no files, got --data-root .: leave", id="ring's root"
    ),
    pytest.param(["train", "--data-root", "."], "digits reads no files, got --data-root", id="the digits' root"),
    pytest.param(["train", "--data", "cifar", "--data-root", "."], "unknown data set", id="unknown data with a root"),
    pytest.param(["train", "--epochs", "2", "--steps", "3"], "either", id="epochs and steps"),
    pytest.param(["train", "--epochs", "0", "--steps", "0"], "either", id="no epochs and no steps"),
    pytest.param(["train", "--epochs", "-1"], "epochs", id="negative epochs"),
    pytest.param(["train", "--steps", "-3"], "steps", id="negative steps"),
    pytest.param(["train", "--seed", "-1"], "seed", id="negative seed"),
    pytest.param(["train", "--ema", "1.5"], "ema", id="average out of range"),
    pytest.param(["train", "--device", "cuda:9"], "device", id="a device that is not there"),
    pytest.param(["train", "--device", "toaster"], "device", id="no such device"),
    pytest.param(["train", "--precision", "fp12"], "precision", id="unknown precision"),
    pytest.param(["train", "--data", "mnist", "--data-root", "nowhere"], "--data digits", id="data folder missing"),
    pytest.param(["train", "--data", "idx"], "idx", id="idx without a folder"),
    pytest.param(["train", "--resume"], "--out", id="resume without a folder"),
    pytest.param(["train", "--log-every", "0"], "log_every must be", id="no reports"),
    pytest.param(["sample", "nowhere"], "no checkpoint", id="sample without a run"),
    pytest.param(["sample", "nowhere", "--out", "a.txt"], "ending .txt, which says no format; choose one of .png, ", id="text"),
    pytest.param(["sample", "nowhere", "--out", "a.npy"], "ending .npy", id="numbers"),
    pytest.param(["sample", "nowhere", "--out", "a"], "no ending", id="no ending"),
    pytest.param(["sample", "nowhere", "--out", ".png"], "no ending", id="an ending alone"),
    pytest.param(["sample", "nowhere", "--out", "..png"], "--out ..png has no ending", id="an ending after two dots"),
    pytest.param(["sample", "nowhere", "--out", "a.png."], "--out a.png. has the ending .,", id="a dot at the end"),
    pytest.param(["sample", "nowhere", "--out", "a\0.png"], "--out must be a path, got 'a\\x00.png'", id="null in a picture"),
    pytest.param(["sample", "a\0b"], "folder must be a path, got 'a\\x00b'", id="null in a run"),
    pytest.param(["train", "--data", "ring", "--out", "a\0b"], "out must be a path", id="null in a folder"),
    pytest.param(["train", "--resume", "--out", "x" * 300], "File name too long", id="a folder's name too long"),
    pytest.param(["sample", "nowhere", "--out", "."], "is a folder; name a picture, such as samples.png", id="a folder"),
    pytest.param(["sample", "nowhere", "--out", "no/a.png"], "the folder of no/a.png does not exist", id="no such folder"),
    pytest.param(["sample", "nowhere", "-n", "0"], "-n must be", id="no samples"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_a_short_message_and_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    text = capsys.readouterr().err
    assert message in text and text.startswith("fastgan: ") and len(text.splitlines()) <= 3
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    "arguments",
    [["train", "--speed", "9"], ["train", "--steps", "many"], ["train", "--on-nonfinite", "panic"], ["fly"], ["sample"]],
    ids=["unknown flag", "not a number", "not a choice", "unknown command", "missing argument"],
)
def test_arguments_that_do_not_parse_end_with_code_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_bad_input_in_a_real_process(tmp_path):
    done = fastgan("train", "--loss", "foo", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "unknown loss" in done.stderr


def idx_pair(folder: Path, *, count: int = 40, side: int = 28, labels: int | None = None) -> Path:
    """A folder of tiny gzip IDX files: `count` images of side x side."""
    folder.mkdir()
    pixels = torch.randint(0, 256, (count * side * side,), dtype=torch.uint8).numpy().tobytes()
    images = struct.pack(">IIII", 0x803, count, side, side) + pixels
    tags = struct.pack(">II", 0x801, labels or count) + bytes(i % 10 for i in range(labels or count))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(tags))
    return folder


def test_idx_files_train_whatever_their_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = idx_pair(tmp_path / "tiny", side=5)
    assert (
        cli.main(["train", "--data", "idx", "--data-root", str(root), "--steps", "2", "--batch-size", "4", "--out", "run"]) == 0
    )
    assert (tmp_path / "run" / "samples" / "step_00000002.png").exists()


@pytest.mark.parametrize("fault", ["truncated", "flipped", "magic", "counts", "not the original"])
def test_damaged_idx_files_are_refused(fault, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = idx_pair(tmp_path / "data", labels=39 if fault == "counts" else None)
    file = root / "train-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    if fault == "truncated":
        content = content[:-20]
    elif fault == "flipped":
        content[len(content) // 2] ^= 4
    elif fault == "magic":
        content = bytearray(gzip.compress(b"\0\0\x08\x01" + gzip.decompress(bytes(content))[4:]))
    file.write_bytes(bytes(content))
    name = "mnist" if fault == "not the original" else "idx"
    assert cli.main(["train", "--data", name, "--data-root", str(root), "--steps", "1"]) == 2
    assert capsys.readouterr().err.startswith("fastgan: ")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_an_existing_folder_without_resume_is_refused_untouched(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert cli.main(["train", "--data", "ring", "--steps", "2", "--out", str(run)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_the_batch_must_divide_by_the_processes(monkeypatch, capsys):
    from fastgan.runtime.distributed import local_rows

    with pytest.raises(ValueError, match="does not divide by 3 processes"):
        local_rows(64, 3)


@pytest.mark.slow
@pytest.mark.mnist
def test_real_mnist_trains(mnist_root, tmp_path):
    assert here("train", "--data", "mnist", "--data-root", mnist_root, "--steps", 5, "--out", tmp_path / "run") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["name"] == "mnist" and config["loss"] == "nonsaturating" and config["d_steps"] == 1


def test_a_value_that_is_not_finite_ends_with_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--data", "ring", "--steps", "8", "--g-optimizer", "sgd", "--g-lr", "1e38", "--device", "cpu", "--out", "run"]
    assert cli.main(["train", *flags]) == 1
    assert "not finite" in capsys.readouterr().err
    assert cli.main(["train", *flags[:-1], "other", "--on-nonfinite", "skip"]) == 0
