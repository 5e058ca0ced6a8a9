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


def test_every_window_has_its_save_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[str, str]] = []
    save = checkpoint.save

    def noted(folder: Path, content: checkpoint.Checkpoint) -> None:
        saved.append((folder.name, threading.current_thread().name))
        save(folder, content)

    monkeypatch.setattr(checkpoint, "save", noted)
    monkeypatch.setattr(save_cost, "TURNS", 2)
    networks = (lambda: MLP((3, 4, 4), output="tanh"), lambda: MLP((4, 4, 1)))
    rows = save_cost.compare_saves(torch.zeros(64, 4), Console(quiet=True), networks, window=3)
    assert [row["name"] for row in rows] == ["no save", "beside the training", "in its thread"]
    assert all(row["n"] == 2 and row["p50"] > 0 and row["bytes"] > 1000 for row in rows)
    assert rows[0]["ratio"] == 1.0 and rows[0]["added_ms"] == 0.0 and rows[0]["save_ms"] == 0.0
    assert all(row["save_ms"] > 0 and row["save_cpu_ms"] > 0 for row in rows[1:])
    # after one step the first turn begins its windows at steps 1, 4 and 7, the second one in the reverse order
    here, beside = "MainThread", "fastgan writer"
    assert saved == [(f"step_{step:08d}", where) for step, where in ((4, beside), (7, here), (10, here), (13, beside))]
