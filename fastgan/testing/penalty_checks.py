"""What is looked at in a penalty, one check at a time, each against the closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import points
from .critics import PiecewiseLinear, Recorder, direction, linear, quadratic, rows
from .faults import (
    HALF_PRECISION,
    NO_GRAPH,
    NOT_ASKED,
    NOT_ONE_NUMBER,
    RAISES,
    WRONG_VALUE,
    Check,
    Fault,
    Found,
    Mistake,
    explain,
    fault,
    one_number,
    unless_refused,
)

Call = Callable[..., Tensor]
Where = Callable[[points.Ask, torch.dtype], Iterator[Fault]]

SHAPES = ((1, 3, 2, 4), (5, 1, 4, 3), (16, 3, 5, 2))
NEAR = 1e-3  # an eps of 1e-4 inside a root is no fault
UPSTREAM = 2.0


def _squares(g: Tensor) -> Tensor:
    return g.flatten(1).square().sum(1)


def _norms(g: Tensor) -> Tensor:
    return torch.linalg.vector_norm(g.flatten(1), dim=1)


@dataclass(frozen=True)
class Formula:
    """weight * factor * reduce(distance(size(gradient(g)))) of input gradients g [B, C, H, W]."""

    weight: float
    size: Callable[[Tensor], Tensor]
    distance: Callable[[Tensor], Tensor] = torch.clone
    factor: float = 1.0
    reduce: Callable[[Tensor], Tensor] = torch.mean
    gradient: Callable[[Tensor], Tensor] = torch.clone

    def __call__(self, g: Tensor) -> Tensor:
        return self.weight * self.factor * self.reduce(self.distance(self.size(self.gradient(g))))


MISTAKES = (
    Mistake("weight ignored", {"weight": 1.0}),
    Mistake("summed over rows instead of averaged", {"reduce": torch.sum}),
    Mistake("gradient of the critic's mean instead of its sum", {"gradient": lambda g: g / len(g)}),
)
NORM_MISTAKES = (
    Mistake("norm over the whole batch", {"size": lambda g: torch.linalg.vector_norm(g)[None]}),
    Mistake("norm over the channels only", {"size": partial(torch.linalg.vector_norm, dim=1)}),
    Mistake("squared norm instead of the norm", {"size": _squares}),
    Mistake("mean over features instead of the sum", {"size": lambda g: g.flatten(1).square().mean(1).sqrt()}),
    Mistake("norms averaged before the square", {"size": lambda g: _norms(g).mean()[None]}),
    Mistake("halved", {"factor": 0.5}),
    Mistake("doubled", {"factor": 2.0}),
    *MISTAKES,
)
SQUARE_MISTAKES = (
    Mistake("halved convention lost", {"factor": 1.0}),
    Mistake("halved", {"factor": 0.25}),
    Mistake("norm instead of the squared norm", {"size": _norms}),
    Mistake("norm over the channels only", {"size": lambda g: g.square().sum(1)}),
    Mistake("mean over features instead of the sum", {"size": lambda g: g.flatten(1).square().mean(1)}),
    *MISTAKES,
)


def _two_sided(target: float) -> Callable[[Tensor], Tensor]:
    return lambda size: (size - target).square()


def _one_sided(target: float) -> Callable[[Tensor], Tensor]:
    return lambda size: (size - target).relu().square()


@dataclass
class Subject:
    """A penalty under test, called as call(critic, real, fake); `formula` becomes the one its values were found to have."""

    call: Call
    formula: Formula
    mistakes: tuple[Mistake, ...]
    where: Where
    half_precision: bool
    unit: float = 1.0  # a gradient norm that the formula is sensitive to
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if not (math.isfinite(self.formula.weight) and self.formula.weight > 0):
            raise ValueError(f"a penalty of weight {self.formula.weight} tells nothing: it must be a finite number > 0")

    def penalty(self, critic: Callable, real: Tensor, fake: Tensor) -> Tensor:
        return one_number(self.call(critic, real.clone(), fake.clone()))

    def ask(self, real: Tensor, fake: Tensor) -> Tensor:
        """The points [B, ...] at which the penalty takes the gradient."""
        critic = Recorder(quadratic)
        self.penalty(critic, real, fake)
        return _asked(critic, real)


def _asked(critic: Recorder, like: Tensor) -> Tensor:
    if not critic.asked:
        raise Found(NOT_ASKED, "expected the critic to be called, it was not")
    if (found := critic.points(like)) is None:
        raise Found("taken at the wrong points", f"expected {list(like.shape)}, asked at {list(critic.asked[-1][0].shape)}")
    return found


class Measurement(NamedTuple):
    what: str
    gradient: Tensor
    value: float

    def is_by(self, formula: Formula) -> bool:
        expected = formula(self.gradient).item()
        if math.isnan(expected):  # the points were nan, whatever the formula
            return math.isnan(self.value)
        return abs(self.value - expected) <= NEAR * abs(expected) + 1e-6 * formula.weight


def _pair(subject: Subject, shape: tuple[int, ...], unit: float = 1.0) -> tuple[Tensor, Tensor]:
    return rows(shape, unit, subject.dtype, seed=5), rows(shape, unit, subject.dtype, seed=6)


def _measure(subject: Subject, shape: tuple[int, ...]) -> Iterator[Measurement]:
    real, fake = _pair(subject, shape, subject.unit)
    for norm in (1.0, 0.4, 1.9):
        weight = direction(shape, norm * subject.unit, subject.dtype)
        critic = Recorder(linear(weight))
        value = subject.penalty(critic, real, fake).item()
        _asked(critic, real)
        what = f"every gradient of norm {norm * subject.unit:g}, shape {list(shape)}"
        yield Measurement(what, weight.expand(shape).double(), value)
    critic = Recorder(quadratic)
    value = subject.penalty(critic, real, fake).item()
    yield Measurement(f"the critic |x|^2 / 2, shape {list(shape)}", _asked(critic, real).double(), value)


def _choose_dtype(subject: Subject) -> None:
    """fp64, or fp32 for a penalty that refuses fp64."""
    if unless_refused(lambda: list(_measure(subject, SHAPES[1]))) is None:
        subject.dtype = torch.float32


def values(subject: Subject) -> Iterator[Fault]:
    """Compares values with the formula, and names the mistakes of the formula that fits instead."""
    _choose_dtype(subject)
    measured = [measurement for shape in SHAPES for measurement in _measure(subject, shape)]
    right = subject.formula
    found = explain(right, subject.mistakes, lambda formula: all(x.is_by(formula) for x in measured))
    subject.formula, mistakes = found or (right, ())
    if found and not mistakes:
        return
    first = next(x for x in measured if not x.is_by(right))
    expected = round(right(first.gradient).item(), 12)  # 0, not the square of a rounding error
    shown = f"expected {expected:.6g}, got {first.value:.6g} for {first.what}"
    for name in [mistake.name for mistake in mistakes] or [WRONG_VALUE]:
        yield fault(name, shown)


def where(subject: Subject) -> Iterator[Fault]:
    """Looks at the points that the critic is asked at."""
    return subject.where(subject.ask, subject.dtype)


def _slopes(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        raise Found(NO_GRAPH, "expected a value that depends on the critic's parameters, got a constant")
    slopes = torch.autograd.grad(UPSTREAM * value, parameters, allow_unused=True)
    if all(slope is None for slope in slopes):
        raise Found(NO_GRAPH, "expected a gradient by the critic's parameters, got None for each")
    return [torch.zeros_like(p) if slope is None else slope for p, slope in zip(parameters, slopes, strict=True)]


def parameters(subject: Subject) -> Iterator[Fault]:
    """Compares the gradient by the critic's parameters with the closed form's."""
    shape = SHAPES[2]
    known = PiecewiseLinear(shape, 1.9 * subject.unit, subject.dtype)
    got = _slopes(subject.penalty(known.critic, *_pair(subject, shape)), known.weights)
    expected = _slopes(subject.formula(known.gradient(shape)), known.weights)
    for name, ours, theirs in zip(("last", "first"), expected, got, strict=True):
        if not (ours - theirs).abs().max() <= NEAR * ours.abs().max():
            shown = f"expected {ours.norm():.6g}, got {theirs.norm():.6g} for the norm of the slopes by the {name} weights"
            yield fault("wrong gradient by the critic's parameters", shown)
            return


def zero_gradient(subject: Subject) -> Iterator[Fault]:
    """Differentiates at a critic whose input gradient is zero."""
    known = PiecewiseLinear(SHAPES[1], subject.unit, subject.dtype)
    nn.init.zeros_(known.last.weight)
    slopes = _slopes(subject.penalty(known.critic, *_pair(subject, SHAPES[1])), known.weights)
    if not all(slope.isfinite().all() for slope in slopes):
        bad = next(slope[~slope.isfinite()][0].item() for slope in slopes if not slope.isfinite().all())
        yield fault("slope not finite at zero gradient", f"expected finite slopes by the critic's parameters, got {bad}")


def half_precision(subject: Subject) -> Iterator[Fault]:
    """Asks inside autocast, with rows of fp32 and, if asked for, with rows that a layer inside autocast made."""
    known = PiecewiseLinear(SHAPES[1], subject.unit, torch.float32)
    for dtype in (torch.float32, torch.bfloat16)[: 1 + subject.half_precision]:
        pair = [x.to(dtype) for x in _pair(subject, SHAPES[1])]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = unless_refused(lambda pair=pair: subject.penalty(known.critic, *pair))  # type: ignore[misc]
        if value is not None and value.dtype in HALF_PRECISION:
            yield fault("value in half precision inside autocast", f"expected fp32, got {value.dtype} for rows of {dtype}")


def side_effects(subject: Subject) -> Iterator[Fault]:
    """Looks at what the call leaves behind in the caller's tensors and in the critic's parameters and mode."""
    known = PiecewiseLinear(SHAPES[1], subject.unit, subject.dtype)
    real, fake = _pair(subject, SHAPES[1])
    given = {"real": real.clone(), "fake": fake.clone()}
    subject.call(known.critic, given["real"], given["fake"])
    for (name, x), before in zip(given.items(), (real, fake), strict=True):
        if not torch.equal(x.detach(), before):
            largest = (x.detach() - before).abs().max()
            yield fault("the caller's tensors are modified", f"expected {name} as it was, it changed by up to {largest:.3g}")
        if x.requires_grad:
            shown = f"expected {name}.requires_grad False as before, got True"
            yield fault("requires_grad switched on in the caller's tensors", shown)
    yield from _changes_of_critic(subject)
    filled = [name for name, p in known.critic.named_parameters() if p.grad is not None]
    if filled:
        yield fault(".grad of the critic's parameters filled", f"expected None as before, got a tensor for {', '.join(filled)}")


def _changes_of_critic(subject: Subject) -> Iterator[Fault]:
    critic = PiecewiseLinear(SHAPES[1], subject.unit, subject.dtype).critic.train()

    def state() -> list[tuple[str, Any]]:
        modes = [(f"{name or 'critic'}.training", module.training) for name, module in critic.named_modules()]
        wanted = [(f"{name}.requires_grad", p.requires_grad) for name, p in critic.named_parameters()]
        return [*modes, *wanted, *((name, p.detach().tolist()) for name, p in critic.named_parameters())]

    before = state()
    subject.call(critic, *_pair(subject, SHAPES[1]))
    changed = [name for (name, old), (_, new) in zip(before, state(), strict=True) if old != new]
    if changed:
        yield fault("the critic is changed", f"expected its weights and modes as before, changed: {', '.join(changed)}")


STOP = frozenset({RAISES, NOT_ONE_NUMBER, NOT_ASKED})
CHECKS = (
    Check(values),
    Check(where, STOP),
    Check(parameters, STOP | {WRONG_VALUE}),
    Check(zero_gradient, STOP | {NO_GRAPH}),
    Check(half_precision, STOP),
    Check(side_effects, STOP),
)


def norm_subject(call: Call, where: Where, weight: float, target: float, one_sided: bool, half_precision: bool) -> Subject:
    """A penalty of the norm's distance from a target."""
    sides = {False: _two_sided(target), True: _one_sided(target)}
    names = ("one-sided where two-sided was asked", "two-sided where one-sided was asked")
    other = Mistake(names[one_sided], {"distance": sides[not one_sided]})
    return Subject(
        call, Formula(weight, _norms, sides[one_sided]), (other, *NORM_MISTAKES), where, half_precision, target or 1.0
    )


def square_subject(call: Call, gamma: float, half_precision: bool) -> Subject:
    """A penalty of the squared norm."""
    return Subject(call, Formula(gamma, _squares, factor=0.5), SQUARE_MISTAKES, points.at_rows, half_precision)
