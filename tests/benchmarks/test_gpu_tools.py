"""The tools that measure and tune on a GPU, as far as they go without one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.harness.measurement import Measurement, slopes

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def printed(*arguments: str) -> str:
    """What gpu_tools.py prints in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.benchmarks.gpu_tools", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@needs_triton
def test_the_tuner_finds_what_the_clock_says(tmp_path: Path) -> None:
    printed("tune", str(tmp_path))
    table = json.loads((tmp_path / "tiles.json").read_text())
    assert table.pop("90 forward 1x1x1 2") == [16, 32, 64, 2, 4, 1], "entries that are not measured stay"
    kinds = {text.split()[1] for text in table}
    assert kinds == {"forward", "output", "adjoint", "gradient", "update"}
    # the clock wants 32 x 64 in parts; products of 16 rows have no tile of 32, and updates of so few rows no parts
    assert all(tile[:2] == [16 if " 16x" in text else 32, 64] for text, tile in table.items() if "update" not in text)
    assert all(tile[:2] == [32, 64] and tile[5] == 1 for text, tile in table.items() if "update" in text)
    assert table["90 output 32x784x1024 2"][5] > 1
    rows = json.loads((tmp_path / "rows.json").read_text())
    best = {(row["label"], *row["shape"]): row for row in rows if row["name"] == "best"}
    assert best["output", 32, 784, 1024]["p50"] == 1.0 and best["output", 32, 784, 1024]["tried"] > 50
    assert len(best) == len(table) and all(row["benchmark"] == "micro.tiles" for row in rows)


@pytest.mark.slow
@needs_triton
def test_the_kernels_of_micro_benchmarks_compile() -> None:
    architectures = [80, 90, 100, 120]
    found = dict(json.loads(line) for line in printed("compile", *map(str, architectures)).splitlines())
    assert list(found) == architectures
    assert all(set(names) == {"node_kernel", "barrier_kernel", "adam_kernel"} for names in found.values())


@needs_triton
def test_a_tile_that_leaves_something_else_does_not_agree(capsys: pytest.CaptureFixture[str]) -> None:
    from fastgan.kernels import tiles

    from benchmarks.tune.launches import Chooser, Key, Recorded
    from benchmarks.tune.same_results import agrees
    from benchmarks.tune.search import Product, Tuner

    def launch(out: Tensor, x: Tensor, more: tuple[Tensor, dict[str, Tensor]]) -> None:
        """A kernel that is wrong for 32 rows in what it writes, and for 64 in what it adds to."""
        assert chooser.chosen is not None
        rows = chooser.chosen.rows
        out.copy_(x * (1.1 if rows == 32 else 1.0 + 1e-4))
        more[1]["sums"].add_(2.0 if rows == 64 else 1.0)

    out, x, sums = torch.zeros(4), torch.tensor([1.0, -2.0, torch.nan, 0.5]).bfloat16(), torch.ones(3)
    chooser = Chooser()
    calls = [Recorded(chooser, launch, out, x, more=(x, dict(sums=sums))) for _ in range(2)]
    present, good, *bad = (tiles.Tile(rows, 32, 64, 4, 3) for rows in (16, 128, 32, 64))
    assert agrees(calls, good, present) and not any(agrees(calls, tile, present) for tile in bad)
    assert not out.any() and torch.equal(sums, torch.ones(3)), "what launches did is taken back"

    product = Product(Key("90 forward 4x4x4 2", "forward", 4, 4, 4, 2), "standard", 4, 0, calls)
    tuner = Tuner("bf16", 90, lambda *_: 1.0, None, 0.0)
    assert tuner._agrees(product, good, present) and not capsys.readouterr().out
    assert not tuner._agrees(product, bad[0], present)
    assert "90 forward 4x4x4 2: [32, 32, 64, 4, 3, 1] is WRONG" in capsys.readouterr().out


@needs_triton
def test_what_counts_as_spilled() -> None:
    from benchmarks.harness.offline_compile import spills

    assert not spills(dict(REG=255, STACK=8, LOCAL=0))
    assert spills(dict(REG=32, STACK=16, LOCAL=0)) and spills(dict(REG=32, STACK=0, LOCAL=4))


def test_a_row_has_its_quantiles() -> None:
    row = Measurement("copy", "it", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (7, 8), "bf16", dict(tb_per_s=1.5)).row("ceilings")
    assert row["benchmark"] == "micro.ceilings" and row["shape"] == [7, 8] and row["tb_per_s"] == 1.5
    assert (row["p20"], row["p50"], row["p80"], row["n"]) == (2.0, 3.0, 5.0, 6)


def test_a_slope_leaves_out_what_every_run_has() -> None:
    assert slopes([9.0, 10.0, 30.0], [110.0, 112.0], 100) == [1.0, 1.02]


