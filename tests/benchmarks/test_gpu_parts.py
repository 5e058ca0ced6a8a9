"""How `make gpu` runs its parts and reads what they say, as far as that goes without a device."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks.gpu import parts, run
from benchmarks.gpu.parts import of_sanitizer
from benchmarks.gpu.runner import Outcome, Shell, python
from benchmarks.harness import rows

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
    assert of_sanitizer("memcheck", code, text).state == state


def test_what_the_sanitizer_found_is_shown() -> None:
    assert any("Invalid __global__ write" in line for line in of_sanitizer("memcheck", 86, DIRTY).lines)


@pytest.mark.slow
def test_a_command_has_a_deadline_and_leaves_what_it_printed(shell: Shell) -> None:
    code, text = shell.run("commands.txt", python("-c", "print('so far'); import time; time.sleep(60)"), 3.0)
    assert code is None and "so far" in text
    code, text = shell.run("commands.txt", python("-c", "print('again'); raise SystemExit(3)"), 60.0)
    assert code == 3 and "again" in text and "so far" not in text
    assert (shell.folder / "commands.txt").read_text().count("$ ") == 2


def test_parts_run_in_turn_whatever_becomes_of_them(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def breaks(_: Shell, seconds: float) -> Outcome:
        raise OSError("no space left")

    given = {"build": (breaks, 0.1), "tests": (lambda *_: Outcome("ok", ["3 tests"]), 0.5), "bench": (_add_a_row, 1.0)}
    monkeypatch.setattr(run, "PARTS", given)
    path = tmp_path / "rows.jsonl"
    path.write_text(_row("from before"))
    monkeypatch.setattr(run, "results", lambda _: path)
    new = run.NewRows()
    outcomes = run.run_parts(list(given), shell, 600.0)
    assert {name: outcome.state for name, outcome in outcomes.items()} == {"build": "failed", "tests": "ok", "bench": "ok"}
    summary = (shell.folder / "summary.txt").read_text()
    assert "OSError: no space left" in summary and "3 tests" in summary
    assert "ops.loss: 1 cases, the worst 2.5 times as fast as torch: added [64] float32" in summary
    assert "from before" in path.read_text() and "from before" not in new.text()
    assert run.exit_code(outcomes) == 2
    assert run.exit_code(outcomes | {"tests": Outcome("failed", [])}) == 1
    assert run.exit_code({"tests": Outcome("ok", []), "sanitizer": Outcome("skipped", [])}) == 0


def _row(label: str) -> str:
    row = dict(benchmark="ops.loss", label=label, name="fastgan", shape=[64], dtype="float32", ratio=2.5, peer="torch")
    return json.dumps(row) + "\n"


def _add_a_row(shell: Shell, seconds: float) -> Outcome:
    with run.results("").open("a") as file:
        file.write(_row("added"))
    return Outcome("ok", [])


def test_a_part_without_time_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PARTS", {"bench": (lambda *_: pytest.fail("it has run"), 1.0)})
    outcomes = run.run_parts(["bench"], Shell(tmp_path, time.monotonic() + 15.0), 15.0)
    assert outcomes["bench"] == Outcome("skipped", ["no time was left"])


def test_parts_run_in_the_order_in_which_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def part(name: str) -> tuple:
        return lambda *_: ran.append(name) or Outcome("ok", []), 1.0

    monkeypatch.setattr(run, "PARTS", {name: part(name) for name in run.PARTS})
    monkeypatch.setattr(run.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run, "machine", lambda: "no-such-machine")
    monkeypatch.setattr(run, "environment", dict)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), "--parts", "bench", "build", "bench", "profile"])
    assert run.main() == 0 and ran == ["bench", "build", "profile"]
    with tarfile.open(tmp_path / "all.tgz") as tar:
        assert {"summary.txt", "rows.jsonl", "environment.json"} == set(tar.getnames())


def test_an_archive_is_small_enough_to_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("small.txt", 10), ("run/samples/one.png", 2000), ("run/checkpoints/weights", 10), ("large.bin", 9000)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(os.urandom(size))
    path = tmp_path / "all.tgz"
    assert run.archive(tmp_path, path) == []
    monkeypatch.setattr(run, "LIMIT", 5000)
    assert run.archive(tmp_path, path) == ["large.bin"] and path.stat().st_size <= 5000
    with tarfile.open(path) as tar:
        assert set(tar.getnames()) == {"small.txt", "run/samples/one.png"}


def test_tests_are_shared_out_and_only_those_that_a_device_changes(tmp_path: Path) -> None:
    command = " ".join(parts.tests_command(tmp_path / "tests.xml"))
    assert "--ignore=tests/losses/test_losses.py" in command and "not cpu" in command
    assert "--ignore" not in " ".join(parts.tests_command(tmp_path / "tests.xml", "tests/kernels"))
    if importlib.util.find_spec("xdist"):
        assert command.endswith("-n 12 --dist worksteal")


@pytest.mark.parametrize(
    ("code", "text", "state"),
    [
        (0, "wgan-gp bf16: 8 metrics are right", "ok"),
        (1, "WRONG: wgan-gp bf16 d_loss is 7, exactly 7.53", "failed"),
        (1, "Traceback: a step that does not run", "failed"),
        (None, "", "skipped"),
    ],
)
def test_what_is_said_of_a_game(code: int | None, text: str, state: str) -> None:
    assert parts.of_game(code, text).state == state


class Recorder(Shell):
    """A shell whose commands end at once, or never where `hangs` is in their line; `asked` is for how long."""

    def __init__(self, folder: Path, hangs: str) -> None:
        super().__init__(folder, time.monotonic() + 600.0)
        self.hangs, self.asked = hangs, {}

    def run(self, log: str, command: list[str], seconds: float, **_: str) -> tuple[int | None, str]:
        self.asked[" ".join(command)] = seconds
        return (None, "") if self.hangs in command else (0, CLEAN)


def test_the_sanitizers_plain_run_has_time_to_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda name: name)
    shell = Recorder(tmp_path, hangs="nothing")
    assert parts.sanitizer(shell, 192.0).state == "ok"
    plain = {command: seconds for command, seconds in shell.asked.items() if "compute-sanitizer" not in command}
    assert len(plain) == 6 and set(plain.values()) == {parts.COMPILING}, "each game in each precision, side by side"
    assert [round(seconds) for command, seconds in shell.asked.items() if command not in plain] == [96, 192]
    late = Recorder(tmp_path, hangs="fp32")
    assert parts.sanitizer(late, 192.0).state == "ok"
    assert "compute-sanitizer" in " ".join(late.asked), "what was compiled in time is watched"
    assert parts.sanitizer(Recorder(tmp_path, hangs="--game"), 192.0).state == "skipped", "out of time is no error"


def test_who_copies_a_checkout_names_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTGAN_COMMIT", "1234abc")
    assert rows.circumstances(quick=True)["commit"] == "1234abc"
    monkeypatch.setenv("FASTGAN_COMMIT", "")
    assert rows.commit() != ""


def test_a_row_without_a_cold_start_claims_none() -> None:
    found = [dict(benchmark="article", label="100 epochs", seconds=4.0, wall_seconds=5.0)]
    step = dict(benchmark="step", label="standard", name="fastgan bf16", shape=[64], p20=1.0, p50=2.0, p80=3.0, ratio=1.0)
    found += [step | dict(peer="fastgan bf16", warm_start=4.25, steps_per_graph=16)]
    article, fastgan = run.table(found)
    assert "cold" not in article and fastgan.endswith("warm 4.2 s, graph of 16")


def test_named_parts_are_no_part_of_all() -> None:
    assert set(parts.NAMED) < set(parts.PARTS) and "tests" not in parts.NAMED


def test_counts_of_a_junit_file(tmp_path: Path) -> None:
    path = tmp_path / "tests.xml"
    assert parts._counts(path) == ""
    path.write_text('<testsuites><testsuite tests="5" failures="1" errors="0" skipped="2"/></testsuites>')
    assert parts._counts(path) == "5 tests, 1 failures, 0 errors, 2 skipped"
