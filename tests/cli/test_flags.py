"""Every flag of `fastgan train` and `fastgan sample` reaches what it is for, in a new run and in a resumed one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("tyro", reason="the command needs tyro")

from fastgan import cli, optim, penalties
from fastgan.cli.sample import Sample
from fastgan.cli.train import FREE, Train
from fastgan.training import report
from fastgan.training.fit import Fit
from fastgan.training.trainer import Trainer

BASE = ("--data", "ring", "--device", "cpu", "--batch-size", "8")


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Fit]:
    """What a line of flags is about to run; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    runs: list[Fit] = []
    monkeypatch.setattr(Fit, "run", lambda self: runs.append(self) or {"steps": 0, "seconds": 0.0})

    def prepare(*flags: object) -> Fit:
        assert cli.main(["train", *BASE, "--out", "r", *map(str, flags)]) == 0
        assert runs[-1].folder is not None
        runs[-1].folder.unlock()
        return runs.pop()

    return prepare


def trainer_of(fit: Fit) -> Trainer:
    assert isinstance(fit.trainer, Trainer)
    return fit.trainer


# a flag, its value, and what it reaches with that value
FLAGS: dict[str, tuple[object, Callable[[Fit], Any], Any]] = {
    "loss": ("hinge", lambda f: trainer_of(f).loss, "hinge"),
    "penalty": ("r1:5:2", lambda f: trainer_of(f).penalties, (penalties.R1(5.0, every=2),)),
    "epochs": (3, lambda f: f.options.steps, 3 * 6250),
    "steps": (7, lambda f: f.options.steps, 7),
    "batch_size": (16, lambda f: trainer_of(f).batch_size, 16),
    "seed": (9, lambda f: trainer_of(f).seed, 9),
    "device": ("cpu", lambda f: str(trainer_of(f).device), "cpu"),
    "precision": ("fp64", lambda f: trainer_of(f).precision, "fp64"),
    "engine": ("autograd", lambda f: trainer_of(f).engine, "autograd"),
    "out": ("other", lambda f: str(f.options.out), "other"),
    "d_steps": (3, lambda f: trainer_of(f).d_steps, 3),
    "ema": (0.75, lambda f: trainer_of(f).ema, 0.75),
    "g_optimizer": ("sgd:momentum=0.5", lambda f: trainer_of(f)._game.generator.spec, optim.SGD(momentum=0.5)),
    "d_optimizer": ("rmsprop:alpha=0.9", lambda f: trainer_of(f)._game.discriminator.spec, optim.RMSprop(alpha=0.9)),
    "g_lr": ("0.125", lambda f: trainer_of(f)._game.generator.spec.lr, 0.125),
    "d_lr": ("linear:1:0:9", lambda f: trainer_of(f)._game.discriminator.spec.lr, optim.linear(1.0, steps=9)),
    "sample_every": (3, lambda f: f.options.sample_every, 3),
    "checkpoint_every": (4, lambda f: f.options.checkpoint_every, 4),
    "keep": (5, lambda f: f.options.keep, 5),
    "log_every": (6, lambda f: f.options.log_every, 6),
    "on_nonfinite": ("skip", lambda f: f.options.on_nonfinite, "skip"),
}
ELSEWHERE = {"data", "data_root", "capture", "resume"}  # below


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_the_table_has_every_flag() -> None:
    assert {field.name for field in fields(Train)} == FLAGS.keys() | ELSEWHERE


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_reaches_what_it_is_for(name: str, prepared: Callable[..., Fit]) -> None:
    value, read, expected = FLAGS[name]
    without = prepared()
    assert name == "device" or read(without) != expected
    with_it = prepared("--out", "with", flag(name), value)
    assert read(with_it) == expected
    # a rate or an optimizer of one network is not the other's
    if name.startswith(("g_", "d_o", "d_l")):
        other = "discriminator" if name.startswith("g_") else "generator"
        assert getattr(trainer_of(with_it)._game, other).spec == getattr(trainer_of(without)._game, other).spec


@pytest.mark.parametrize("name", sorted(FLAGS.keys() - FREE))
def test_a_resumed_run_keeps_a_flag_that_is_not_said_again(name: str, prepared: Callable[..., Fit]) -> None:
    value, read, expected = FLAGS[name]
    started = prepared(flag(name), value, "--steps", 5)
    trainer_of(started).save(started.folder.checkpoints / "step_00000000")  # type: ignore[union-attr]
    resumed = prepared("--resume") if name != "batch_size" else prepared("--resume", "--batch-size", value)
    assert read(resumed) == expected and resumed.options.steps == 5


