"""A run's life on two processes: who writes, how they stop, and how they go on."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fastgan import Interrupted, NonFiniteError, Trainer, optim
from fastgan.mlp import MLP
from fastgan.runtime import distributed
from fastgan.runtime.distributed import World
from fastgan.training import checkpoint, fit
from fastgan.training.fit import Fit, FitOptions
from tests.training.runs import Counting

DATA = torch.linspace(-1, 1, 80).sin().view(40, 2)
REPORTS = dict(log_every=2, sample_every=2, checkpoint_every=2, keep=1)


def trainer(seed: int, **options: Any) -> Trainer:
    """A quick one, with initial weights of this seed."""
    torch.manual_seed(seed)
    networks = MLP((3, 6, 2), output="tanh"), MLP((2, 6, 1), activation="leaky_relu", dropout=0.2)
    fast = dict(g_optimizer=optim.Adam(1e-2), d_optimizer=optim.Adam(1e-2), ema=0.8, d_steps=2)
    return Trainer(*networks, **(dict(precision="fp64", device="cpu", seed=3) | fast | options))


def numbers(of: Trainer) -> dict[str, Any]:
    return {"state": of.state_dict(), "sample": of.sample(3)}


def heard(run: Callable[[], object]) -> str:
    """What a call prints."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run()
    return said.getvalue()


def on_rank(folder: Path, world: World) -> dict[str, Any]:
    """Runs, each of which has a folder of its own on each process: what is there was written by that one."""
    rank = world.rank
    first = trainer(seed=rank)
    printed = heard(lambda: first.fit(DATA, steps=6, batch_size=8, out=folder / f"run{rank}", **REPORTS))
    first.save(folder / f"saved{rank}")
    found: dict[str, Any] = {"printed": printed, "whole": numbers(first)}
    dist.barrier()  # what the first one wrote is there
    later = trainer(seed=rank + 7)
    heard(lambda: later.fit(DATA, steps=10, batch_size=8, out=folder / "run0", resume=True, **REPORTS))
    found["resumed"] = numbers(later)
    found["stopped"] = stopped(folder, rank)
    found["not finite"] = not_finite(folder, rank)
    if importlib.util.find_spec("tyro"):
        from fastgan import cli

        line = ["train", "--data", "ring", "--steps", "2", "--batch-size", "8", "--device", "cpu", "--out"]
        found["command"] = heard(lambda: cli.main([*line, str(folder / f"command{rank}")]))
    return found


def stopped(folder: Path, rank: int) -> dict[str, Any]:
    """A run in which the second process alone gets a signal, after its third step."""
    run = trainer(seed=rank)
    step = run.step

    def interrupted(n: int = 1) -> Any:
        metrics = step(n)
        if rank == 1 and run.step_count == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    run.step = interrupted  # type: ignore[method-assign]
    code = None
    fit.SIGNAL_SECONDS = 1e9  # however long a step takes here
    try:
        run.fit(DATA, steps=40, batch_size=8, out=folder / f"stopped{rank}", log_every=50, sample_every=0, progress=False)
    except Interrupted as stop:
        code = stop.exit_code
    return {"code": code, "steps": run.step_count, **numbers(run)}


def not_finite(folder: Path, rank: int) -> dict[str, Any]:
    """A run whose critic stops being finite."""
    run = trainer(seed=rank)
    with torch.no_grad():
        run.discriminator.layers[-1].bias.fill_(torch.nan)
    message = ""
    try:
        run.fit(DATA, steps=4, batch_size=8, out=folder / f"bad{rank}", log_every=2, progress=False)
    except NonFiniteError as error:
        message = str(error)
    return {"message": message, "steps": run.step_count, "skipped": run.skipped}


@pytest.fixture(scope="module")
def folder(folder_of_ranks: Path) -> Path:
    """Where two processes lived."""
    return folder_of_ranks / "tests.training.test_processes"


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Nested results that agree to the last digits but some."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_equal(found[name], value)
        else:
            torch.testing.assert_close(torch.as_tensor(found[name]), torch.as_tensor(value), rtol=1e-8, atol=1e-10)


