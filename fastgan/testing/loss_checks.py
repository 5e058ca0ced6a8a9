"""What is looked at in a loss, one check at a time, each against the closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .critics import normal
from .faults import HALF_PRECISION, Check, Fault, Found, Mistake, explain, fault, form_of, one_number, unless_refused
from .objectives import Formula, slope_mistakes
from .remedies import (
    BCE_EXCHANGED,
    BROADCASTS,
    NEEDS_AS_MANY,
    NO_SLOPE,
    NOT_ONE_NUMBER,
    OVERWRITES,
    RAISES,
    WRONG_SLOPES,
    WRONG_VALUE,
)

Logits = tuple[Tensor, ...]
Shape = tuple[int, ...]

ONE_SIZES = (64, 16, 32, 128, 8, 4, 1)
SHAPES = (
    ((1, 1), (5, 1), (8,), (4, 1, 3, 3)),
    ((2, 1), (5, 1), (8,), (4, 1, 3, 3)),
    ((1, 1), (5, 1), (8, 1)),
    ((1,), (5,), (8,)),
    ((1, 1, 2, 3), (5, 1, 2, 3), (4, 1, 3, 3)),
    *(((rows, *rest),) for rows in ONE_SIZES for rest in ((1,), (), (1, 2, 3))),
)
NEAR = 1e-4  # an eps of 1e-8 inside a logarithm shows at large logits alone
LARGE = (8.0, 17.0, 30.0, 100.0, 1e3, 1e4)
LARGE_NEAR = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


@dataclass
class Subject:
    """A loss under test, called with logits of its sides; `formula` becomes what its values and slopes were found to have."""

    loss: Callable[..., Tensor]
    formula: Formula
    mistakes: tuple[Mistake, ...]
    sides: tuple[str, ...]  # "real" and "fake" in the order of its arguments
    differentiated: int  # the first arguments, whose slopes matter: the generator's loss may take real logits as constants
    pairs: bool = False  # whether rows belong together, so that both sides have as many
    dtype: torch.dtype = torch.float64
    shapes: tuple[Shape, ...] = SHAPES[0]

    def __call__(self, *logits: Tensor) -> Tensor:
        return one_number(self.loss(*logits))

    @property
    def typical(self) -> Shape:
        """Of several rows, if it takes them."""
        return self.shapes[min(1, len(self.shapes) - 1)]

    def logits(self, shape: Shape, *, seed: int = 0, dtype: torch.dtype | None = None) -> Logits:
        """Logits for each side, moderate ones."""
        drawn = [normal(*shape, dtype=torch.float64, seed=10 * seed + side) for side in range(len(self.sides))]
        return tuple((x.clamp(-2, 2) + 0.5 * (-1) ** side).to(dtype or self.dtype) for side, x in enumerate(drawn))


def _double(logits: Logits) -> Logits:
    return tuple(x.detach().double() for x in logits)


def _leaves(logits: Logits, differentiated: int) -> Logits:
    return tuple(x.detach().clone().requires_grad_(side < differentiated) for side, x in enumerate(logits))


def _differentiate(value: Tensor, leaves: Logits, create_graph: bool = False) -> Logits:
    if not value.requires_grad:
        raise Found(NO_SLOPE, "expected a value that depends on the logits, got a constant")
    wanted = [x for x in leaves if x.requires_grad]
    return torch.autograd.grad(value, wanted, create_graph=create_graph, materialize_grads=True)


def _slopes(function: Callable[..., Tensor], logits: Logits, differentiated: int, upstream: float = 1.0) -> Logits:
    """The derivative by each logit. The function gets copies, as a critic's outputs are no leaves."""
    leaves = _leaves(logits, differentiated)
    return _differentiate(upstream * function(*(x.clone() for x in leaves)), leaves)


def _differ(got: Logits, expected: Logits, near: float = NEAR, least: float = 0.0) -> str:
    """What to say of the element that is farthest off; "" if none is off by more than `near` times the largest (or `least`)."""
    ours, theirs = (torch.cat([x.detach().double().flatten() for x in logits]) for logits in (expected, got))
    off = (theirs - ours).abs().nan_to_num(nan=torch.inf)
    worst = int(off.argmax())
    largest = max(ours.abs().max().item(), least)
    if off[worst] <= near * largest + 1e-12:
        return ""
    return f"expected {ours[worst].item():.6g}, got {theirs[worst].item():.6g}"


def _is_near(value: float, expected: float, near: float = NEAR) -> bool:
    return abs(value - expected) <= near * max(1.0, abs(expected))


class Measurement(NamedTuple):
    """Logits in fp64, and the value of the loss."""

    logits: Logits
    value: float

    def is_by(self, formula: Formula) -> bool:
        return _is_near(self.value, formula(*self.logits).item())


def _measure(subject: Subject) -> list[Measurement]:
    asked = [subject.logits(shape, seed=seed) for seed, shape in enumerate(subject.shapes)]
    return [Measurement(_double(logits), subject(*(x.clone() for x in logits)).item()) for logits in asked]


