"""The measurement of what saving costs: the ways it compares are what their names say."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.step import save_cost
from fastgan.mlp import MLP
from fastgan.training import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


def test_runs_save_as_often_and_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[str, str]] = []
    save = checkpoint.save

    def noted(folder: Path, content: checkpoint.Checkpoint) -> None:
        saved.append((folder.name, threading.current_thread().name))
        save(folder, content)

    monkeypatch.setattr(checkpoint, "save", noted)
    monkeypatch.setattr(save_cost, "EVERY", (4, 6))
    monkeypatch.setattr(save_cost, "TURNS", 2)
    networks = (lambda: MLP((3, 4, 4), output="tanh"), lambda: MLP((4, 4, 1)))
    rows = save_cost.compare_saves(torch.zeros(64, 4), Console(quiet=True), networks, steps=12)
    assert [row["name"] for row in rows] == [
        "no saves",
        "every 4 steps",
        "every 4 steps, in the training's thread",
        "every 6 steps",
        "every 6 steps, in the training's thread",
    ]
    assert all(row["n"] == 2 and row["p50"] > 0 and row["bytes"] > 1000 and row["save_ms"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1.0
    steps = {
        thread: sorted(int(name[5:]) for name, where in saved if where == thread) for thread in {where for _, where in saved}
    }
    assert steps["MainThread"] == sorted(2 * [0, 4, 8, 12, 0, 6, 12])
    assert steps["fastgan writer"] == sorted(2 * [0, 12, 0, 4, 8, 12, 0, 6, 12])
