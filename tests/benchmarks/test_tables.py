"""README's tables and a GPU's goals, from rows that stand in files as runs of all kinds leave them."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from benchmarks import article, tables
from benchmarks.gpu.cards import CARDS, DEFAULT, Steps, card_of
from benchmarks.gpu.goals import lines
from benchmarks.harness.measurement import Measurement


def step(name: str, p50: float, rows: int = 64, work: str = "standard", **more: Any) -> dict[str, Any]:
    fields = dict(quick=False, n=5, machine="h200", threads=8, commit="abc", versions=dict(torch="2.11"), ratio=0.5)
    dtype = name.split()[-1] if name.split()[-1] in tables.PRECISIONS else "fp32"
    return dict(benchmark="step", label=work, name=name, shape=[rows], dtype=dtype, p50=p50) | fields | more


def everyone(scale: float, **more: Any) -> list[dict[str, Any]]:
    names = ("article", "eager", "eager bf16", "compile bf16", "fastgan bf16", "fastgan fp32")
    return [step(name, scale * (index + 1), **more) for index, name in enumerate(names)]


def shown(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: row["p50"] for name, row in tables.run_of(rows, "standard").items()}


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
WHOLE, NEWER = everyone(1.0), everyone(10.0)


def test_a_part_of_a_run_does_not_replace_a_whole_one() -> None:
    part = [step("eager", 70.0), step("fastgan bf16", 50.0)]
    assert shown(WHOLE + part) == {row["name"]: row["p50"] for row in WHOLE}


def test_runs_that_say_so_are_told_apart_without_a_candidate_that_comes_again() -> None:
    part = [step("jax", 70.0, run=1), step("fastgan bf16", 50.0, run=1)]
    whole = [row | dict(run=2) for row in NEWER if row["name"] != "fastgan bf16"] + [step("fastgan bf16", 1.0, run=2)]
    assert shown(part + whole) == {row["name"]: row["p50"] for row in whole}
    assert len(tables.runs_of(part + whole, "standard")) == 2


def test_the_newest_whole_run_counts_unless_it_was_a_quick_one() -> None:
    assert shown(WHOLE + NEWER) == {row["name"]: row["p50"] for row in NEWER}
    assert shown(WHOLE + everyone(10.0, quick=True)) == {row["name"]: row["p50"] for row in WHOLE}
    assert shown(everyone(2.0, quick=True) + everyone(10.0, quick=True))["eager"] == 20.0


def test_other_works_and_batch_sizes_are_other_tables() -> None:
    rows = WHOLE + everyone(10.0, rows=256) + everyone(10.0, work="wgan-gp")
    assert shown(rows) == {row["name"]: row["p50"] for row in WHOLE}


def test_a_table_has_a_line_for_each_candidate_and_says_where_it_comes_from() -> None:
    played = dict(benchmark="article", label="100 epochs", seconds=4.2, cold_start=30.0)
    text = "\n".join(tables.of_machine([*WHOLE, *everyone(2.0, work="wgan-gp"), played, played | dict(label="2 epochs")]))
    assert "| eager torch, fused Adam | fp32 | 2.0 | 2.0 x | 4.0 | 2.0 x |" in text
    assert "| fastgan, pairs of MLPs (closed form) | bf16 | 5.0 |  | 10.0 |  |" in text
    assert "`h200`, torch 2.11, commit abc; medians of 5 processes" in text and "us" in text.splitlines()[0]
    assert "100 epochs, took 4.2 s there, after 30.0 s of cold start" in text and "2 epochs" not in text
    assert list(tables.of_machine([played])) == []
    warm = {name: value for name, value in played.items() if name != "cold_start"}
    assert list(tables.of_machine([*WHOLE, warm]))[-1].endswith("100 epochs, took 4.2 s there."), "nobody measured a cold start"


def test_each_instruction_set_of_a_machine_has_a_table_of_its_own() -> None:
    older = [row | dict(machine="zen-2-cores", threads=2) for row in WHOLE]
    avx2 = [row | dict(machine="zen-2-cores", threads=2, instruction_set="avx2") for row in NEWER]
    first, second = ("\n".join(tables.of_machine(rows)) for rows in tables.by_set([*avx2, *older]))
    assert "`zen-2-cores` with AVX512-BF16, 2 threads" in first and "how many times as fast fastgan bf16 was" in first
    assert "`zen-2-cores` with AVX2, 2 threads" in second and "how many times as fast fastgan fp32 was" in second
    assert "| fastgan, pairs of MLPs (closed form) | fp32 | 0.1 |  |  |  |" in second, "the yardstick has no ratio"
    assert [len(rows) for rows in tables.by_set([*avx2, dict(instruction_set="riscv64")])] == [len(avx2), 1]


def test_goals_are_compared_with_the_newest_run_that_has_them() -> None:
    rows = [step("fastgan bf16", 90.0), step("eager bf16", 1200.0), step("graph bf16", 300.0), step("compile bf16", 400.0)]
    rows += [step("fastgan bf16", 40.0, run=1), step("eager bf16", 1000.0, run=1), step("eager tf32", 1400.0, run=1)]
    rows += [step("compile graph bf16", 150.0, run=1), step("compile bf16", 400.0, run=1)]
    rows += [step("fastgan bf16", 170.0, work="wgan-gp"), step("fastgan bf16", 500.0, 8192, tflop_per_s=400.0)]
    rows += [Measurement("product", "bf16", [1.0], (8192,) * 3, "bf16", dict(tflop_per_s=800.0)).row("ceilings")]
    assert [" ".join(line.split()) for line in lines(rows)] == [
        "standard, 64 rows, us a step <= 50 (must 70) 40.00 reached",
        "times as fast as the best eager >= 30 25.00 SHORT",
        "times as fast as the best graph >= 6 3.33 SHORT",
        "times as fast as the best compile >= 3.5 3.75 reached",
        "times as fast as the best jax >= 3.5 not measured",
        "wgan-gp, 64 rows, us a step <= 160 (must 205) 170.00 must reached, goal SHORT",
        "standard, 8192 rows, of the products' ceiling >= 0.6 0.50 SHORT",
        "the article's 100 epochs, s <= 5 not measured",
    ]


def test_a_card_has_its_own_goals_and_is_known_by_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert card_of("h100-80gb-hbm3") is CARDS["h100"] and card_of("h200") is CARDS["h200"]
    assert card_of("amd-epyc-2-cores") is CARDS[DEFAULT]
    slow = CARDS["h100"]._replace(steps={"standard": Steps(90.0, 80.0)})
    monkeypatch.setitem(CARDS, "h100", slow)
    rows = [step("fastgan bf16", 85.0, machine="h100-80gb-hbm3")]
    assert "<=     80 (must 90)     85.00  must reached, goal SHORT" in lines(rows)[0]
    assert lines(rows, CARDS["h200"])[0].endswith("<=     50 (must 70)     85.00  SHORT")
    assert "not measured" in lines([])[0]


@needs_triton
def test_an_update_is_bounded_by_the_memory_of_its_card() -> None:
    from benchmarks.gpu.predict import FIXED, update

    shapes, given = [(1024, 1024)] * 2, dict(rows=64, BLOCK_O=64, BLOCK_I=64, BLOCK_R=32, FUSED=True)
    times = [update(512, given, shapes, 132, CARDS[name]).microseconds - FIXED for name in ("h100", "h200")]
    assert times[0] / times[1] == pytest.approx(4.3 / 3.0)


def test_an_epochs_losses_are_the_means_of_its_rows() -> None:
    rows = [
        dict(epoch=epoch, d_loss=value, g_loss=-value) for epoch, value in ((0.5, 1.0), (1.0, 3.0), (1.01, 5.0), (2.0, 6.0))
    ]
    assert article.epochs_of(rows) == dict(d_loss=[2.0, 5.5], g_loss=[-2.0, -5.5])