@pytest.mark.parametrize("name", sorted(FLAGS.keys() - FREE))
def test_a_resumed_run_refuses_another_value(
    name: str, prepared: Callable[..., Fit], capsys: pytest.CaptureFixture[str]
) -> None:
    started = prepared("--steps", 5)
    trainer_of(started).save(started.folder.checkpoints / "step_00000000")  # type: ignore[union-attr]
    capsys.readouterr()
    line = ["train", *BASE, "--out", "r", "--resume", flag(name), str(FLAGS[name][0])]
    assert cli.main(line) == 2
    assert f"{flag(name)} differs" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(FLAGS.keys() & FREE - {"device", "out", "epochs"}))
def test_a_resumed_run_takes_another_value_of_a_free_flag(name: str, prepared: Callable[..., Fit]) -> None:
    value, read, expected = FLAGS[name]
    started = prepared("--epochs", 1)
    trainer_of(started).save(started.folder.checkpoints / "step_00000000")  # type: ignore[union-attr]
    assert read(prepared("--resume", flag(name), value)) == expected


@pytest.mark.parametrize("total", ["steps", "epochs"])
def test_a_total_of_zero_is_a_total(total: str, prepared: Callable[..., Fit]) -> None:
    assert prepared(flag(total), 0).options.steps == 0


def test_the_default_is_a_hundred_epochs(prepared: Callable[..., Fit]) -> None:
    assert prepared().options.steps == 100 * 6250


def test_captures_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, prepared: Callable[..., Fit]) -> None:
    given: list[str] = []
    original = Trainer.__init__

    def spy(self: Trainer, *networks: Any, **options: Any) -> None:
        given.append(options["capture"])
        original(self, *networks, **options)

    monkeypatch.setattr(Trainer, "__init__", spy)
    prepared()
    prepared("--out", "s", "--capture", "off")
    assert given == ["auto", "off"]


def test_data_and_their_folder_are_passed_on(monkeypatch: pytest.MonkeyPatch, prepared: Callable[..., Fit]) -> None:
    from fastgan import data

    asked: list[tuple[Any, ...]] = []
    ring = data.load("ring")

    def load(name: str, root: Path | None = None, *, download: bool = False) -> data.ImageSet:
        asked.append((name, root, download))
        return ring

    monkeypatch.setattr(data, "load", load)
    prepared("--data", "grid")
    prepared("--out", "s", "--data", "mnist", "--data-root", "files")
    prepared("--out", "t", "--data", "fashion")
    assert asked == [("grid", None, False), ("mnist", Path("files"), False), ("fashion", Path("data"), True)]


@pytest.fixture(scope="module")
def checkpoint(make_once: Callable[..., Path]) -> Path:
    """A checkpoint whose averaged weights are not its weights."""

    def make(folder: Path) -> None:
        flags = ["--data", "ring", "--steps", "4", "--batch-size", "8", "--ema", "0.9", "--device", "cpu", "--seed", "3"]
        assert cli.main(["train", *flags, "--out", str(folder / "run")]) == 0

    return make_once("run_with_average", make) / "run"


def test_flags_of_sample_reach_the_samples(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Path, torch.Tensor]] = []
    monkeypatch.setattr(report, "write_grid", lambda path, samples, *rest, **options: drawn.append((Path(path), samples)))

    def samples(*flags: object) -> tuple[Path, torch.Tensor]:
        assert cli.main(["sample", str(checkpoint), "--out", str(tmp_path / "a.png"), *map(str, flags)]) == 0
        return drawn.pop()

    trainer = Trainer.load(checkpoint, device="cpu")
    path, plain = samples()
    assert path == tmp_path / "a.png" and torch.equal(plain, trainer.sample(64))
    assert samples("-n", 5)[1].shape == (5, 2)
    assert torch.equal(samples("--seed", 8)[1], trainer.sample(64, seed=8)) and not torch.equal(samples("--seed", 8)[1], plain)
    assert torch.equal(samples("--no-ema")[1], trainer.sample(64, ema=False)) and not torch.equal(samples("--no-ema")[1], plain)
    assert samples("--out", tmp_path / "b.png")[0] == tmp_path / "b.png"
    assert {field.name for field in fields(Sample)} == {"run_folder", "n", "out", "seed", "ema", "device"}


def test_the_device_of_sample_is_looked_for(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["sample", str(checkpoint), "--device", "cuda:77", "--out", str(tmp_path / "a.png")]
    assert cli.main(line) == 2 and "cuda:77" in capsys.readouterr().err
    assert json.loads((checkpoint / "config.json").read_text())["command"]["ema"] == 0.9
