"""Checkpoints of format 1, written by the first edition, are read for ever, and training goes on from them as it did then."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fastgan.runtime import instruction_sets
from fastgan.training import checkpoint
from tests.golden import FORMAT1, games

TOLERANCE = {"fp32": 1e-4, "fp64": 1e-9}
STORED = sorted(FORMAT1.iterdir())
pytestmark = pytest.mark.usefixtures("one_thread")


def split(folder: Path) -> tuple[str, str]:
    """The game and the precision of a stored folder."""
    game, _, precision = folder.name.partition("-")
    return game, precision


def compared(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that are a function of gradients, not of rounding errors alone."""
    return {name: tensor for name, tensor in weights.items() if name not in games.WITHOUT_A_GRADIENT[split(folder)[0]]}


def assert_close(folder: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    tolerance = TOLERANCE[split(folder)[1]]
    assert found.keys() == expected.keys()
    for name, tensor in compared(folder, found).items():
        torch.testing.assert_close(tensor, expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_every_game_is_stored_in_every_precision() -> None:
    assert {split(folder) for folder in STORED} == {(game, precision) for game in games.PAIRS for precision in games.PRECISIONS}


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_a_run_goes_on_as_it_did(folder: Path) -> None:
    trainer = games.resume(folder)
    game, precision = split(folder)
    assert (trainer.step_count, trainer.precision, trainer.engine) == (games.STEPS, precision, games.ENGINES[game])
    trainer.step(games.MORE)
    found = games.weights_of(trainer)
    assert any(not torch.equal(found[f"{role}.{name}"], old) for role, name, old in _stored_weights(folder)), "nothing moved"
    for after in sorted(folder.glob("after*")):
        assert_close(folder, found, load_file(after / "weights.safetensors"))


def _stored_weights(folder: Path) -> list[tuple[str, str, Tensor]]:
    weights = checkpoint.load(folder / "checkpoint").weights
    return [(role, name, tensor) for role in ("generator", "discriminator") for name, tensor in weights[role].items()]


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_where_it_was_written_it_goes_on_bit_for_bit(folder: Path) -> None:
    here = dict(processor=games.processor(), torch=torch.__version__, threads=torch.get_num_threads(), steps=games.MORE)
    alike = [after for after in sorted(folder.glob("after*")) if json.loads((after / "about.json").read_text()) == here]
    if not alike:
        pytest.skip(f"no weights are stored of {here['processor']} with torch {here['torch']}")
    with instruction_sets.forced("off"):  # products were torch's then
        trainer = games.resume(folder)
    trainer.step(games.MORE)
    found, expected = games.weights_of(trainer), load_file(alike[-1] / "weights.safetensors")
    assert found.keys() == expected.keys()
    assert not [name for name in found if not torch.equal(found[name], expected[name])]


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_a_trainer_of_today_takes_it_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = games.trainer_of(*split(folder))
    with caplog.at_level(logging.WARNING, "fastgan"):
        trainer.restore(folder / "checkpoint")
    assert not caplog.records, "the data is the same to today's fingerprint"
    other = games.resume(folder)
    for each in (trainer, other):
        each.step(games.MORE)
    mine, theirs = games.weights_of(trainer), games.weights_of(other)
    assert not [name for name in mine if not torch.equal(mine[name], theirs[name])]


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_today_writes_what_it_read(folder: Path, tmp_path: Path) -> None:
    """File names, state keys, shapes and values; a later version may write more."""
    games.resume(folder).save(tmp_path / "again")
    old, new = checkpoint.load(folder / "checkpoint"), checkpoint.load(tmp_path / "again")
    assert old.config == {name: new.config[name] for name in old.config} | {"networks": old.config["networks"]}
    for one, other in ((old.weights, new.weights), (old.state, new.state)):
        _assert_contained(one, other)


def _assert_contained(old: object, new: object, at: str = "") -> None:
    if isinstance(old, dict):
        assert isinstance(new, dict) and old.keys() <= new.keys(), at
        for name, value in old.items():
            _assert_contained(value, new[name], f"{at}.{name}")
    elif isinstance(old, Tensor):
        assert isinstance(new, Tensor) and torch.equal(old, new), at
    else:
        assert old == new, at