def alone(steps: int) -> dict[str, Any]:
    run = trainer(seed=0)
    run.fit(DATA, steps=steps, batch_size=8, progress=False)
    return numbers(run)


@pytest.mark.slow
def test_the_first_process_alone_writes_and_prints(folder: Path, ranks: list[dict]) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"run0", "saved0", "stopped0", "bad0"} <= names and not [name for name in names if name.endswith(("d1", "n1"))]
    assert ranks[0]["printed"].count("step ") >= 3 and ranks[1]["printed"] == ""
    if "command" in ranks[0]:
        assert "2 steps" in ranks[0]["command"] and ranks[1]["command"] == ""
        assert "command0" in names and "command1" not in names


@pytest.mark.slow
def test_a_run_on_two_processes_has_every_row_and_picture_once(folder: Path) -> None:
    run = folder / "run0"
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == [2, 4, 6, 8, 10]
    assert sorted(path.name for path in (run / "samples").iterdir()) == [f"step_{step:08d}.png" for step in range(0, 12, 2)]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000000", "step_00000010"]
    assert json.loads((run / "summary.json").read_text())["steps"] == 10


@pytest.mark.slow
def test_two_processes_go_on_where_they_stopped(ranks: list[dict]) -> None:
    whole, later = alone(6), alone(10)
    for rank in ranks:
        assert_equal(rank["whole"], whole)
        assert_equal(rank["resumed"], later)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(folder: Path, ranks: list[dict]) -> None:
    steps = 1 + fit.SIGNAL_STRIDE
    expected = {"code": 143, "steps": steps, **alone(steps)}
    for rank in ranks:
        assert_equal(rank["stopped"], expected)
    newest = checkpoint.latest(folder / "stopped0" / "checkpoints")
    assert newest is not None and newest.name == f"step_{steps:08d}"


@pytest.mark.slow
def test_a_value_that_is_not_finite_stops_both(ranks: list[dict]) -> None:
    assert ranks[0]["not finite"] == ranks[1]["not finite"]
    assert ranks[0]["not finite"]["steps"] == 2 and "not finite" in ranks[0]["not finite"]["message"]


@pytest.mark.parametrize("at", [0, 1, 2, 17, 18, 40])
def test_several_processes_ask_each_other_after_sixteen_steps(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has received a signal in step `at`: this one hears of it when both ask."""
    run, asked = Counting(World(1, 2)), []

    def maximum(told: Tensor, size: int) -> Tensor:
        asked.append((run.step_count, int(told[0]), size))
        return told + torch.tensor([signal.SIGINT if run.step_count >= at else 0, 0])

    monkeypatch.setattr(distributed, "max_", maximum)
    options = FitOptions(100, 10, log_every=1000, sample_every=0, checkpoint_every=0, progress=False)
    with pytest.raises(Interrupted, match="SIGINT"):
        Fit(run, options).run()  # type: ignore[arg-type]
    moments = [0, 1, 17, 33, 49]
    until = next(index for index, moment in enumerate(moments) if moment >= at)
    assert run.step_count == moments[until] and run.strides == [1, 16, 16, 16][:until]
    assert asked == [(moment, 0, 2) for moment in moments[: until + 1]]


@pytest.mark.parametrize(("seconds", "stride"), [(0.01, 16), (0.1, 10), (0.3, 3), (5.0, 1)])
def test_several_processes_ask_each_other_every_second(seconds: float, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the slowest of them, whose steps take so long."""
    run, asked = Counting(World(1, 2)), []

    def maximum(told: Tensor, size: int) -> Tensor:
        asked.append(run.step_count)
        return torch.tensor([0.0, seconds if run.step_count else told[1]], dtype=torch.float64)

    monkeypatch.setattr(distributed, "max_", maximum)
    options = FitOptions(49, 10, log_every=1000, sample_every=0, checkpoint_every=0, progress=False)
    Fit(run, options).run()  # type: ignore[arg-type]
    assert asked == [0, *range(1, 49, stride)]