def measured(node: float, barrier: float, adam: dict[int, float]) -> list[dict[str, Any]]:
    """Rows of a device, with others that must not matter."""
    found = [
        ("nodes", Measurement("node", "dependent launch, a word", [node], (132,))),
        ("nodes", Measurement("node", "plain, a word", [2 * node], (132,))),
        ("nodes", Measurement("node", "dependent launch, a word", [0.1], (1,))),
        ("nodes", Measurement("node", "dependent launch", [0.1], (132,))),
        ("nodes", Measurement("graph of 20", "dependent launch, a word", [0.2], (132,))),
        ("barriers", Measurement("barrier", "flat, a word", [barrier], (132,))),
        ("barriers", Measurement("barrier", "two levels, a word", [1.5 * barrier], (132,))),
        ("barriers", Measurement("barrier", "flat", [0.1], (132,))),
        ("barriers", Measurement("barrier", "one cluster, a word", [0.1], (8,))),
        ("optimizers", Measurement("adam", "28 bytes a weight", [1.0], (2, 10))),
    ]
    found += [("optimizers", Measurement("adam", "24 bytes a weight", [time], (count, 10))) for count, time in adam.items()]
    return [measurement.row(part) for part, measurement in found]


@needs_triton
def test_the_verdict_on_a_persistent_kernel() -> None:
    from benchmarks.micro.run import verdict

    barriers, memory = verdict(measured(1.0, 0.8, {1: 5.0, 2: 6.0, 8: 9.0}))
    assert barriers.endswith("0.80 of it, at most 0.7: does not pay") and "(flat, a word) takes 0.80 us" in barriers
    assert memory.endswith("from memory 9.00: 1.50 times as fast, the cache holds much of it: does not pay")
    barriers, memory = verdict(measured(1.0, 0.6, {2: 8.0, 8: 9.0}))
    assert barriers.endswith("0.60 of it, at most 0.7: pays")
    assert memory.endswith("1.12 times as fast, memory bounds it: pays")
    assert all("not measured" in line for line in verdict([]))


@needs_triton
def test_a_part_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from benchmarks.micro import run

    def broken(_: float):
        yield Measurement("one", "thing", [1.0])
        raise RuntimeError("no nvcc")

    def whole(_: float):
        yield Measurement("other", "thing", [2.0])

    monkeypatch.setattr(run, "PARTS", {"nodes": broken, "tiles": whole})
    kept: list[dict[str, Any]] = []
    with open(os.devnull, "w") as sink:
        rows, problems = run.run(["nodes", "tiles"], 0.0, kept.append, Console(file=sink))
    assert [row["label"] for row in rows] == ["one", "other"] and kept == rows
    assert problems == ["nodes: RuntimeError: no nvcc"]


def trace(replays: int, steps: int) -> dict[str, Any]:
    """A profiler's trace of replays of a graph: numbers 2 us, forward 3 us that begins 1 us early, update 4 us after 0.5 us."""
    events, clock = [], 0.0

    def launch(name: str, gap: float, duration: float) -> None:
        nonlocal clock
        sizes = {"grid": [4, 1, 1], "block": [128, 1, 1], "registers per thread": 40, "shared memory": 1024}
        events.append(dict(ph="X", cat="kernel", name=name, ts=clock + gap, dur=duration, args=sizes))
        clock += gap + duration

    for _ in range(replays):
        launch("void at::native::fill(long)", 20.0, 1.0)
        for _ in range(steps):
            launch("numbers_kernel", 0.0, 2.0)
            launch("forward_kernel", -1.0, 3.0)
            launch("update_kernel", 0.5, 4.0)
        launch("settle_kernel", 0.5, 1.0)
    events.append(dict(ph="X", cat="cpu_op", name="aten::add", ts=0.0, dur=1.0))
    return dict(traceEvents=events[::-1])


def test_a_step_is_found_among_the_launches_of_replays() -> None:
    from benchmarks.gpu.trace import phases, read_trace

    found = phases(read_trace(trace(3, 16)), 3, 16)
    assert [phase.launch.name for phase in found] == ["numbers_kernel", "forward_kernel", "update_kernel"]
    assert [(phase.time, phase.gap, phase.adds) for phase in found] == [(2.0, 0.0, 2.0), (3.0, -1.0, 2.0), (4.0, 0.5, 4.5)]
    assert found[0].launch.grid == "4x1x1" and found[0].launch.block == 128
    assert phases(read_trace(trace(3, 16))[1:], 3, 16) == [], "a launch is missing"


@needs_triton
def test_a_prediction_stands_beside_its_launch() -> None:
    from benchmarks.gpu.phases import in_order, measurements
    from benchmarks.gpu.trace import phases, read_trace

    found = phases(read_trace(trace(3, 16)), 3, 16)
    said = [("numbers", 1.5), ("forward", 2.5), ("update", 3.0)]
    rows = measurements(found, found, said)
    assert [row["said"] for row in rows] == [1.5, 2.5, 3.0] and [row["alone"] for row in rows] == [2.0, 3.0, 4.0]
    assert "7.00" in list(in_order(found, rows))[-1]
    assert {row["said"] for row in measurements(found, [], said[::-1])} == {None}, "of other launches"
    assert "-" in list(in_order(found, measurements(found, [], [])))[-1]
