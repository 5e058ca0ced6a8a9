"""Where a command reads and writes: the next free folder of its own, and data that one process fetches before the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastgan import data
from fastgan.cli.train import Train
from fastgan.runtime import distributed


def test_a_run_without_a_folder_takes_the_next_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, names = Train(data="ring"), []
    for _ in range(3):
        folder = command._free_folder()
        folder.mkdir(parents=True)
        names.append(folder.name)
    assert names == [f"ring-{command.loss}-{number:03d}" for number in (1, 2, 3)]


def test_the_first_process_reads_the_data_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    @contextmanager
    def in_turn() -> Iterator[None]:
        events.append("waits")
        yield
        events.append("lets the others go on")

    monkeypatch.setattr(distributed, "first_process_first", in_turn)
    monkeypatch.setattr(data, "load", lambda *_, **__: events.append("reads"))
    Train(data="ring")._load_data()
    assert events == ["waits", "reads", "lets the others go on"]
