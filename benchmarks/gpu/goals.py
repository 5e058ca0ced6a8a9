"""What a GPU is meant to reach, beside what its stored rows say: python -m benchmarks.gpu.goals [machine] [--card h100].

A step has two figures, by its card (`cards`): what it must take at most, and the goal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.gpu.cards import CARDS, Card, add_option, card_of
from benchmarks.harness.rows import machine, results
from benchmarks.step.comparison import YARDSTICK
from benchmarks.tables import Row, rows_of, runs_of

LARGE, SHARE = 8192, 0.6  # rows, and the part of the largest products' rate that a step should reach there
LEADS = {"eager": 30.0, "graph": 6.0, "compile": 3.5, "jax": 3.5}  # over the fastest candidate whose name begins so
BEGINNINGS = {"eager": ("eager",), "graph": ("graph",), "compile": ("compile", "autotuned"), "jax": ("jax",)}
ARTICLE = 5.0  # seconds of training for 100 epochs


class Goal(NamedTuple):
    """One figure: what it should be, at most or at least, and what it is; None where nothing was measured.

    must: what it has to be in any case, where that is less than what is wanted.
    """

    name: str
    wanted: float
    found: float | None
    at_most: bool = True
    must: float | None = None

    @property
    def line(self) -> str:
        text = f"{self.name:46} {'<=' if self.at_most else '>='} {self.wanted:6g}"
        text += f" (must {self.must:g})" if self.must is not None else ""
        if self.found is None:
            return f"{text}  not measured"
        said = "reached" if self._reaches(self.wanted) else "SHORT"
        if self.must is not None and said == "SHORT" and self._reaches(self.must):
            said = "must reached, goal SHORT"
        return f"{text}  {self.found:8.2f}  {said}"

    def _reaches(self, wanted: float) -> bool:
        assert self.found is not None
        return self.found <= wanted if self.at_most else self.found >= wanted


def goals(rows: list[Row], card: Card) -> Iterator[Goal]:
    """Every figure, by the newest run that has it."""
    for work, (must, wanted) in card.steps.items():
        runs = runs_of(rows, work)
        yield Goal(f"{work}, 64 rows, us a step", wanted, runs[-1][YARDSTICK]["p50"] if runs else None, must=must)
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


def lines(rows: list[Row], card: Card | None = None) -> list[str]:
    """A line for each goal; those of the card that the rows are of, unless another is given."""
    card = card or card_of(rows[-1].get("machine", "") if rows else "")
    return [goal.line for goal in goals(rows, card)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.goals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("machine", nargs="?", help="whose rows: this one's unless given")
    add_option(parser, default=None)
    arguments = parser.parse_args()
    path = results(arguments.machine or machine())
    card = CARDS[arguments.card] if arguments.card else card_of(path.stem)
    print("\n".join(lines(rows_of(path), card) if path.exists() else [f"there are no rows in {path.name}"]))


if __name__ == "__main__":
    main()
