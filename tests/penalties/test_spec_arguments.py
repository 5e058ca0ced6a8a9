"""What a trainer, a command line and a checkpoint have for penalties: what else is refused by name, with what to write."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastgan
from fastgan import penalties
from fastgan.penalties import DRAGAN, R1, R2, GradientPenalty, WeightClip, r1_penalty


def critic() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 1))


@pytest.mark.parametrize("spec", [GradientPenalty(), DRAGAN(), R1(), R2()], ids=str)
def test_a_spec_is_no_function(spec: penalties.Penalty) -> None:
    for arguments in ((critic(), torch.zeros(4, 12)), (critic(), torch.zeros(4, 12), torch.ones(4, 12)), ()):
        with pytest.raises(TypeError, match=rf"{type(spec).__name__} is a spec.*gradient_penalty\(critic, real, fake\)"):
            spec(*arguments)
    with pytest.raises(TypeError, match=r"must be a number, got a module of \S+\.Sequential: .*r1_penalty\(critic, real\)"):
        type(spec)(critic(), torch.zeros(4, 12))
    for wrong in (5.0, [torch.zeros(4, 12)], critic(), np.zeros(3)):
        with pytest.raises(TypeError, match="gradient must be a tensor of floating-point rows"):
            spec.value(wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (R1, r"the class fastgan\.penalties\.specs\.R1: write R1\(\), an instance of it"),
        ([R1(), WeightClip], r"the class fastgan\.penalties\.specs\.WeightClip: write WeightClip\(\)"),
        (nn.Linear, r"the class torch\.nn\.modules\.linear\.Linear, such as"),
        ("r1:5", r"'r1:5': write penalties\.parse\('r1:5'\)"),
        (["r1"], r"write penalties\.parse\('r1'\)"),
        (None, r"None: write \(\) for none"),
        (10.0, r"10\.0, such as penalties\.R1"),
        (r1_penalty, r"the function r1_penalty, such as penalties\.R1"),
        (torch.tensor(10.0), r"a tensor of torch\.float32, shape \(\)"),
        (torch.ones(2), r"a tensor of torch\.float32, shape \(2,\)"),
        ({"r1": R1()}, "dict"),
    ],
)
def test_what_is_no_spec(wrong: Any, words: str) -> None:
    for call in (penalties.as_specs, penalties.to_config):
        with pytest.raises(TypeError, match=f"a penalty must be a spec from fastgan.penalties, got .*{words}|{words}"):
            call(wrong)


def test_a_trainer_says_what_to_write_for_a_class() -> None:
    with pytest.raises(TypeError, match=r"write R1\(\), an instance of it"):
        fastgan.Trainer(nn.Linear(2, 2), nn.Linear(2, 1), penalty=R1, device="cpu")


def test_one_spec_becomes_a_configuration() -> None:
    assert penalties.to_config(R2(3.0)) == penalties.to_config([R2(3.0)]) == [{"type": "R2", "gamma": 3.0, "every": 1}]
    assert penalties.as_specs(spec for spec in (R1(), R2())) == (R1(), R2())


@pytest.mark.parametrize("wrong", [None, 10.0, R1(), ["gp"], b"gp"], ids=str)
def test_text_that_is_none(wrong: Any) -> None:
    with pytest.raises(TypeError, match='text must be a string such as "gp:10" or "none", got'):
        penalties.parse(wrong)


@pytest.mark.parametrize("wrong", [None, "R1", {"type": "R1"}, [R1()], [{"gamma": 1.0}], ["R1"]])
def test_a_configuration_that_is_none(wrong: Any) -> None:
    with pytest.raises(TypeError, match="config must be what to_config returned"):
        penalties.from_config(wrong)


def test_a_configuration_of_other_penalties() -> None:
    with pytest.raises(ValueError, match="penalty is a Mine, which is not fastgan's own: pass penalty="):
        penalties.from_config([{"type": "R1"}, {"type": "Mine", "gamma": 5.0}])
    with pytest.raises(ValueError, match="R1 has no gama, wait, only gamma, every"):
        penalties.from_config([{"type": "R1", "gama": 5.0, "wait": 3}])
    with pytest.raises(TypeError, match="gamma must be a number, got '5'"):
        penalties.from_config([{"type": "R1", "gamma": "5"}])


def test_a_penalty_of_ones_own_has_fields_of_any_kind() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(penalties.R1):
        centered: bool = True
        schedule: str = "cosine"
        bound: float | None = None

    spec = Mine(2.0, centered=False)
    assert (spec.gamma, spec.centered, spec.schedule, spec.bound, spec.every) == (2.0, False, "cosine", None, 1)
    with pytest.raises(TypeError, match="centered must be True or False, got 2"):
        Mine(2.0, 1, 2)
    with pytest.raises(TypeError, match="gamma must be a number"):
        Mine("2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gp:1:2:3", r"'gp:1:2:3' is not of the form NAME\[:AMOUNT\[:EVERY\]\]: gp takes 2 of these numbers at most, got 3"),
        ("r1:1:2:3:4", "r1 takes 2 of these numbers at most, got 4"),
        ("dragan:1:2:", "dragan takes 2 of these numbers at most, got 3"),
        ("clip:0.1:2", "clip takes 1 of these numbers at most, got 2"),
        ("r1:5,lp:ten", "'lp:ten' is not of the form .*: 'ten' is not a number"),
        ("r2:", "'' is not a number"),
        ("r1:1:1.5", "'1.5' is not a whole number"),
        ("gp:1:0", "every must be a whole number >= 1, got 0"),
        ("clip:-1", "bound must be a finite number > 0, got -1"),
    ],
)
def test_a_text_of_another_form_is_told_the_form_and_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        penalties.parse(text)


def test_a_penalty_of_ones_own_is_no_namesake() -> None:
    """A class that is called as one of fastgan's is written with its module, and not read as that one."""
    own = dataclasses.dataclass(frozen=True)(type("R1", (R1,), {"__module__": __name__}))
    (config,) = penalties.to_config(own(5.0))
    assert config == {"type": "R1", "module": __name__, "gamma": 5.0, "every": 1}
    with pytest.raises(ValueError, match="penalty is a R1, which is not fastgan's own"):
        penalties.from_config([config])
