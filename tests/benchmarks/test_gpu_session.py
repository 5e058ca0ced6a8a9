"""Fifteen minutes on a GPU: calls that fit into their limits, and what becomes of commands that fail, hang or are cut off."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_session
from benchmarks.gpu import calls, parts, run
from benchmarks.gpu.calls import LOADING, PACKING, Call, Command, Stage
from benchmarks.gpu.runner import Outcome, Shell, python
from benchmarks.gpu_session import Session, dry_run, main

ROOT = Path(__file__).resolve().parents[2]
HEADLINE = 200.0  # seconds of the first call in which the step's time and its phases are measured
needs_no_device = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")


@pytest.fixture(params=[1, 2])
def call(request: pytest.FixtureRequest, tmp_path: Path) -> Call:
    """Either call, as it is on this machine."""
    return calls.calls(tmp_path)[request.param]


def says(name: str, text: str, seconds: float = 30.0, **more: Any) -> Command:
    """A command that prints a line at once."""
    return Command(name, ["echo", text], seconds, **more)


def code(name: str, text: str, seconds: float = 30.0, **more: Any) -> Command:
    return Command(name, python("-c", text), seconds, **more)


def session_of(folder: Path, *stages: Stage, limit: float = 120.0) -> Session:
    (folder / "out").mkdir()
    return Session(Call(limit, list(stages)), folder, folder / "out", time.monotonic() - LOADING)


def packed(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read().decode(errors="replace") for m in tar if m.isfile()}  # type: ignore[union-attr]


# --- the two calls, as data


def test_the_longest_path_fits_into_the_limit(call: Call) -> None:
    assert call.longest() <= call.limit
    assert all(command.seconds >= 15.0 for command in call.commands())


def test_both_calls_fit_into_fifteen_minutes_beside_a_start_of_two(tmp_path: Path) -> None:
    both = calls.calls(tmp_path)
    assert [call.limit for call in both.values()] == [330.0, 430.0]
    assert sum(call.limit for call in both.values()) + 120.0 <= 900.0


def test_the_step_and_its_phases_are_measured_alone_and_early(tmp_path: Path) -> None:
    first = calls.first(tmp_path)
    ends = first.ends()
    assert ends["step"] < ends["phases"] <= HEADLINE
    stages = {stage.name: stage for stage in first.stages}
    assert [len(stages[name].lanes) for name in ("step", "phases")] == [1, 1]
    early = [command.name for lane in first.stages[0].lanes for command in lane]
    assert set(gpu_session.GAMES) <= set(early) and "kernels" in early, "right before fast"


def test_a_longest_path_is_that_of_the_slowest_lanes_and_of_the_background() -> None:
    one, two, five, nine = (says(str(seconds), "", seconds) for seconds in (1.0, 2.0, 5.0, 9.0))
    side = Stage("side", [[one, two], [five]])
    assert Call(0, [side, Stage("then", [[two]])]).ends() == {"side": LOADING + 5, "then": LOADING + 7, "background": 0}
    behind = Stage("side", [[one, two], [five]], background=[nine, one])
    assert Call(0, [behind, Stage("then", [[two]])]).longest() == LOADING + 10 + PACKING
    assert Call(0, [behind, Stage("then", [[two]], waits=True)]).longest() == LOADING + 12 + PACKING


def test_names_are_logs_of_their_own(call: Call) -> None:
    names = [gpu_session.slug(command.name) for command in call.commands()]
    assert len(set(names)) == len(names)
    assert {command.unless_finished for command in call.commands()} - {""} <= set(names)


def test_what_is_told_how_long_it_has_is_told_less_than_its_timeout(call: Call) -> None:
    for command in (command for command in call.commands() if calls.MINUTES in command.line):
        words = command.words(100.0)
        assert float(words[words.index("--minutes") + 1]) == pytest.approx(1.5)


def test_modules_that_are_called_are_there(call: Call) -> None:
    modules = {c.line[2] for c in call.commands() if c.line[1] == "-m" and c.line[2].startswith("benchmarks.")}
    paths = [ROOT / module.replace(".", "/") for module in modules]
    assert paths and all(path.with_suffix(".py").exists() or (path / "__main__.py").exists() for path in paths)


def test_what_no_device_changes_is_left_out_of_the_tests() -> None:
    """A path that is gone would only run more; but whoever moves tests should know."""
    for name in (*parts.CPU_ONLY, *parts.HOST_KERNELS):
        path = ROOT / name
        files = sorted(path.glob("test_*.py")) if path.is_dir() else [path]
        assert files and all("mark.cuda" not in file.read_text() for file in files), name
    assert not [name for name in parts.CPU_ONLY if name.startswith("tests/kernels")]


@needs_no_device
def test_without_a_device_only_what_needs_none_is_left(tmp_path: Path) -> None:
    for call in calls.calls(tmp_path).values():
        left = {command.name for command in call.commands() if not command.missing}
        assert left == {"environment", "nonsaturating fp32", "wgan-gp fp32", "relativistic fp32"} or not left
        assert {c.missing for c in call.commands()} <= {"", calls.NO_DEVICE}


@pytest.mark.parametrize("number", [1, 2])
def test_with_a_device_everything_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[str, tuple[list[str], dict[str, str]]] = {}

    def answer(log: str, line: list[str], seconds: float, **settings: str) -> tuple[int, str]:
        ran[log.removesuffix(".txt")] = line, settings
        return 0, "$ line\nall went well\n========= ERROR SUMMARY: 0 errors\n"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(parts, "architecture", lambda: "9.0")
    monkeypatch.setattr(calls.shutil, "which", lambda name: name)
    monkeypatch.setattr(run, "machine", lambda: "no-such-machine")
    monkeypatch.setenv("FASTGAN_TEST_MNIST", str(tmp_path))
    call = calls.calls(tmp_path)[number]
    session = session_of(tmp_path, *call.stages, limit=call.limit)
    session.shell.run = answer  # type: ignore[method-assign]
    session.run()
    names = {gpu_session.slug(command.name) for command in call.commands()}
    assert ran.keys() == names - {"kernels-again"} and session.exit_code() == 0
    caches = {settings["TRITON_CACHE_DIR"] for _, settings in ran.values()}
    assert len(caches) == 1 and not any("TRITON_INTERPRET" in settings for _, settings in ran.values())
    if number == 1:
        assert ran["build"][1].items() >= dict(TORCH_CUDA_ARCH_LIST="9.0", MAX_JOBS="4").items()
        assert ran["wgan-gp-bf16"][0][2:] == ["benchmarks.gpu.sanitize", "--game", "wgan-gp", "--precision", "bf16"]


def test_a_dry_run_prints_every_command_and_runs_none(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_session, "FOLDER", tmp_path)
    monkeypatch.setattr(Shell, "run", lambda *_, **__: pytest.fail("it has run something"))
    number = 1 if call.limit < 400.0 else 2
    assert main([str(number), "--dry-run"]) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if " s  " in line]
    assert len(lines) == len(list(call.commands())) and f"the longest path takes {call.longest():.0f} s" in said
    assert str(ROOT) not in said and sys.executable not in said and calls.MINUTES not in said
    assert not list(tmp_path.iterdir())


def test_the_page_says_what_the_calls_do(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gpu-in-15-minutes.md").read_text()
    for number, call in calls.calls(tmp_path).items():
        assert f"timeout -k 10 {call.limit:.0f} python3 -m benchmarks.gpu_session {number}\n" in page
        for name, end in call.ends().items():
            assert not end or f"| {end:.0f} |" in page or f"until second {end:.0f} " in page, name
    commands = re.findall(r"^python3 -m (benchmarks\.[\w.]+)(.*)$", page, re.MULTILINE)
    assert {module for module, _ in commands} == {
        f"benchmarks.{n}" for n in ("gpu_session", "gpu.sanitize", "gpu.goals", "tables")
    }


# --- a session, of commands that take no time


@pytest.mark.slow
def test_lanes_run_side_by_side_whatever_becomes_of_their_neighbours(tmp_path: Path) -> None:
    joint = """
