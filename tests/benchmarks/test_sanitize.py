"""The stored metrics of benchmarks.gpu.sanitize, and that a wrong one is named."""

from __future__ import annotations

import math

import pytest

from benchmarks.gpu import sanitize


@pytest.mark.parametrize("game", sanitize.GAMES)
def test_stored_metrics_are_those_of_autograd_in_fp64(game: str) -> None:
    stored = sanitize.stored()
    assert stored.keys() == sanitize.GAMES.keys()
    assert sanitize.exact(game) == pytest.approx(stored[game], rel=1e-6, abs=1e-9), "--write computes them again"


@pytest.mark.parametrize("game", sanitize.GAMES)
@pytest.mark.parametrize("precision", sanitize.RELATIVE)
def test_a_correct_program_is_right_in_any_precision(game: str, precision: str) -> None:
    assert sanitize.wrong(game, precision, sanitize.play(game, precision, engine="autograd", device="cpu")) == []


@pytest.mark.parametrize("game", sanitize.GAMES)
def test_other_draws_are_wrong_even_in_bf16(game: str) -> None:
    """A mask, a latent or an order of rows that is not the seed's."""
    found = sanitize.play(game, "bf16", engine="autograd", seed=1, device="cpu")
    assert len(sanitize.wrong(game, "bf16", found)) > 3


@pytest.mark.parametrize("precision", sanitize.RELATIVE)
def test_each_metric_that_is_off_is_named(precision: str) -> None:
    for game, exact in sanitize.stored().items():
        assert sanitize.wrong(game, precision, exact) == []
        for name, value in exact.items():
            off = 1.1 * sanitize.tolerance(game, name, precision, value)
            for wrong in (value + off, value - off, math.nan, math.inf):
                lines = sanitize.wrong(game, precision, exact | {name: wrong})
                assert len(lines) == 1 and lines[0].startswith(f"WRONG: {game} {precision} {name} is ")
            assert len(sanitize.wrong(game, precision, {n: v for n, v in exact.items() if n != name})) == 1


def test_a_wrong_metric_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = sanitize.stored()["wgan-gp"]
    monkeypatch.setattr(sanitize, "play", lambda game, precision: found | dict(d_loss=7.0 * (precision == "bf16")))
    assert not sanitize.run("wgan-gp", "bf16")
    assert "WRONG: wgan-gp bf16 d_loss is 7, exactly 7.53" in capsys.readouterr().out
    monkeypatch.setattr(sanitize, "play", lambda *_: found)
    assert sanitize.run("wgan-gp", "bf16") and "8 metrics are right" in capsys.readouterr().out
