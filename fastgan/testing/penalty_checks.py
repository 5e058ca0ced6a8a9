"""What is looked at in a penalty, one check at a time, each against the closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import points
from .critics import PiecewiseLinear, Recorder, changes_of, direction, linear, quadratic, rows, state_of
from .faults import HALF_PRECISION, Check, Fault, Found, Mistake, explain, fault, form_of, one_number, unless_refused
from .layouts import DEFAULT, Layout, Shape, find_layout
from .remedies import AT_WRONG_POINTS, CHANGED, MODIFIED, NO_GRAPH, NOT_ASKED, NOT_ONE_NUMBER, RAISES, WRONG_VALUE

Call = Callable[..., Tensor]
Where = Callable[[points.Ask, Layout], Iterator[Fault]]

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
    Mistake("L1 norm instead of the L2 norm", {"size": lambda g: g.flatten(1).abs().sum(1)}),
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


class Options(NamedTuple):
    """What to ask a penalty with: rows of one shape, in batches of one size, inside autocast rows in half precision."""

    shape: Shape | None
    batch_size: int | None
    half_precision: bool


@dataclass
class Subject:
    """A penalty under test, called as call(critic, real, fake); `formula` becomes the one its values were found to have."""

    call: Call
    formula: Formula
    mistakes: tuple[Mistake, ...]
    where: Where
    options: Options
    unit: float = 1.0  # a gradient norm that the formula is sensitive to
    layout: Layout = DEFAULT

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
        raise Found(AT_WRONG_POINTS, f"expected {list(like.shape)}, asked at {list(critic.asked[-1][0].shape)}")
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


def _pair(subject: Subject, shape: Shape, unit: float = 1.0) -> tuple[Tensor, Tensor]:
    dtype = subject.layout.dtype
    return rows(shape, unit, dtype, seed=5), rows(shape, unit, dtype, seed=6)


def _typical(subject: Subject) -> tuple[Tensor, Tensor]:
    """Real and fake rows of a batch like any other."""
    return _pair(subject, subject.layout.typical)


def _known(subject: Subject, norm: float = 1.0, dtype: torch.dtype | None = None) -> PiecewiseLinear:
    """A critic with parameters, for such rows."""
    return PiecewiseLinear(subject.layout.typical, norm * subject.unit, dtype or subject.layout.dtype)


def _measure(subject: Subject, shape: Shape) -> Iterator[Measurement]:
    real, fake = _pair(subject, shape, subject.unit)
    for norm in (1.0, 0.4, 1.9):
        weight = direction(shape, norm * subject.unit, subject.layout.dtype)
        critic = Recorder(linear(weight))
        value = subject.penalty(critic, real, fake).item()
        _asked(critic, real)
        what = f"every gradient of norm {norm * subject.unit:g}, shape {list(shape)}"
        yield Measurement(what, weight.expand(shape).double(), value)
    critic = Recorder(quadratic)
    value = subject.penalty(critic, real, fake).item()
    yield Measurement(f"the critic |x|^2 / 2, shape {list(shape)}", _asked(critic, real).double(), value)


def _takes(call: Call, layout: Layout) -> bool:
    """Whether the critic is asked at points like the rows, of every batch of a layout; raises what the penalty raises."""
    found = []
    for shape in (*layout.shapes, layout.many):
        critic = Recorder(quadratic)
        real, fake = torch.rand((2, *shape), dtype=layout.dtype)
        call(critic, real, fake)
        found.append(critic.points(real) is not None)
    return all(found)


def layout(subject: Subject) -> Iterator[Fault]:
    """Looks for batches that the penalty takes, in fp64 unless it refuses that; which ones is no fault."""
    options = subject.options
    subject.layout = find_layout(partial(_takes, subject.call), options.shape, options.batch_size)
    wide = subject.layout._replace(dtype=torch.float64)
    if unless_refused(lambda: _takes(subject.call, wide)) is not None:
        subject.layout = wide
    return iter(())


def values(subject: Subject) -> Iterator[Fault]:
    """Compares values with the formula, and names the mistakes of the formula that fits instead."""
    measured = [measurement for shape in subject.layout.shapes for measurement in _measure(subject, shape)]
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
    return subject.where(subject.ask, subject.layout)


def form(subject: Subject) -> Iterator[Fault]:
    """Looks at what is returned beside the value."""
    yield from form_of(subject.call(_known(subject).critic, *_typical(subject)))


def _slopes(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        raise Found(NO_GRAPH, "expected a value that depends on the critic's parameters, got a constant")
    slopes = torch.autograd.grad(UPSTREAM * value, parameters, allow_unused=True)
    if all(slope is None for slope in slopes):
        raise Found(NO_GRAPH, "expected a gradient by the critic's parameters, got None for each")
    return [torch.zeros_like(p) if slope is None else slope for p, slope in zip(parameters, slopes, strict=True)]


def parameters(subject: Subject) -> Iterator[Fault]:
    """Compares the gradient by the critic's parameters with the closed form's."""
    known = _known(subject, norm=1.9)
    got = _slopes(subject.penalty(known.critic, *_typical(subject)), known.weights)
    expected = _slopes(subject.formula(known.gradient(subject.layout.typical)), known.weights)
    for name, ours, theirs in zip(("last", "first"), expected, got, strict=True):
        if not (ours - theirs).abs().max() <= NEAR * ours.abs().max():
            shown = f"expected {ours.norm():.6g}, got {theirs.norm():.6g} for the norm of the slopes by the {name} weights"
            yield fault("wrong gradient by the critic's parameters", shown)
            return


def zero_gradient(subject: Subject) -> Iterator[Fault]:
    """Differentiates at a critic whose input gradient is zero."""
    known = _known(subject)
    nn.init.zeros_(known.last.weight)
    slopes = _slopes(subject.penalty(known.critic, *_typical(subject)), known.weights)
    if not all(slope.isfinite().all() for slope in slopes):
        bad = next(slope[~slope.isfinite()][0].item() for slope in slopes if not slope.isfinite().all())
        yield fault("slope not finite at zero gradient", f"expected finite slopes by the critic's parameters, got {bad}")


def half_precision(subject: Subject) -> Iterator[Fault]:
    """Asks inside autocast, with rows of fp32 and, if asked for, with rows that a layer inside autocast made."""
    known = _known(subject, dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16)[: 1 + subject.options.half_precision]:
        pair = [x.to(dtype) for x in _typical(subject)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = unless_refused(lambda pair=pair: subject.penalty(known.critic, *pair))  # type: ignore[misc]
        if value is not None and value.dtype in HALF_PRECISION:
            yield fault("value in half precision inside autocast", f"expected fp32, got {value.dtype} for rows of {dtype}")


def side_effects(subject: Subject) -> Iterator[Fault]:
    """Looks at what the call leaves behind in the caller's tensors and in the critic's parameters and mode."""
    known = _known(subject)
    real, fake = _typical(subject)
    given = {"real": real.clone(), "fake": fake.clone()}
    subject.call(known.critic, given["real"], given["fake"])
    for (name, x), before in zip(given.items(), (real, fake), strict=True):
        if not torch.equal(x.detach(), before):
            largest = (x.detach() - before).abs().max()
            yield fault(MODIFIED, f"expected {name} as it was, it changed by up to {largest:.3g}")
        if x.requires_grad:
            shown = f"expected {name}.requires_grad False as before, got True"
            yield fault("requires_grad switched on in the caller's tensors", shown)
    yield from _changes_of_critic(subject)
    filled = [name for name, p in known.critic.named_parameters() if p.grad is not None]
    if filled:
        yield fault(".grad of the critic's parameters filled", f"expected None as before, got a tensor for {', '.join(filled)}")


def _changes_of_critic(subject: Subject) -> Iterator[Fault]:
    critic = _known(subject).critic.train()
    before = state_of(critic)
    subject.call(critic, *_typical(subject))
    if changed := changes_of(critic, before):
        yield fault(CHANGED, f"expected its weights and modes as before, changed: {', '.join(changed)}")


STOP = frozenset({RAISES, NOT_ONE_NUMBER, NOT_ASKED})
CHECKS = (
    Check(layout),
    Check(values),
    Check(form, STOP),
    Check(where, STOP),
    Check(parameters, STOP | {WRONG_VALUE}),
    Check(zero_gradient, STOP | {NO_GRAPH}),
    Check(half_precision, STOP),
    Check(side_effects, STOP),
)


def norm_subject(call: Call, where: Where, weight: float, target: float, one_sided: bool, options: Options) -> Subject:
    """A penalty of the norm's distance from a target."""
    sides = {False: _two_sided(target), True: _one_sided(target)}
    names = ("one-sided where two-sided was asked", "two-sided where one-sided was asked")
    others = [Mistake(names[one_sided], {"distance": sides[not one_sided]})]
    others += [Mistake("target ignored", {"distance": torch.square})] if target else []
    return Subject(call, Formula(weight, _norms, sides[one_sided]), (*others, *NORM_MISTAKES), where, options, target or 1.0)


def square_subject(call: Call, gamma: float, options: Options) -> Subject:
    """A penalty of the squared norm."""
    return Subject(call, Formula(gamma, _squares, factor=0.5), SQUARE_MISTAKES, points.at_rows, options)