def _choose_logits(subject: Subject) -> None:
    """The shapes that a loss takes, all or the most usual ones, in fp64, or fp32 where that is refused."""
    for shapes in SHAPES:
        for dtype in (torch.float64, torch.float32):
            subject.shapes, subject.dtype = shapes, dtype
            if unless_refused(lambda: _measure(subject)) is not None:
                return
    subject.shapes = SHAPES[0]


def values(subject: Subject) -> Iterator[Fault]:
    """Compares values with the formula, and names the mistakes of the formula that fits instead."""
    _choose_logits(subject)
    measured = _measure(subject)
    right = subject.formula
    found = explain(right, subject.mistakes, lambda formula: all(x.is_by(formula) for x in measured))
    subject.formula, mistakes = found or (right, ())
    if found and not mistakes:
        return
    logits, value = next(x for x in measured if not x.is_by(right))
    shown = f"expected {right(*logits).item():.6g}, got {value:.6g} for logits of shape {list(logits[0].shape)}"
    for name, detail in [(mistake.name, mistake.detail) for mistake in mistakes] or [(WRONG_VALUE, "")]:
        yield fault(name, f"{shown}, as {detail} gives" if detail else shown)


def form(subject: Subject) -> Iterator[Fault]:
    """Looks at what is returned beside the value."""
    yield from form_of(subject.loss(*subject.logits(subject.typical)))


def overwrites(subject: Subject) -> Iterator[Fault]:
    """Looks at the logits after a call and after its backward."""
    logits = tuple(25.0 * x for x in subject.logits(subject.typical))
    leaves = _leaves(logits, subject.differentiated)
    given = tuple(x.clone() for x in logits), tuple(x.clone() for x in leaves)
    subject(*given[0])
    value = subject(*given[1])
    if value.requires_grad:
        value.backward()
    for copies in given:
        if shown := _differ(copies, logits, near=0.0):
            yield fault(OVERWRITES, f"{shown} in the logits after the call")
            return


def slopes(subject: Subject) -> Iterator[Fault]:
    """Compares the derivative by each logit with the formula's, and names what was detached where it is another one's."""
    asked = [subject.logits(shape, seed=seed) for seed, shape in enumerate(subject.shapes)]
    measured = [(_double(logits), _slopes(subject, logits, subject.differentiated)) for logits in asked]

    def off(formula: Formula) -> str:
        expected = [(got, _slopes(formula, logits, subject.differentiated)) for logits, got in measured]
        return next(filter(None, (_differ(*both) for both in expected)), "")

    if not (shown := off(subject.formula)):
        return
    mistakes = slope_mistakes(subject.formula, subject.sides, subject.differentiated)
    found = explain(subject.formula, mistakes, lambda formula: not off(formula))
    if found is None:
        yield fault(WRONG_SLOPES, f"{shown} for a logit's slope")
        return
    subject.formula, mistakes = found
    for mistake in mistakes:
        yield fault(mistake.name, f"{shown} for a logit's slope" + f", as {mistake.detail} gives" * bool(mistake.detail))


def upstream(subject: Subject) -> Iterator[Fault]:
    """Differentiates twice the loss."""
    logits = subject.logits(subject.typical)
    got = _slopes(subject, logits, subject.differentiated, upstream=2.0)
    if shown := _differ(got, _slopes(subject.formula, _double(logits), subject.differentiated, upstream=2.0)):
        yield fault("ignores the upstream gradient", f"{shown} for a slope of twice the loss")


def _curvature(function: Callable[..., Tensor], logits: Logits, differentiated: int) -> Logits:
    """The second derivative times a fixed direction."""
    leaves = _leaves(logits, differentiated)
    first = _differentiate(function(*(x.clone() for x in leaves)), leaves, create_graph=True)
    along = torch.stack([(slope * (1.0 + torch.arange(slope.numel()).view_as(slope))).sum() for slope in first]).sum()
    return _differentiate(along, leaves) if along.requires_grad else tuple(torch.zeros_like(x) for x in first)


def second_derivative(subject: Subject) -> Iterator[Fault]:
    """Compares the slopes' own derivative, by create_graph=True, with the formula's."""
    logits = subject.logits(subject.typical)
    expected = _curvature(subject.formula, _double(logits), subject.differentiated)
    try:
        got = _curvature(subject, logits, subject.differentiated)
    except RuntimeError as error:
        yield fault("second derivative missing", f"expected a graph of the slopes, got the error {error}")
        return
    if shown := _differ(got, expected, near=1e-3):
        missing = not any(x.any() for x in got)
        yield fault("second derivative missing" if missing else "second derivative wrong", f"{shown} along a direction")


def one_tensor(subject: Subject) -> Iterator[Fault]:
    """Gives the same tensor as real and as fake logits, with and without a graph of the slopes."""
    if subject.differentiated < 2:
        return
    (x, _) = _leaves(subject.logits(subject.typical), 2)
    wide = x.detach().double().requires_grad_()
    expected = _differentiate(subject.formula(wide, wide), (wide,))
    for create_graph in (False, True):
        logits = x.clone()
        got = _differentiate(subject(logits, logits), (x,), create_graph)
        if shown := _differ(got, expected):
            how = "with create_graph=True" if create_graph else "without create_graph"
            yield fault("one tensor on both sides gets a wrong gradient", f"{shown} for loss(x, x), {how}")
            return


