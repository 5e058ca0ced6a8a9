"""Several steps in one call, as a captured graph runs them: they end where a run has something to do, and all are counted."""

from __future__ import annotations

from typing import Any

import pytest

from fastgan.training.fit import Fit, FitOptions
from tests.training.runs import POINTS, Counting, trainer_of


@pytest.mark.parametrize(
    ("periods", "stops"),
    [
        (dict(log_every=7), [7, 14, 20]),
        (dict(sample_every=6), [6, 12, 18, 20]),
        (dict(checkpoint_every=8), [8, 16, 20]),
        (dict(log_every=10, sample_every=4, checkpoint_every=15), [4, 8, 10, 12, 15, 16, 20]),
        ({}, [20]),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("most", [1000, 3])
def test_steps_end_where_something_is_due(most: int, periods: dict[str, int], stops: list[int]) -> None:
    run = Counting()
    run.stride = most
    options = dict(log_every=1000, sample_every=0, checkpoint_every=0) | periods
    Fit(run, FitOptions(20, 5, progress=False, **options)).run()  # type: ignore[arg-type]
    ends = [sum(run.strides[: count + 1]) for count in range(len(run.strides))]
    assert max(run.strides) <= most and set(stops) <= set(ends) and ends[-1] == 20
    assert most < 1000 or ends == stops


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_a_call_runs_as_many_steps_as_it_was_asked_for(most: int) -> None:
    """Whatever a player runs at once."""
    trainer = trainer_of().attach(POINTS, 4)
    played: list[tuple[int, int]] = []

    class Player:
        stride = most

        def play(self, images: Any, step: int, left: int, rows: int) -> tuple[int, dict[str, int]]:
            played.append((step, min(most, left)))
            return played[-1][1], {"d_loss": step}

    trainer._runner.player = Player()
    metrics = trainer.step(10)
    starts = list(range(0, 10, most))
    assert played == [(start, min(most, 10 - start)) for start in starts]
    assert trainer.step_count == 10 and metrics == {"d_loss": starts[-1]}
    trainer.step(2)
    assert trainer.step_count == 12
