"""In which order candidates are checked, timed and put into rows, with processes that only say that they ran."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.peers import CUDA_CANDIDATES, Candidate, named
from benchmarks.step import comparison
from benchmarks.step.comparison import Comparison, groups

YARDSTICK = "fastgan bf16"
NAMES = ("fastgan bf16", "graph bf16", "eager bf16", "jax bf16", "compile graph bf16")


def options(**more: Any) -> argparse.Namespace:
    given = dict(seconds=0.5, rounds=2, minutes=5.0, deadline=None, keep_going=True, candidates=None)
    return argparse.Namespace(**given | dict(refused={"standard": set()}) | more)


def of_names(*names: str) -> list[Candidate]:
    return [named(name, "cuda") for name in names]


class Recorded(Comparison):
    """A comparison whose processes take no time; `events` is what happened in which order."""

    def __init__(self, names: tuple[str, ...], arguments: argparse.Namespace, cache: Path | None = None) -> None:
        super().__init__("standard", 64, of_names(*names), arguments, cache, Console(quiet=True), YARDSTICK)
        self.events: list[str] = []
        self.wrong: set[str] = set()

    def _run(self, candidate: Candidate, *options: str) -> dict[str, Any]:
        self.events.append(f"{'check' if options else 'time'} {candidate.name}")
        if not options:
            count = len(self.events)  # later processes are slower
            return dict(p50=100.0 + count, n=7, cold_start=3.0)
        if candidate.name in self.wrong:
            raise comparison.Failed(f"{candidate.name} plays another game")
        return dict(found="right")

    def all_rows(self) -> list[dict[str, Any]]:
        found = []
        for rows in self.rows(check=True):
            self.events.append("rows of " + ", ".join(row["name"] for row in rows))
            found += rows
        return found

    def place(self, event: str) -> int:
        return self.events.index(event)


def test_fastgan_has_its_row_before_anything_else_is_checked() -> None:
    recorded = Recorded(NAMES[::-1], options())
    rows = recorded.all_rows()
    assert {row["name"] for row in rows} == set(NAMES)
    assert recorded.events[:4] == ["check fastgan bf16", "time fastgan bf16", "time fastgan bf16", "rows of fastgan bf16"]
    cheap = recorded.place("rows of eager bf16, graph bf16")
    assert all(recorded.place(f"check {name}") > cheap for name in NAMES[3:]), "those that compile are not even checked"
    assert recorded.events.count("time fastgan bf16") == 6, "it takes its turn in each group"


def test_nobody_is_timed_before_his_check() -> None:
    recorded = Recorded(NAMES, options())
    recorded.wrong = {"graph bf16", "jax bf16"}
    names = [row["name"] for row in recorded.all_rows()]
    assert names == ["fastgan bf16", "eager bf16", "compile graph bf16"]
    for name in names:
        assert recorded.place(f"check {name}") < recorded.place(f"time {name}")
    assert recorded.arguments.refused["standard"] == recorded.wrong and len(recorded.failures) == 2
    assert not [event for event in recorded.events if event.startswith("time") and event[5:] in recorded.wrong]


def test_without_a_limit_all_take_turns() -> None:
    recorded = Recorded(NAMES, options(minutes=None))
    rows = recorded.all_rows()
    assert [event.split()[0] for event in recorded.events] == ["check"] * 5 + ["time"] * 10 + ["rows"]
    assert [row["peer"] for row in rows] == [YARDSTICK] * 5


def test_candidates_by_name_keep_their_order() -> None:
    order = ("jax bf16", "graph bf16", "fastgan bf16", "compile graph bf16", "eager bf16")
    found = groups(of_names(*order), YARDSTICK, options(candidates=list(order)))
    assert [candidate.name for group in found for candidate in group] == list(order)
    assert [c.name for c in groups(list(CUDA_CANDIDATES), YARDSTICK, options())[0]] == [YARDSTICK]
    assert groups([], YARDSTICK, options(minutes=None)) == []


def test_a_ratio_is_of_what_was_timed_in_turns() -> None:
    recorded = Recorded(NAMES[:2], options())
    first, second = recorded.all_rows()
    timed = [100.0 + place for place, event in enumerate(recorded.events, start=1) if event == "time fastgan bf16"]
    assert first["medians"] == timed[:2] and first["ratio"] == 1.0
    assert second["peer"] == YARDSTICK and second["ratio"] == round(sum(timed[2:]) / sum(second["medians"]), 3)


@pytest.mark.parametrize("kept", [False, True])
def test_a_kept_cache_makes_no_cold_start(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments: list[dict[str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess:
        environments.append(env)
        said = dict(found="right") if "--check" in command else dict(p50=70.0, n=9, cold_start=2.5, steps_per_graph=16)
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(said), stderr="")

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    monkeypatch.setattr(comparison.subprocess, "run", run)
    cache = None if kept else tmp_path
    alone = Comparison("standard", 64, of_names(YARDSTICK), options(), cache, Console(quiet=True), YARDSTICK)
    ((row,),) = alone.rows(check=True)
    assert row["p50"] == 70.0 and row["warm_start"] == 2.5 and row["steps_per_graph"] == 16
    caches = {environment["TORCHINDUCTOR_CACHE_DIR"] for environment in environments}
    if kept:
        assert caches == {"mine"} and "cold_start" not in row
    else:
        assert caches == {str(tmp_path / "check"), str(tmp_path / "time")} and row["cold_start"] == 2.5
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
    comparison.show("standard", 64, [row], Console(quiet=True))
