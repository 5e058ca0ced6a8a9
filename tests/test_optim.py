"""Optimizer specs: torch.optim's names and defaults, what they refuse, schedules, command lines, checkpoints."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch

from fastgan import optim
from fastgan.optim import SGD, Adam, Optimizer, RMSprop, Schedule

SPECS = {SGD: torch.optim.SGD, RMSprop: torch.optim.RMSprop, Adam: torch.optim.Adam}
NOT_AMOUNTS = (-1e-3, math.nan, math.inf, 10**400, "0.1", None)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_names_and_defaults_are_torch_optims(spec: type[Optimizer]) -> None:
    torchs = inspect.signature(SPECS[spec]).parameters
    fields = [field.name for field in dataclasses.fields(spec)]
    assert fields[0] == "lr"
    for name in fields:
        default = torchs[name].default
        assert getattr(spec(), name) == default


def test_the_learning_rate_comes_first() -> None:
    assert SGD(0.1).lr == RMSprop(0.1).lr == Adam(0.1).lr == 0.1
    assert Adam(2e-4, betas=(0.5, 0.999)) == Adam(lr=2e-4, betas=(0.5, 0.999))


def test_specs_are_values() -> None:
    assert Adam(1e-3) == Adam() and hash(Adam(1e-3)) == hash(Adam()) and Adam() != Adam(1e-4) and SGD() != Adam()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Adam().lr = 0.1  # type: ignore[misc]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
@pytest.mark.parametrize("bad", NOT_AMOUNTS, ids=repr)
def test_amounts_are_finite_and_not_negative(spec: type[Optimizer], bad: object) -> None:
    for name in {"lr", "eps", "weight_decay", "momentum", "dampening", "alpha"} & {f.name for f in dataclasses.fields(spec)}:
        with pytest.raises(ValueError, match=name):
            spec(**{name: bad})


@pytest.mark.parametrize("betas", [(1.0, 0.999), (0.9, 1.0), (-0.1, 0.9), (0.9, math.nan), ("a", 0.9)], ids=repr)
def test_betas_lie_in_the_unit_interval(betas: tuple) -> None:
    with pytest.raises(ValueError, match=r"beta[12]"):
        Adam(betas=betas)


@pytest.mark.parametrize("value", [1.0, 1.5], ids=repr)
@pytest.mark.parametrize(("spec", "name"), [(SGD, "momentum"), (RMSprop, "momentum"), (RMSprop, "alpha")])
def test_decays_lie_in_the_unit_interval(spec: type, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\)"):
        spec(0.1, **{name: value})


@pytest.mark.parametrize("betas", [(), (0.9,), (0.9, 0.99, 0.999)], ids=repr)
def test_betas_are_two(betas: tuple) -> None:
    with pytest.raises(ValueError, match="betas"):
        Adam(betas=betas)


def test_betas_given_as_a_list_make_the_same_spec() -> None:
    spec = Adam(betas=[0.5, 0.9])  # type: ignore[arg-type]
    assert spec == Adam(betas=(0.5, 0.9)) and hash(spec) == hash(Adam(betas=(0.5, 0.9)))


@pytest.mark.parametrize("options", [dict(), dict(momentum=0.9, dampening=0.1)], ids=["no momentum", "dampening"])
def test_nesterov_is_refused_where_torch_refuses_it(options: dict) -> None:
    for build in (lambda: SGD(nesterov=True, **options), lambda: torch.optim.SGD([torch.zeros(1)], nesterov=True, **options)):
        with pytest.raises(ValueError, match="momentum"):
            build()
    assert SGD(momentum=0.9, nesterov=True).nesterov


def rate(schedule: Schedule, step: int) -> float:
    value = schedule(torch.tensor(step))
    assert value.shape == () and value.dtype == torch.float64
    return value.item()


def test_a_linear_schedule_is_a_straight_line_that_ends() -> None:
    schedule = optim.linear(1.0, 0.2, steps=10)
    rates = [rate(schedule, step) for step in (0, 1, 5, 9, 10, 11, 10**9)]
    assert rates == pytest.approx([1.0, 0.92, 0.6, 0.28, 0.2, 0.2, 0.2])


def test_a_cosine_schedule_is_half_a_cosine_that_ends() -> None:
    schedule = optim.cosine(2.0, 1.0, steps=4)
    middle = math.sqrt(0.5)
    expected = [2.0, 1.5 + 0.5 * middle, 1.5, 1.5 - 0.5 * middle, 1.0, 1.0, 1.0]
    assert [rate(schedule, step) for step in (0, 1, 2, 3, 4, 5, 400)] == pytest.approx(expected, rel=1e-15)


def test_schedules_end_at_zero_unless_told_and_may_rise() -> None:
    assert rate(optim.cosine(3e-4, steps=7), 7) == rate(optim.linear(3e-4, steps=7), 7) == 0.0
    assert rate(optim.linear(0.0, 1.0, steps=4), 1) == pytest.approx(0.25)


def test_a_cosine_schedule_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=0.05)
    ours = optim.cosine(0.3, 0.05, steps=9)
    for step in range(9):
        assert rate(ours, step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("bad", NOT_AMOUNTS, ids=repr)
def test_schedules_refuse_bad_rates(bad: object) -> None:
    for build in (optim.cosine, optim.linear):
        with pytest.raises(ValueError, match="start"):
            build(bad, steps=5)
        with pytest.raises(ValueError, match="end"):
            build(1.0, bad, steps=5)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "10"], ids=repr)
def test_schedules_refuse_bad_lengths(steps: object) -> None:
    with pytest.raises(ValueError, match="steps"):
        optim.linear(1.0, steps=steps)  # type: ignore[arg-type]


def test_an_unknown_schedule_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="cosine or linear"):
        Schedule("step", 1.0, 0.0, 5)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("adam", Adam()),
        ("Adam:lr=2e-4,beta1=0.5", Adam(2e-4, betas=(0.5, 0.999))),
        ("adam:beta1=0,beta2=0.99", Adam(betas=(0.0, 0.99))),
        ("rmsprop:lr=5e-5,alpha=0.9,centered=true", RMSprop(5e-5, alpha=0.9, centered=True)),
        ("sgd:momentum=0.9,nesterov", SGD(momentum=0.9, nesterov=True)),
        ("sgd:nesterov,momentum=0.9", SGD(momentum=0.9, nesterov=True)),
        ("sgd:momentum=0.9,nesterov=no", SGD(momentum=0.9)),
        ("adam:lr=cosine:2e-4:0:20000,weight_decay=1e-2", Adam(optim.cosine(2e-4, steps=20000), weight_decay=1e-2)),
    ],
)
def test_optimizers_are_read_from_a_command_line(text: str, spec: Optimizer) -> None:
    assert optim.parse(text) == spec


def test_what_a_command_line_leaves_out_comes_from_the_preset_of_the_same_rule() -> None:
    base = Adam(1e-4, betas=(0.5, 0.9))
    assert optim.parse("adam:beta2=0.99", base) == Adam(1e-4, betas=(0.5, 0.99))
    assert optim.parse("sgd:lr=0.1", base) == SGD(0.1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no-such-rule", "sgd, rmsprop, adam"),
        ("", "sgd, rmsprop, adam"),
        ("adam:betas=0.5", "beta1, beta2"),
        ("sgd:beta1=0.5", "no option 'beta1'"),
        ("adam:lr=fast", "learning rate"),
        ("adam:beta1", "beta1"),
        ("adam:beta1=1", "beta1"),
        ("adam:lr=-1", "lr"),
        ("adam:lr=nan", "lr"),
        ("sgd:nesterov=maybe,momentum=0.9", "nesterov"),
    ],
)
def test_an_optimizer_that_cannot_be_read_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        optim.parse(text)


def test_rates_are_numbers_or_schedules() -> None:
    assert optim.parse_rate("2e-4") == 2e-4
    assert optim.parse_rate("linear:1:0.5:30") == optim.linear(1.0, 0.5, steps=30)
    for text, reason in (
        ("cosine:1:0", "SHAPE:START:END:STEPS"),
        ("cosine:1:0:10:2", "SHAPE:START:END:STEPS"),
        ("steps:1:0:10", "cosine or linear"),
        ("cosine:a:0:10", "start"),
        ("cosine:1:-1:10", "end"),
        ("cosine:1:0:0", "steps"),
        ("cosine:1:0:2.5", "steps"),
        ("cosine:1:0:inf", "steps"),
        ("cosine:1:0:nan", "steps"),
        ("", "number"),
    ):
        with pytest.raises(ValueError, match=reason):
            optim.parse_rate(text)


@pytest.mark.parametrize(
    "spec",
    [
        SGD(0.1, momentum=0.9, nesterov=True),
        RMSprop(5e-5, centered=True),
        Adam(2e-4, betas=(0.5, 0.999)),
        Adam(optim.cosine(2e-4, 1e-6, steps=100)),
    ],
    ids=repr,
)
def test_specs_survive_a_checkpoint(spec: Optimizer) -> None:
    config = optim.to_config(spec)
    assert optim.from_config(config) == spec
    as_json = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    assert optim.from_config(as_json) == spec
    assert config == optim.to_config(spec)  # reading it has not changed it