def two_losses(subject: Subject) -> Iterator[Fault]:
    """Adds three losses, of which two share their first tensor, and differentiates the sum."""

    def add(function: Callable[..., Tensor], a: Logits, b: Logits) -> Logits:
        a, b = _leaves(a, subject.differentiated), _leaves(b, subject.differentiated)
        copies, others = [x.clone() for x in a], [x.clone() for x in b]
        total = function(*copies) + function(*others) + function(copies[0], *others[1:])
        return _differentiate(total, a + b)

    a, b = subject.logits(subject.typical, seed=1), subject.logits(subject.typical, seed=2)
    if shown := _differ(add(subject, a, b), add(subject.formula, _double(a), _double(b))):
        yield fault("a tensor in two losses gets a wrong gradient", f"{shown} for a slope of the sum of the losses")


def broadcast(subject: Subject) -> Iterator[Fault]:
    """Gives one side [N, 1] and the other [N]: refused or right, but no N x N table."""
    if len(subject.sides) < 2:
        return
    first, second = subject.logits(subject.typical)
    expected = subject.formula(*_double((first, second))).item()
    other = second[:, 0] if second.dim() > 1 else second[:, None]
    value = unless_refused(lambda: subject(first.clone(), other.clone()))
    if value is not None and not _is_near(value.item(), expected):
        shown = f"got {value.item():.6g} for {list(first.shape)} and {list(other.shape)}"
        yield fault(BROADCASTS, f"expected an error or {expected:.6g}, {shown}")


def other_rows(subject: Subject) -> Iterator[Fault]:
    """Gives fewer rows on the second side, unless the kind pairs rows or the loss takes one size of batches."""
    if len(subject.sides) < 2 or subject.pairs or len(subject.shapes) == 1:
        return
    first, second = subject.logits(subject.typical)
    fewer = second[:-2]
    expected = subject.formula(*_double((first, fewer))).item()
    value = unless_refused(lambda: subject(first.clone(), fewer.clone()))
    if value is None or not _is_near(value.item(), expected):
        got = "an error" if value is None else f"{value.item():.6g}"
        yield fault(NEEDS_AS_MANY, f"expected {expected:.6g}, got {got} for {len(first)} rows and {len(fewer)}")


def half_precision(subject: Subject) -> Iterator[Fault]:
    """Gives logits in half precision, unless they are refused."""
    for dtype in HALF_PRECISION:
        logits = subject.logits(subject.typical, dtype=dtype)
        value = unless_refused(lambda logits=logits: subject(*logits))  # type: ignore[misc]
        if value is not None and value.dtype in HALF_PRECISION:
            yield fault("value in half precision", f"expected fp32, got {value.dtype} for logits of {dtype}")


def _off(subject: Subject, logits: Logits, near: float) -> str:
    """What to say of slopes or of a value that differ from the formula's; "" if they do not, or the logits are refused."""
    got = unless_refused(lambda: (_slopes(subject, logits, subject.differentiated), subject(*(x.clone() for x in logits))))
    if got is None:
        return ""
    expected_slopes = _slopes(subject.formula, _double(logits), subject.differentiated)
    if shown := _differ(got[0], expected_slopes, near, least=1.0 / logits[0].numel()):
        return f"{shown} for the slope"
    expected, value = subject.formula(*_double(logits)).item(), got[1].item()
    return "" if _is_near(value, expected, near) else f"expected {expected:.6g}, got {value:.6g} for the value"


def large_logits(subject: Subject) -> Iterator[Fault]:
    """Compares slopes and values at logits of 8 to 1e4 with the formula's, in fp32 and bf16."""
    numbers = torch.arange(math.prod(subject.shapes[-1])).reshape(subject.shapes[-1])
    sides = [1.0 - 2.0 * (numbers // 2 % 2), 1.0 - 2.0 * (numbers % 2)]
    for dtype, near in LARGE_NEAR.items():
        for size in LARGE:
            if shown := _off(subject, tuple((size * side).to(dtype) for side in sides[: len(subject.sides)]), near):
                yield fault("wrong at large logits", f"{shown} at logits of magnitude {size:g} in {dtype}")
                return


FIRST = frozenset({RAISES, NOT_ONE_NUMBER, WRONG_VALUE, BCE_EXCHANGED})
STOP = FIRST | {NO_SLOPE, WRONG_SLOPES}
CHECKS = (
    Check(values),
    Check(form, frozenset({RAISES, NOT_ONE_NUMBER})),
    Check(overwrites, frozenset({RAISES, NOT_ONE_NUMBER})),
    Check(slopes, FIRST),
    Check(upstream, STOP),
    Check(second_derivative, STOP),
    Check(one_tensor, STOP | {OVERWRITES}),
    Check(two_losses, STOP | {OVERWRITES}),
    Check(broadcast, FIRST),
    Check(other_rows, FIRST),
    Check(large_logits, STOP),
)
IN_HALF = (Check(half_precision, frozenset({RAISES, NOT_ONE_NUMBER})),)
