"""Every option of a trainer and a run: what it changes is seen in training, after load and restore, and in a resumed run."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgan import Trainer, optim, penalties
from fastgan.mlp import MLP
from fastgan.training import checkpoint
from fastgan.training.checkpoint import CheckpointError
from fastgan.training.fit import FitOptions, NonFiniteError

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1
BASE: dict[str, Any] = dict(loss="nonsaturating", precision="fp32", seed=5, device="cpu")

# an option, a value that makes another run of the base, and whether `restore` must refuse the base's trainer for it
OPTIONS: dict[str, tuple[Any, bool]] = {
    "loss": ("hinge", True),
    "penalty": (penalties.R1(1.0, every=2), True),
    "g_optimizer": (optim.SGD(0.05, momentum=0.5), True),
    "d_optimizer": (optim.RMSprop(optim.linear(1e-2, steps=8)), True),
    "d_steps": (2, True),
    "ema": (0.5, True),
    "precision": ("bf16", False),  # of the machine that goes on
    "engine": ("autograd", False),
    "seed": (6, True),
}
# what changes no number of a run on a CPU
NO_NUMBERS = {"generator", "discriminator", "device", "capture", "steps_per_graph"}


def networks() -> tuple[MLP, MLP]:
    torch.manual_seed(0)
    return MLP((3, 8, 6), output="tanh"), MLP((6, 8, 1), activation="leaky_relu", dropout=0.3)


def trainer(**options: Any) -> Trainer:
    return Trainer(*networks(), **BASE | options).attach(ROWS, 8)


def numbers(of: Trainer) -> list[Tensor]:
    """All that the run has made: weights, optimizer states, counters, samples."""
    found: list[Tensor] = []

    def walk(value: Any) -> None:
        for inner in value.values() if isinstance(value, dict) else [value]:
            walk(inner) if isinstance(inner, dict) else found.append(torch.as_tensor(inner).detach().clone())

    walk(of.state_dict())
    return [*found, of.sample(3), of.sample(3, ema=False)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def test_the_table_has_every_option() -> None:
    assert set(inspect.signature(Trainer).parameters) == OPTIONS.keys() | NO_NUMBERS


@pytest.fixture(scope="module")
def base() -> list[Tensor]:
    run = trainer()
    run.step(6)
    return numbers(run)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_makes_another_run(name: str, base: list[Tensor]) -> None:
    run = trainer(**{name: OPTIONS[name][0]})
    run.step(6)
    assert not same(numbers(run), base)


@pytest.mark.parametrize("name", OPTIONS)
def test_load_knows_the_option(name: str, tmp_path: Path) -> None:
    run = trainer(**{name: OPTIONS[name][0]})
    run.step(4)
    run.save(tmp_path / "c")
    loaded = Trainer.load(tmp_path / "c", *networks(), device="cpu").attach(ROWS, 8)
    assert same(numbers(loaded), numbers(run))
    run.step(3)
    loaded.step(3)
    assert same(numbers(loaded), numbers(run)) and loaded.config() == run.config()


@pytest.mark.parametrize("name", OPTIONS)
def test_restore_goes_on_or_names_what_differs(name: str, tmp_path: Path) -> None:
    run = trainer(**{name: OPTIONS[name][0]})
    run.step(4)
    run.save(tmp_path / "c")
    again = trainer(**{name: OPTIONS[name][0]})
    again.restore(tmp_path / "c")
    run.step(3)
    again.step(3)
    assert same(numbers(again), numbers(run))
    if OPTIONS[name][1]:
        other = trainer()
        before = numbers(other)
        with pytest.raises(CheckpointError, match={"ema": "ema|average"}.get(name, name)):
            other.restore(tmp_path / "c")
        assert same(numbers(other), before) and other.step_count == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_run_has_the_option(name: str, tmp_path: Path) -> None:
    value = OPTIONS[name][0]
    whole, start, resumed = (Trainer(*networks(), **BASE | {name: value}) for _ in range(3))
    whole.fit(ROWS, steps=7, batch_size=8, progress=False)
    start.fit(ROWS, steps=3, batch_size=8, out=tmp_path / "r", progress=False)
    resumed.fit(ROWS, steps=7, batch_size=8, out=tmp_path / "r", resume=True, progress=False)
    assert same(numbers(resumed), numbers(whole))
    assert json.loads((tmp_path / "r/config.json").read_text())["seed"] == (6 if name == "seed" else 5)


def test_another_batch_size_is_another_run(base: list[Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Trainer(*networks(), **BASE).attach(ROWS, 4)
    run.step(6)
    assert not same(numbers(run), base)
    run.save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="data"):
        trainer().restore(tmp_path / "c")
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        Trainer.load(tmp_path / "c", *networks(), device="cpu").attach(ROWS, 8)
    assert "other data or another batch size" in caplog.text


def test_counters_go_on_after_load_and_restore(tmp_path: Path) -> None:
    """What was withheld before is counted on, once."""
    run = trainer(d_optimizer=optim.SGD(1e38))
    run.step(8)
    assert run.skipped > 0
    run.save(tmp_path / "c")
    loaded = Trainer.load(tmp_path / "c", *networks(), device="cpu").attach(ROWS, 8)
    again = trainer(d_optimizer=optim.SGD(1e38))
    again.step(2)
    again.restore(tmp_path / "c")
    assert loaded.skipped == again.skipped == run.skipped and loaded.step_count == again.step_count == 8
    for one in (run, loaded, again):
        one.step(4)
    assert loaded.skipped == again.skipped == run.skipped


@pytest.mark.parametrize(
    ("d_steps", "batch_size", "steps"), [(1, 8, 5), (2, 8, 3), (5, 8, 1), (1, 40, 1), (3, 7, 2), (1, 16, 3)]
)
def test_an_epoch_is_one_pass_of_the_critic_over_the_data(d_steps: int, batch_size: int, steps: int) -> None:
    run = Trainer(*networks(), **BASE | {"d_steps": d_steps}).attach(ROWS, batch_size)
    assert run.steps_per_epoch() == steps
    summary = run.fit(ROWS, epochs=2, batch_size=batch_size, progress=False)
    assert summary["steps"] == run.step_count == 2 * steps and summary["epochs"] == 2


# -- what a run reports


def reported(folder: Path, **options: Any) -> Any:
    run = Trainer(*networks(), **BASE | options.pop("trainer", {}))
    arguments = dict(steps=12, batch_size=8, out=folder, progress=False) | options
    return run, run.fit(ROWS, **arguments)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.split("_")[-1]) for path in (folder / "checkpoints").iterdir())


def pictures(folder: Path) -> int:
    return len([*(folder / "samples").glob("*.png")])


REPORTING: dict[str, Callable[[Path], bool]] = {
    "steps": lambda f: reported(f, steps=7)[0].step_count == 7,
    "epoch_steps": lambda f: reported(f, steps=None, epochs=1)[0].step_count == 5,
    "out": lambda f: reported(f, out=None)[0].step_count == 12 and not f.exists(),
    "resume": lambda f: reported(f) and reported(f, steps=14, resume=True)[0].step_count == 14,
    "log_every": lambda f: bool(reported(f, log_every=4)) and [row["step"] for row in rows(f)] == [4, 8, 12],
    "sample_every": lambda f: bool(reported(f, sample_every=5)) and pictures(f) == 4,
    "checkpoint_every": lambda f: bool(reported(f, checkpoint_every=5, keep=9)) and checkpoints(f) == [0, 5, 10, 12],
    "keep": lambda f: bool(reported(f, checkpoint_every=2, keep=2)) and checkpoints(f) == [0, 10, 12],
    "on_nonfinite": lambda f: reported(f, on_nonfinite="skip", trainer={"d_optimizer": optim.SGD(1e38)})[0].skipped > 0,
    "command": lambda f: bool(reported(f, command={"a": 1})) and config(f)["command"] == {"a": 1},
}


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", REPORTING)
def test_an_option_of_a_run_does_what_it_says(name: str, tmp_path: Path) -> None:
    assert REPORTING[name](tmp_path / "r")


def test_the_table_of_reporting_is_whole() -> None:
    assert {field.name for field in fields(FitOptions)} == REPORTING.keys() | {"progress"}


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_or_not(shown: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO, logger="fastgan"):
        Trainer(*networks(), **BASE).fit(ROWS, steps=4, batch_size=8, log_every=2, progress=shown)
    said = capsys.readouterr()
    assert bool(said.out + said.err + caplog.text) is shown


def test_a_value_that_is_not_finite_stops_a_run_unless_it_is_skipped(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        reported(tmp_path / "r", trainer={"d_optimizer": optim.SGD(1e38)})


def test_what_was_skipped_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each row's warning counts what came since the row before."""
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        run, _ = reported(tmp_path / "r", steps=8, log_every=2, on_nonfinite="skip", trainer={"d_optimizer": optim.SGD(1e38)})
    counts = [0, *(row["skipped"] for row in rows(tmp_path / "r"))]
    said = [int(count) for count in re.findall(r"(\d+) updates or weights were left alone", caplog.text)]
    assert said == [after - before for before, after in itertools.pairwise(counts) if after > before]
    assert len(said) > 1 and counts[-1] == run.skipped


@pytest.mark.parametrize("d_steps", [1, 3])
def test_images_a_second_count_every_update_of_the_critic(d_steps: int, tmp_path: Path) -> None:
    _, summary = reported(tmp_path / "r", steps=10, trainer={"d_steps": d_steps})
    images = summary["images_per_second"] * summary["seconds"]
    assert images == pytest.approx(10 * 8 * d_steps, rel=0.02)


@pytest.mark.parametrize("keep", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_pruning_keeps_the_first_and_the_newest(keep: int, count: int, tmp_path: Path) -> None:
    run = trainer()
    steps = [3 * number for number in range(count)]
    for step in steps:
        run.step_count = step
        run.save(checkpoint.step_folder(tmp_path, step))
    checkpoint.prune(tmp_path, keep)
    left = sorted(int(path.name.split("_")[-1]) for path in tmp_path.iterdir())
    assert left == sorted({steps[0], *steps[-keep:]})
    newest = checkpoint.latest(tmp_path)
    assert newest is not None and newest.name == checkpoint.step_folder(tmp_path, steps[-1]).name
