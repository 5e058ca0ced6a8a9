"""Checkpoints say which instruction set products had, and a run that goes on with another one says that bits may differ."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastgan import Trainer
from fastgan.runtime import instruction_sets
from fastgan.training import checkpoint
from fastgan.training.checkpoint import CheckpointError
from tests.training.runs import critic, generator, trained

CLOSED = dict(engine="closed-form", precision="fp32", device="cpu")


def saved(folder: Path, cpu: str, **options: Any) -> Path:
    """A checkpoint of a run on packed products, or torch's ("off")."""
    with instruction_sets.forced(cpu):
        trained(**options).save(folder)
    return folder


@pytest.mark.usefixtures("requires_extension")
@pytest.mark.parametrize(("first", "then"), [("portable", "off"), ("off", "portable"), ("portable", "portable")])
def test_a_run_goes_on_with_other_products_and_says_so(
    first: str, then: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path / "it", first, **CLOSED)
    with instruction_sets.forced(then), caplog.at_level(logging.WARNING, logger="fastgan"):
        again = Trainer.load(folder, generator(), critic())
    names = {"portable": "'portable'", "off": "torch's"}
    said = [f"was trained with {names[first]} products and goes on with {names[then]}: bits may differ"] * (first != then)
    assert [message.split(f"{folder} ")[1].removesuffix(" from here on") for message in caplog.messages] == said
    assert again.config()["instruction_set"] == (None if then == "off" else then)


@pytest.mark.usefixtures("requires_extension")
def test_checkpoints_from_before_they_said_it_are_taken_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = checkpoint.load(saved(tmp_path / "it", "portable", **CLOSED))
    older = {name: value for name, value in found.config.items() if name != "instruction_set"}
    checkpoint.save(tmp_path / "older", replace(found, config=older))
    with instruction_sets.forced("portable"), caplog.at_level(logging.WARNING, logger="fastgan"):
        Trainer.load(tmp_path / "older", generator(), critic())
    assert not caplog.messages


def test_another_engine_has_no_packed_products(tmp_path: Path) -> None:
    folder = saved(tmp_path / "it", "auto", engine="autograd", device="cpu")
    assert json.loads((folder / "config.json").read_text())["instruction_set"] is None


def test_an_instruction_set_that_is_no_name_is_an_error(tmp_path: Path) -> None:
    found = checkpoint.load(saved(tmp_path / "it", "auto", device="cpu"))
    checkpoint.save(tmp_path / "other", replace(found, config=found.config | {"instruction_set": ["avx2"]}))
    with pytest.raises(CheckpointError, match="instruction_set is a list"):
        Trainer.load(tmp_path / "other", generator(), critic())
