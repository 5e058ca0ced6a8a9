"""Fifty SIGKILLs of a real command, at random moments, many of them inside a save: what is there afterwards, every time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastgan.training import checkpoint
from fastgan.training.report import RunFolder

pytest.importorskip("tyro", reason="the command needs tyro")

KILLS = 50
RUN = (
    "--data",
    "ring",
    "--batch-size",
    "4",
    "--log-every",
    "1",
    "--sample-every",
    "3",
    "--checkpoint-every",
    "1",
    "--keep",
    "2",
)
RUN += ("--d-steps", "2", "--ema", "0.9", "--seed", "5", "--device", "cpu")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def command(out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "fastgan", "train", "--out", str(out), *flags]


def killed(out: Path, chance: random.Random) -> str:
    """Begins or resumes the run, and kills it; returns how far it was."""
    with subprocess.Popen(
        command(out, "--resume", *RUN, "--steps", "1000000"), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0.5, 5.0))
            reached = "starting"
        else:
            said = []
            for line in iter(process.stdout.readline, b""):
                said.append(line.decode())
                if line.startswith(b"step "):
                    break
            else:
                raise AssertionError("it does not train:\n" + "".join(said))
            time.sleep(chance.uniform(0.0, 1.5))
            reached = "training"
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.close()
        assert process.wait(60) == -signal.SIGKILL
    return reached


def half_made(out: Path) -> list[str]:
    return [path.name for path in (out / "checkpoints").glob(".step_*")] if (out / "checkpoints").exists() else []


@pytest.mark.long
def test_fifty_kills_cost_no_checkpoint_and_change_no_bit(tmp_path: Path) -> None:
    out, chance = tmp_path / "run", random.Random(19)
    newest, in_saves, starting = -1, 0, 0
    for _ in range(KILLS):
        starting += killed(out, chance) == "starting"
        in_saves += bool(half_made(out))
        found = checkpoint.latest(out / "checkpoints")
        step = int(found.name.removeprefix("step_")) if found else -1
        assert step >= newest, f"step {newest} was whole before this kill, {step} is now"
        newest = step
        for place in (out / "checkpoints").glob("step_*"):
            checkpoint.verify(place)
    print(f"{KILLS} kills, {starting} while starting, {in_saves} inside a save; step {newest} reached")
    assert in_saves > 5
    last = newest + 3
    for place, more in ((out, ["--resume"]), (tmp_path / "alone", list(RUN))):
        assert subprocess.run([*command(place, *more), "--steps", str(last)], env=ENVIRONMENT, check=False).returncode == 0
    for folder in (out, out / "checkpoints", out / "samples"):
        assert not [path.name for path in folder.iterdir() if path.name[0] == "."]
    mine, theirs = (checkpoint.load(place) for place in (out, tmp_path / "alone"))
    for role in ("generator", "discriminator", "average"):
        assert all(torch.equal(mine.weights[role][name], value) for name, value in theirs.weights[role].items())
    for part in ("g_optimizer", "d_optimizer"):
        assert all(torch.equal(mine.state[part][name], value) for name, value in theirs.state[part].items())
    rows = [
        [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in read]
        for read in (RunFolder(out).read_metrics(), RunFolder(tmp_path / "alone").read_metrics())
    ]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [*range(1, last + 1)]
    pictures = [RunFolder(place).pictures() for place in (out, tmp_path / "alone")]
    assert pictures[0].keys() == pictures[1].keys()
    assert all(pictures[0][step].read_bytes() == path.read_bytes() for step, path in pictures[1].items())
    assert json.loads((out / "summary.json").read_text())["steps"] == last
