"""The games that compute-sanitizer watches: their metrics by Triton's kernels against those of autograd in fp64 on a CPU."""

from __future__ import annotations

import pytest

from benchmarks.gpu import sanitize


@pytest.mark.slow
@pytest.mark.parametrize("game", sanitize.GAMES)
def test_metrics_are_the_stored_ones(game: str, precision: str) -> None:
    if precision not in sanitize.RELATIVE:
        pytest.skip("the games are played in fp32 and bf16")
    assert sanitize.wrong(game, precision, sanitize.play(game, precision)) == []
