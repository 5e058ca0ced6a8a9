"""How `make gpu` runs its parts and judges them, as far as that goes without a device."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_parts
from benchmarks.gpu_parts import judge_sanitizer
from benchmarks.shell import Outcome, Shell, python

CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
DIRTY = "========= Invalid __global__ write of size 4 bytes\n=========     at kernel+0x40\n========= ERROR SUMMARY: 1 error\n"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, time.monotonic() + 600.0)


@pytest.mark.parametrize(
    ("code", "text", "state"),
    [
        (0, CLEAN, "ok"),
        (86, DIRTY, "failed"),
        (1, "Traceback: a step that does not run", "failed"),
        (0, "no word of a summary", "failed"),
        (None, "", "skipped"),
        (1, "========= Error: Device not supported\n", "skipped"),
    ],
)
def test_what_the_sanitizer_says(code: int | None, text: str, state: str) -> None:
    assert judge_sanitizer("memcheck", code, text).state == state


def test_what_the_sanitizer_found_is_shown() -> None:
    assert any("Invalid __global__ write" in line for line in judge_sanitizer("memcheck", 86, DIRTY).lines)


def test_a_command_has_a_deadline_and_leaves_what_it_printed(shell: Shell) -> None:
    code, text = shell.run("commands.txt", python("-c", "print('so far'); import time; time.sleep(60)"), 3.0)
    assert code is None and "so far" in text
    code, text = shell.run("commands.txt", python("-c", "print('again'); raise SystemExit(3)"), 60.0)
    assert code == 3 and "again" in text and "so far" not in text
    assert (shell.folder / "commands.txt").read_text().count("$ ") == 2


def test_parts_run_in_turn_whatever_becomes_of_them(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def breaks(_: Shell, seconds: float) -> Outcome:
        raise OSError("no space left")

    parts = {"build": (breaks, 0.1), "tests": (lambda *_: Outcome("ok", ["3 tests"]), 0.5), "bench": (_add_a_row, 1.0)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(_row("from before"))
    monkeypatch.setattr(gpu, "results", lambda _: rows)
    new = gpu.NewRows()
    outcomes = gpu.run_parts(list(parts), shell, 600.0)
    assert {name: outcome.state for name, outcome in outcomes.items()} == {"build": "failed", "tests": "ok", "bench": "ok"}
    summary = (shell.folder / "summary.txt").read_text()
    assert "OSError: no space left" in summary and "3 tests" in summary
    assert "ops.loss: 1 cases, the worst 2.5 times as fast as torch: added [64] float32" in summary
    assert "from before" in rows.read_text() and "from before" not in new.text()
    assert gpu.exit_code(outcomes) == 2
    assert gpu.exit_code(outcomes | {"tests": Outcome("failed", [])}) == 1
    assert gpu.exit_code({"tests": Outcome("ok", []), "sanitizer": Outcome("skipped", [])}) == 0


def _row(label: str) -> str:
    row = dict(benchmark="ops.loss", label=label, name="fastgan", shape=[64], dtype="float32", ratio=2.5, peer="torch")
    return json.dumps(row) + "\n"


def _add_a_row(shell: Shell, seconds: float) -> Outcome:
    with gpu.results("").open("a") as file:
        file.write(_row("added"))
    return Outcome("ok", [])


def test_a_part_without_time_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", {"bench": (lambda *_: pytest.fail("it has run"), 1.0)})
    outcomes = gpu.run_parts(["bench"], Shell(tmp_path, time.monotonic() + 15.0), 15.0)
    assert outcomes["bench"] == Outcome("skipped", ["no time was left"])


def test_named_parts_are_no_part_of_all() -> None:
    assert set(gpu_parts.NAMED) < set(gpu_parts.PARTS) and "tests" not in gpu_parts.NAMED


def test_counts_of_a_junit_file(tmp_path: Path) -> None:
    path = tmp_path / "tests.xml"
    assert gpu_parts._counts(path) == ""
    path.write_text('<testsuites><testsuite tests="5" failures="1" errors="0" skipped="2"/></testsuites>')
    assert gpu_parts._counts(path) == "5 tests, 1 failures, 0 errors, 2 skipped"
