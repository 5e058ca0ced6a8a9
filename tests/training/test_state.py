"""A trainer comes back as the run that it was, and what is of another run or no state at all is refused by name."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastgan
from fastgan import Trainer, optim, penalties
from fastgan.training.checkpoint import Checkpoint, CheckpointError
from tests.training.runs import POINTS, assert_same_weights, critic, generator, trained, trainer_of, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

# a trainer is not pickled


@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(pickle.dumps, id="pickle"),
        pytest.param(lambda trainer: pickle.dumps({"of": [trainer]}, 2), id="inside something, an old protocol"),
        pytest.param(lambda trainer: torch.save(trainer, "trainer.pt"), id="torch.save"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(copy.copy, id="copy"),
    ],
)
def test_a_trainer_is_saved_and_not_pickled(how: Callable, engine: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer, twin = trained(engine=engine), trained(engine=engine)
    with pytest.raises(TypeError, match=r"save\(folder\) it, and Trainer.load\(folder"):
        how(trainer)
    trainer.step(2)
    twin.step(2)
    assert_same_weights(trainer, twin)


# every argument comes back


OPTIONS: dict[str, dict[str, Any]] = {
    "engine": dict(engine="autograd"),
    "closed form": dict(engine="closed-form"),
    "capture": dict(capture="off"),
    "steps_per_graph": dict(steps_per_graph=3),
    "precision": dict(precision="bf16"),
    "fp64": dict(precision="fp64"),
    "loss": dict(loss="hinge"),
    "penalty": dict(penalty=penalties.R1(0.3, every=2)),
    "no penalty": dict(loss="wgan-gp", penalty=()),
    "optimizers": dict(g_optimizer=optim.SGD(0.1, momentum=0.5), d_optimizer=optim.RMSprop(optim.linear(1e-2, steps=9))),
    "d_steps": dict(d_steps=3),
    "ema": dict(ema=0.7),
    "seed": dict(seed=99),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_loaded_trainer_is_as_it_was_asked_for_and_goes_on(options: dict, tmp_path: Path) -> None:
    whole, part = trained(**options), trained(**options)
    part.save(tmp_path / "saved")
    loaded = Trainer.load(tmp_path / "saved", generator(), critic(), device="cpu")
    assert json.loads(json.dumps(loaded.config())) == json.loads(json.dumps(part.config()))
    assert loaded.engine == part.engine
    loaded.attach(POINTS, 4).step(3)
    whole.step(3)
    assert_same_weights(loaded, whole)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, OPTIONS[name]) for name in ("engine", "precision", "loss", "penalty", "d_steps", "ema", "seed")]
    + [("g_optimizer", OPTIONS["optimizers"]), ("d_optimizer", dict(d_optimizer=optim.Adam(1e-3)))],
)
def test_restore_names_what_is_another(name: str, options: dict, tmp_path: Path) -> None:
    trained().save(tmp_path / "plain")
    trained(**options).save(tmp_path / "other")
    for mine, folder in ((options, "plain"), ({}, "other")):
        trainer = trained(**mine)
        before = weights_of(trainer)
        with pytest.raises(CheckpointError, match=f"{folder} was trained with another {name}: .* there, .* here"):
            trainer.restore(tmp_path / folder)
        assert all(torch.equal(value, before[name]) for name, value in weights_of(trainer).items()) and trainer.step_count == 2


def test_how_steps_are_launched_may_change(tmp_path: Path) -> None:
    trained(capture="off", steps_per_graph=2).save(tmp_path / "saved")
    trainer = trained()
    trainer.step()
    trainer.restore(tmp_path / "saved")
    assert trainer.step_count == 2


def test_fastgans_networks_of_another_dropout_are_another_run(tmp_path: Path) -> None:
    def pair(dropout: float) -> tuple[nn.Module, nn.Module]:
        return fastgan.Generator(4, image_size=8), fastgan.Discriminator(8, dropout)

    Trainer(*pair(0.3), device="cpu").save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"another discriminator: .*0.3.* there, .*0.5.* here"):
        Trainer(*pair(0.5), device="cpu").restore(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="another discriminator"):
        Trainer.load(tmp_path / "saved", discriminator=pair(0.5)[1], device="cpu")
    assert Trainer.load(tmp_path / "saved", device="cpu").discriminator.dropout == 0.3


def test_a_subclass_with_the_name_of_fastgans_network_is_not_taken_for_it(tmp_path: Path) -> None:
    Generator = type("Generator", (fastgan.Generator,), {"forward": lambda self, z: -self.main(z)})
    Trainer(Generator(4, image_size=8), fastgan.Discriminator(8), device="cpu").save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"generator is a .*Generator: pass one as generator="):
        Trainer.load(tmp_path / "saved", device="cpu")
    assert Trainer.load(tmp_path / "saved", Generator(4, image_size=8), device="cpu").step_count == 0


# penalties of one's own


@dataclass(frozen=True)
class Centred(penalties.Penalty):
    """A penalty with something in it that is no plain data."""

    weight: float = 2.0
    every: int = 1
    around: Any = field(default_factory=lambda: torch.zeros(8))

    def __post_init__(self) -> None:
        assert self.weight >= 0

    def points(self, real, fake, draws, index):
        return real - self.around

    def value(self, gradient):
        return self.weight * gradient.square().mean()


def test_a_penalty_of_ones_own_is_passed_to_load(tmp_path: Path) -> None:
    whole, part = trained(penalty=Centred(3.0)), trained(penalty=Centred(3.0))
    part.save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="penalty is a Centred, which is not fastgan's own: pass penalty="):
        Trainer.load(tmp_path / "saved", generator(), critic(), device="cpu")
    with pytest.raises(CheckpointError, match=r"another penalty: .*3\.0.* there, .*1\.0.* here"):
        Trainer.load(tmp_path / "saved", generator(), critic(), penalty=Centred(1.0), device="cpu")
    loaded = Trainer.load(tmp_path / "saved", generator(), critic(), penalty=Centred(3.0), device="cpu")
    loaded.attach(POINTS, 4).step(2)
    whole.step(2)
    assert_same_weights(loaded, whole)
    trained(penalty=Centred(3.0)).restore(tmp_path / "saved")


def test_a_penalty_with_the_name_of_fastgans_is_not_taken_for_it(tmp_path: Path) -> None:
    R1 = type("R1", (penalties.R1,), {"value": lambda self, gradient: 0.0 * gradient.sum()})
    trained(penalty=[R1(0.5), penalties.R2(0.5)]).save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="penalty is a R1, which is not fastgan's own"):
        Trainer.load(tmp_path / "saved", generator(), critic(), device="cpu")
    loaded = Trainer.load(tmp_path / "saved", generator(), critic(), penalty=[R1(0.5), penalties.R2(0.5)], device="cpu")
    assert type(loaded.penalties[0]) is R1


# what load_state_dict takes


MISFITS: dict[str, tuple[dict, dict, str]] = {
    "no average": ({}, dict(ema=0.9), "no average.*ema.*without ema="),
    "an average": (dict(ema=0.9), {}, "an average.*ema.*with the ema= that it had"),
    "another generator's optimizer": (dict(g_optimizer=optim.SGD(0.1)), {}, "another g_optimizer: .*Sequential with adam"),
    "a discriminator's momentum": (
        dict(d_optimizer=optim.SGD(0.1, momentum=0.9)),
        dict(d_optimizer=optim.SGD(0.1)),
        "another d_optimizer: .*it has count, state.0, not count",
    ),
    "no loss scale": (dict(engine="autograd"), dict(precision="fp16"), "no loss scale, which fp16 .* precision is fp16"),
    "a loss scale": (dict(precision="fp16"), dict(engine="autograd"), "a loss scale, .* precision is fp32"),
    "wider weights": (dict(precision="fp64"), {}, r"generator's 0.bias is torch.float64 there, torch.float32 here.*\"fp64\""),
    "narrower weights": ({}, dict(precision="fp64"), "generator's 0.bias is torch.float32 there, torch.float64 here"),
}


@pytest.mark.parametrize(("theirs", "mine", "message"), MISFITS.values(), ids=MISFITS)
def test_a_state_of_another_configuration_is_refused_by_name(theirs: dict, mine: dict, message: str) -> None:
    trainer, state = trained(**mine), trained(**theirs).state_dict()
    before, count = weights_of(trainer), trainer.step_count
    with pytest.raises(CheckpointError, match=message):
        trainer.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(trainer).items()) and trainer.step_count == count


def test_a_state_of_other_trained_parameters_says_so() -> None:
    def partly_frozen() -> nn.Module:
        module = generator()
        module[0].requires_grad_(False)
        return module

    with pytest.raises(CheckpointError, match=r"another g_optimizer: .* numbers, not .*; other parameters were trained"):
        trained().load_state_dict(trained(partly_frozen).state_dict())


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        pytest.param("runs/mine", TypeError, r"write restore\('runs/mine'\)", id="a path"),
        pytest.param(Path("runs/mine"), TypeError, r"write restore\('runs/mine'\)", id="a Path"),
        pytest.param(None, TypeError, "got None", id="None"),
        pytest.param([1, 2], TypeError, "got a list of 2", id="a list"),
        pytest.param(Checkpoint({}, {}), TypeError, "got an object of .*Checkpoint", id="a checkpoint"),
        pytest.param({}, CheckpointError, "without generator, discriminator, g_optimizer", id="an empty dict"),
        pytest.param(generator().state_dict(), CheckpointError, "trainer.generator.load_state_dict", id="a network's"),
        pytest.param(torch.optim.Adam(critic().parameters()).state_dict(), CheckpointError, "without generator", id="torch's"),
    ],
)
def test_what_is_no_state_is_refused_with_what_to_write(state: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        trained().load_state_dict(state)


def test_half_a_state_names_what_it_lacks() -> None:
    trainer = trained()
    state = trainer.state_dict()
    for name in ("generator", "step", "step_count", "skipped"):
        with pytest.raises(CheckpointError, match=f"a dict without {name} is"):
            trainer.load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(CheckpointError, match="a dict without d_optimizer is"):
        trainer.load_state_dict(state | {"d_optimizer": None})


SPOILT: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "a step before the first": (("step_count",), -2, "the saved step_count must be a whole number >= 0, got -2"),
    "a step that is a switch": (("step_count",), True, "the saved step_count must be .* got True"),
    "several counters": (
        ("skipped",),
        torch.zeros(3, dtype=torch.int64),
        r"saved skipped must be .*, shape \(\), got .*\(3,\)",
    ),
    "half an update": (("skipped",), torch.tensor(0.5), "saved skipped must be a tensor of torch.int64, .* torch.float32"),
    "a shape by text": (("sample_shape",), "8", r"saved sample_shape must be .*, such as \(1, 28, 28\), got '8'"),
    "a shape below 1": (("sample_shape",), (1, -8), r"saved sample_shape must be .* got \(1, -8\)"),
    "no moment": (
        ("g_optimizer", "state.0"),
        None,
        "saved g_optimizer's state.0 must be a tensor of torch.float32, .* got None",
    ),
    "a moment's numbers": (("d_optimizer", "state.1"), [0.0] * 3, "saved d_optimizer's state.1 must be .* got a list of 3"),
    "half moments": (("d_optimizer", "state.0"), torch.float16, "d_optimizer's state.0 must be .*float32.* got .*float16"),
    "double moments": (("g_optimizer", "state.1"), torch.float64, "g_optimizer's state.1 must be .*float32.* got .*float64"),
    "counts of groups": (
        ("g_optimizer", "count"),
        torch.zeros(2, dtype=torch.int64),
        "g_optimizer's count must be .* got .*2,",
    ),
    "a half average": (("g_optimizer", "average"), torch.bfloat16, "g_optimizer's average must be .* got .*bfloat16"),
    "a loss scale's number": (("step", "scale.0"), 2.0, "the saved step's scale.0 must be a tensor of .* got 2.0"),
    "no weight": (("generator", "0.weight"), None, r"generator's 0.weight is None there, \(16, 4\) here"),
    "a weight's rows": (("discriminator", "0.weight"), [[1.0]], r"discriminator's 0.weight is a list of 1 there, \(16, 8\)"),
    "a number for a name": (("generator", 7), torch.zeros(2), r"generator's 7 is \(2,\) there, absent here"),
}


@pytest.mark.parametrize(("path", "value", "message"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_state_is_refused_by_name_before_anything_is_written(path: tuple, value: Any, message: str) -> None:
    def other() -> Trainer:
        return trained(ema=0.5, precision="fp16", engine="autograd")

    state = {name: dict(part) if isinstance(part, dict) else part for name, part in copy.deepcopy(other().state_dict()).items()}
    place = state if len(path) == 1 else state[path[0]]
    place[path[-1]] = place[path[-1]].to(value) if isinstance(value, torch.dtype) else value
    trainer = other()
    trainer.step()
    before = weights_of(trainer)
    with pytest.raises(CheckpointError, match=message):
        trainer.load_state_dict(state)
    assert all(torch.equal(now, before[name]) for name, now in weights_of(trainer).items()) and trainer.step_count == 3


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        pytest.param(
            lambda: (generator().double(), critic().double()), "generator's 0.bias is .*float32 there, .*float64", id="both"
        ),
        pytest.param(
            lambda: (generator(), critic().double()), "discriminator's 0.bias is .*float32 there, .*float64", id="one"
        ),
        pytest.param(lambda: (generator().half(), critic()), "generator's 0.bias is .*float32 there, .*float16", id="half"),
    ],
)
def test_given_networks_of_another_dtype_are_named(pair: Callable, named: str, tmp_path: Path) -> None:
    trained().save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=named):
        Trainer.load(tmp_path / "saved", *pair(), device="cpu")
    whole = trained(precision="fp64")
    whole.save(tmp_path / "whole")
    assert_same_weights(Trainer.load(tmp_path / "whole", *pair(), device="cpu"), whole)


def test_networks_that_do_not_fit_are_named_by_their_parameter(tmp_path: Path) -> None:
    trained().save(tmp_path / "saved")
    wide = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(16, 1, bias=False))
    with pytest.raises(CheckpointError, match=r"another architecture: discriminator's 3.bias is \(1,\) there, absent here"):
        Trainer.load(tmp_path / "saved", generator(), wide, device="cpu")
    with pytest.raises(CheckpointError, match=r"another architecture: discriminator's 3.bias"):
        trainer_of(make_critic=lambda: wide).restore(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"the checkpoint's discriminator is a .*Sequential: pass one as discriminator="):
        Trainer.load(tmp_path / "saved", generator(), device="cpu")
