"""What is written beside the training: in order, one at a time, and an error ends the run."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest
import torch

from fastgan import CheckpointError, Trainer
from fastgan.mlp import MLP
from fastgan.training import checkpoint
from fastgan.training.signals import Interrupted
from fastgan.training.writer import Writer

DATA = torch.linspace(-1, 1, 42).view(21, 2)


def fail() -> None:
    raise CheckpointError("the disk is full")


def test_jobs_run_one_after_another_and_the_last_is_waited_for() -> None:
    done: list[int] = []
    running = threading.Lock()

    def job(number: int) -> None:
        assert running.acquire(blocking=False), "another one runs"
        time.sleep(0.01)
        done.append(number)
        running.release()

    with Writer() as writer:
        for number in range(5):
            writer.submit(lambda number=number: job(number))  # type: ignore[misc]
            assert done == [*range(number)]
    assert done == [*range(5)]


def test_a_job_runs_beside_the_training() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        assert goes_on.wait(20)

    with Writer() as writer:
        writer.submit(job)
        assert begun.wait(20)
        writer.check()  # which waits for nothing
        goes_on.set()


@pytest.mark.parametrize("call", ["submit", "wait", "check", "the end"])
def test_an_error_comes_with_the_next_call(call: str) -> None:
    with pytest.raises(CheckpointError, match="the disk is full"), Writer() as writer:
        writer.submit(fail)
        if call == "submit":
            writer.submit(lambda: None)
        elif call == "wait":
            writer.wait()
        elif call == "check":
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                writer.check()


def test_an_error_of_the_training_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    done: list[bool] = []
    with pytest.raises(ZeroDivisionError), Writer() as writer:
        writer.submit(lambda: (time.sleep(0.05), done.append(True), fail()))  # type: ignore[func-returns-value]
        raise ZeroDivisionError
    assert done and "the disk is full" in caplog.text


def test_nothing_is_waited_for_where_the_program_has_to_end() -> None:
    release = threading.Event()
    with pytest.raises(Interrupted), Writer() as writer:
        writer.submit(lambda: release.wait(60))  # type: ignore[arg-type, return-value]
        raise Interrupted(2)
    release.set()


# in a run


def trainer() -> Trainer:
    torch.manual_seed(0)
    return Trainer(MLP((3, 4, 2)), MLP((2, 4, 1), dropout=0.3), seed=0, ema=0.5, device="cpu")


def fit(out: Path, run: Trainer | None = None, **options) -> Trainer:
    run = run or trainer()
    run.fit(DATA, steps=6, batch_size=8, out=out, checkpoint_every=1, keep=9, progress=False, **options)
    return run


def test_a_checkpoint_is_of_the_step_that_it_is_named_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on while it is written, and changes nothing of it."""
    save = checkpoint.save

    def slow(folder: Path, content: checkpoint.Checkpoint) -> None:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.05)
        save(folder, content)

    monkeypatch.setattr(checkpoint, "save", slow)
    whole = fit(tmp_path / "run").state_dict()
    monkeypatch.undo()
    for step in range(7):
        again = trainer().attach(DATA, 8)
        if step:
            again.step(step)
        found = checkpoint.load(tmp_path / "run" / "checkpoints" / f"step_{step:08d}")
        expected = again.state_dict()
        assert found.state["step_count"] == step
        for part in ("g_optimizer", "d_optimizer"):
            assert all(torch.equal(found.state[part][name], value) for name, value in expected[part].items())
        for role in ("generator", "discriminator"):
            assert all(torch.equal(found.weights[role][name], value) for name, value in expected[role].items())
    assert whole["step_count"] == 6


def test_outside_a_run_a_save_is_done_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit(tmp_path / "run")
    assert run.background_save is None
    save, threads = checkpoint.save, []
    monkeypatch.setattr(checkpoint, "save", lambda *given: (threads.append(threading.current_thread()), save(*given)))
    run.save(tmp_path / "saved")
    assert threads == [threading.main_thread()] and checkpoint.load(tmp_path / "saved").state["step_count"] == 6


@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_an_error_in_a_save_ends_the_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    save, run, calls = checkpoint.save, trainer(), []

    def failing(folder: Path, content: checkpoint.Checkpoint) -> None:
        calls.append(folder.name)
        if len(calls) == number:
            raise CheckpointError(f"{folder} cannot be written: no space left on device")
        save(folder, content)

    monkeypatch.setattr(checkpoint, "save", failing)
    with pytest.raises(CheckpointError, match=f"step_0000000{number - 1} cannot be written"), caplog.at_level(logging.INFO):
        fit(tmp_path / "run", run)
    assert run.step_count <= min(6, number + 1) and run.background_save is None
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.undo()
    assert fit(tmp_path / "run", trainer(), resume=True).step_count == 6