import pathlib, sys, time
here, there = map(pathlib.Path, sys.argv[1:])
here.touch()
stop = time.monotonic() + 20
while not there.exists():
    assert time.monotonic() < stop, "nobody came"
    time.sleep(0.02)
"""
    pair = [str(tmp_path / name) for name in ("one", "two")]
    lanes = [
        [Command("one", python("-c", joint, *pair), 30.0), code("fails", "raise SystemExit(3)"), says("after", "goes on")],
        [Command("two", python("-c", joint, *pair[::-1]), 30.0), code("hangs", "import time; time.sleep(60)", 2.0)],
    ]
    session = session_of(tmp_path, Stage("beside", lanes), Stage("later", [[says("late", "still runs")]]))
    session.run()
    assert {name: outcome.state for name, outcome in session.outcomes.items()} == {
        **dict.fromkeys(("one", "two", "after", "late"), "ok"),
        **dict.fromkeys(("fails", "hangs"), "failed"),
    }
    assert session.outcomes["hangs"].lines[0] == "out of time" and session.took["hangs"] < 10.0
    session.pack()
    summary = "\n".join(session.summary())
    assert "== fails: failed" in summary and "exit code 3" in summary
    assert session.exit_code() == 2
    found = packed(tmp_path / "out" / "all.tgz")
    assert {"one.txt", "fails.txt", "late.txt", "summary.txt", "outcomes.json", "rows.jsonl", "tiles.json"} <= found.keys()
    assert json.loads(found["outcomes.json"])["late"]["lines"] == ["still runs"]
    assert (tmp_path / "out" / "summary.txt").read_text() == found["summary.txt"]


def test_the_archive_is_there_after_the_first_stage(tmp_path: Path) -> None:
    look = f"import tarfile; print(tarfile.open({str(tmp_path / 'out' / 'all.tgz')!r}).getnames())"
    session = session_of(tmp_path, Stage("one", [[says("early", "found")]]), Stage("two", [[code("look", look)]]))
    session.run()
    assert "early.txt" in session.outcomes["look"].lines[-1]


def test_wrong_metrics_are_said_loudly_and_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "WRONG: wgan-gp bf16 d_loss is 7, exactly 7.53, at most 1.5e-01 off"
    game = code("wgan-gp bf16", f"print({wrong!r}); raise SystemExit(1)", outcome=parts.of_game)
    session = session_of(tmp_path, Stage("right", [[game]]), Stage("step", [[says("step", "70 us")]]))
    session.run()
    said = capsys.readouterr().out
    assert "METRICS ARE WRONG" in said and said.index(wrong) < said.index("step: ok")
    assert said.count(wrong) == 1 and session.exit_code() == 1
    assert [line for line in session.summary() if wrong in line] == [f"!! {wrong}"] == [next(session.summary())]


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "again"), [(30.0, "skipped"), (1.0, "ok")])
def test_what_was_out_of_time_runs_again(tmp_path: Path, seconds: float, again: str) -> None:
    first = code("kernels", f"import time; time.sleep({0 if seconds > 2 else 30})", seconds)
    second = says("kernels again", "all of them", unless_finished="kernels")
    session = session_of(tmp_path, Stage("one", [[first]]), Stage("two", [[second]]))
    session.run()
    assert session.outcomes["kernels again"].state == again


def test_time_that_is_left_goes_to_those_that_may_take_it(tmp_path: Path) -> None:
    granted = {}

    def answer(log: str, line: list[str], seconds: float, **_: str) -> tuple[int, str]:
        granted[log] = seconds, line
        return 0, ""

    more = Command("more", ["peers", calls.MINUTES], 20.0, stretch=True)
    session = session_of(tmp_path, Stage("quick", [[says("quick", "", 50.0)]]), Stage("more", [[more]]))
    session.shell.run = answer  # type: ignore[method-assign]
    session.run()
    assert granted["quick.txt"][0] == 50.0
    seconds, line = granted["more.txt"]
    assert 60.0 < seconds <= 70.0 and line[1] == f"{0.9 * seconds / 60:.2f}"


@pytest.mark.slow
def test_a_command_that_waits_finds_the_background_done(tmp_path: Path) -> None:
    built = tmp_path / "built"
    build = code("build", f"import time, pathlib; time.sleep(1); pathlib.Path({str(built)!r}).touch()")
    looks = f"import pathlib; assert pathlib.Path({str(built)!r}).exists()"
    session = session_of(
        tmp_path,
        Stage("begin", [[code("before", looks)]], background=[build]),
        Stage("waits", [[code("after", looks)]], waits=True),
    )
    session.run()
    states = {name: outcome.state for name, outcome in session.outcomes.items()}
    assert states == dict(before="failed", build="ok", after="ok")


def test_what_cannot_run_says_why_once(tmp_path: Path) -> None:
    left_out = [says(name, "", missing=calls.NO_DEVICE) for name in ("micro", "tiles")]
    lanes = [left_out, [says("one", "x")]]
    session = session_of(tmp_path, Stage("all", lanes))
    session.run()
    assert list(session.summary())[-1] == "== left out: there is no CUDA device: micro, tiles"
    assert session.outcomes["micro"] == Outcome("skipped", [calls.NO_DEVICE])
    assert session.outcomes["one"].state == "ok" and session.exit_code() == 2


@pytest.mark.slow
def test_a_session_that_is_stopped_leaves_an_archive_and_no_process(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys
from benchmarks import gpu_session
from benchmarks.gpu.calls import Call, Command, Stage
from benchmarks.gpu.runner import python
sleeps = "import os, time; print(os.getpid(), flush=True); time.sleep(120)"
commands = Command("quick", ["echo", "found"], 9.0), Command("sleeps", python("-c", sleeps), 120.0)
stages = [Stage(command.name, [[command]]) for command in commands]
gpu_session.FOLDER = pathlib.Path({str(tmp_path)!r})
gpu_session.calls = lambda folder: {{1: Call(150.0, stages)}}
sys.exit(gpu_session.main(["1", "--out", {str(tmp_path / "out")!r}]))
"""
    log = tmp_path / "call-1" / "sleeps.txt"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    stop = time.monotonic() + 90.0
    while not (log.exists() and len(log.read_text().splitlines()) > 1):
        assert process.poll() is None and time.monotonic() < stop
        time.sleep(0.1)
    child = int(log.read_text().splitlines()[1])
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30.0)
    assert process.returncode == 2 and "the session was stopped" in said
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    found = packed(tmp_path / "out" / "all.tgz")
    assert found["quick.txt"].endswith("found\n") and "== quick: ok" in found["summary.txt"]


def test_a_summary_has_the_end_of_what_was_said() -> None:
    lines = [str(number) for number in range(9)]
    assert gpu_session.shown(lines, 9) == lines and gpu_session.shown(lines, 0) == []
    assert gpu_session.shown(lines, 3) == ["0", "7", "8"] and gpu_session.shown(lines, 1) == ["0"]


def test_digits_are_found_from_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTGAN_TEST_MNIST", "data/mnist")
    assert gpu_session.settings()["FASTGAN_TEST_MNIST"] == str(tmp_path / "data" / "mnist")
    assert str(tmp_path / "data" / "mnist") in calls.article("article", tmp_path, 9.0).line
    monkeypatch.delenv("FASTGAN_TEST_MNIST")
    assert calls.article("article", tmp_path, 9.0).missing == calls.NO_DIGITS


def test_dry_runs_name_what_is_left_out(tmp_path: Path) -> None:
    call = Call(60.0, [Stage("one", [[says("tool", "x", 5.0, missing="no tool", settings=dict(A="1"))]])])
    assert "    5 s  A=1 echo x  [left out: no tool]" in list(dry_run(1, call))
