"""What a GPU is meant to reach, beside what its stored rows say: python -m benchmarks.goals [machine]."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.harness import machine, results
from benchmarks.step import YARDSTICK
from benchmarks.tables import Row, rows_of, runs_of

STEPS = {"standard": 50.0, "wgan-gp": 160.0}  # us at 64 rows
LARGE, SHARE = 8192, 0.6  # rows, and the part of the largest products' rate that a step should reach there
LEADS = {"eager": 30.0, "graph": 6.0, "compile": 3.5, "jax": 3.5}  # over the fastest candidate whose name begins so
BEGINNINGS = {"eager": ("eager",), "graph": ("graph",), "compile": ("compile", "autotuned"), "jax": ("jax",)}
ARTICLE = 5.0  # seconds of training for 100 epochs


class Goal(NamedTuple):
    """One figure: what it should be, at most or at least, and what it is; None where nothing was measured."""

    name: str
    wanted: float
    found: float | None
    at_most: bool = True

    @property
    def line(self) -> str:
        sign = "<=" if self.at_most else ">="
        if self.found is None:
            return f"{self.name:46} {sign} {self.wanted:6g}  not measured"
        reached = self.found <= self.wanted if self.at_most else self.found >= self.wanted
        return f"{self.name:46} {sign} {self.wanted:6g}  {self.found:8.2f}  {'reached' if reached else 'SHORT'}"


def goals(rows: list[Row]) -> Iterator[Goal]:
    """Every figure, by the newest run that has it."""
    for work, wanted in STEPS.items():
        runs = runs_of(rows, work)
        yield Goal(f"{work}, 64 rows, us a step", wanted, runs[-1][YARDSTICK]["p50"] if runs else None)
        for peer, lead in LEADS.items() if work == "standard" else ():
            leads = [found for run in runs if (found := _lead(run, peer)) is not None]
            yield Goal(f"times as fast as the best {peer}", lead, leads[-1] if leads else None, at_most=False)
    yield Goal(f"standard, {LARGE} rows, of the products' ceiling", SHARE, _share(rows), at_most=False)
    played = [row["seconds"] for row in rows if row["benchmark"] == "article" and row["label"] == "100 epochs"]
    yield Goal("the article's 100 epochs, s", ARTICLE, played[-1] if played else None)


def _lead(run: dict[str, Row], peer: str) -> float | None:
    """How many times as fast as the fastest of some candidates."""
    times = [row["p50"] for name, row in run.items() if name.startswith(BEGINNINGS[peer])]
    return min(times) / run[YARDSTICK]["p50"] if times else None


def _share(rows: list[Row]) -> float | None:
    """A large step's rate over that of a large product, both in bf16."""
    large = _last(rows, benchmark="step", label="standard", name=YARDSTICK, shape=[LARGE])
    ceiling = _last(rows, benchmark="micro.ceilings", label="product", name="bf16")
    return large["tflop_per_s"] / ceiling["tflop_per_s"] if large and ceiling else None


def _last(rows: list[Row], **fields: Any) -> Row | None:
    found = [row for row in rows if all(row.get(name) == value for name, value in fields.items())]
    return found[-1] if found else None


def lines(rows: list[Row]) -> list[str]:
    """A line for each goal."""
    return [goal.line for goal in goals(rows)]


if __name__ == "__main__":
    path = results(sys.argv[1] if len(sys.argv) > 1 else machine())
    print("\n".join(lines(rows_of(path)) if path.exists() else [f"there are no rows in {path.name}"]))
