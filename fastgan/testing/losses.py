"""Conformance of adversarial losses on logits, by their closed forms.

With r = D(real) and f = D(fake) as logits, means over all elements, sums of both sides, no halves, expected is what
`fastgan.losses` states for each kind: for nonsaturating softplus(-r) + softplus(f) and softplus(-f).

Sources: Goodfellow et al. 2014 (minimax, nonsaturating), Mao et al. 2017 (lsgan), Arjovsky et al. 2017 (wgan),
Lim and Ye 2017 (hinge), Jolicoeur-Martineau 2018 (relativistic kinds), Salimans et al. 2016 (one-sided smoothing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses import resolve_kind
from .critics import normal
from .faults import (
    HALF_PRECISION,
    NO_SLOPE,
    NOT_ONE_NUMBER,
    OVERWRITES,
    RAISES,
    WRONG_SLOPES,
    WRONG_VALUE,
    Check,
    Fault,
    Found,
    Mistake,
    collect,
    explain,
    fault,
    one_number,
    require_none,
    unless_refused,
)
from .objectives import RELATIVISTIC, SMOOTHED, Formula, d_objective, g_objective

Logits = tuple[Tensor, ...]

SHAPES = ((1, 1), (5, 1), (8,), (4, 1, 3, 3))
NEAR = 1e-4  # an eps of 1e-8 inside a logarithm shows at large logits alone
LARGE = (8.0, 17.0, 30.0, 100.0, 1e3, 1e4)
LARGE_NEAR = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


@dataclass
class Subject:
    """A loss under test, called with `sides` tensors of logits; `formula` becomes the one its values were found to have."""

    loss: Callable[..., Tensor]
    formula: Formula
    mistakes: tuple[Mistake, ...]
    sides: int
    differentiated: int  # the first arguments, whose slopes matter: the generator's loss may take real logits as constants
    dtype: torch.dtype = torch.float64

    def __call__(self, *logits: Tensor) -> Tensor:
        return one_number(self.loss(*logits))

    def logits(self, *shape: int, seed: int = 0, dtype: torch.dtype | None = None) -> Logits:
        """Logits for each side, moderate ones."""
        drawn = [normal(*shape, dtype=torch.float64, seed=10 * seed + side) for side in range(self.sides)]
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


class Measurement(NamedTuple):
    """Logits in fp64, and the value of the loss."""

    logits: Logits
    value: float

    def is_by(self, formula: Formula) -> bool:
        expected = formula(*self.logits).item()
        return abs(self.value - expected) <= NEAR * max(1.0, abs(expected))


def _measure(subject: Subject) -> list[Measurement]:
    asked = [subject.logits(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    return [Measurement(_double(logits), subject(*(x.clone() for x in logits)).item()) for logits in asked]


def _choose_dtype(subject: Subject) -> None:
    """fp64, or fp32 for a loss that refuses fp64."""
    if unless_refused(lambda: _measure(subject)) is None:
        subject.dtype = torch.float32


def values(subject: Subject) -> Iterator[Fault]:
    """Compares values with the formula, and names the mistakes of the formula that fits instead."""
    _choose_dtype(subject)
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


def overwrites(subject: Subject) -> Iterator[Fault]:
    """Looks at the logits after a call and after its backward."""
    logits = tuple(25.0 * x for x in subject.logits(8, 1))
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
    """Compares the derivative by each logit with the formula's."""
    for seed, shape in enumerate(SHAPES):
        logits = subject.logits(*shape, seed=seed)
        got = _slopes(subject, logits, subject.differentiated)
        if shown := _differ(got, _slopes(subject.formula, _double(logits), subject.differentiated)):
            yield fault(WRONG_SLOPES, f"{shown} for a logit of shape {list(shape)}")
            return


def upstream(subject: Subject) -> Iterator[Fault]:
    """Differentiates twice the loss."""
    logits = subject.logits(5, 1)
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
    logits = subject.logits(5, 1)
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
    (x, _) = _leaves(subject.logits(5, 1), 2)
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

    a, b = subject.logits(5, 1, seed=1), subject.logits(5, 1, seed=2)
    if shown := _differ(add(subject, a, b), add(subject.formula, _double(a), _double(b))):
        yield fault("a tensor in two losses gets a wrong gradient", f"{shown} for a slope of the sum of the losses")


def broadcast(subject: Subject) -> Iterator[Fault]:
    """Gives one side [N, 1] and the other [N]: refused or right, but no N x N table."""
    if subject.sides < 2:
        return
    first, second = subject.logits(5, 1)
    expected = subject.formula(*_double((first, second))).item()
    value = unless_refused(lambda: subject(first.clone(), second[:, 0].clone()))
    if value is not None and not abs(value.item() - expected) <= NEAR * max(1.0, abs(expected)):
        yield fault("broadcasts [N, 1] against [N]", f"expected an error or {expected:.6g}, got {value.item():.6g}")


def half_precision(subject: Subject) -> Iterator[Fault]:
    """Gives logits in half precision, unless they are refused."""
    for dtype in HALF_PRECISION:
        logits = subject.logits(8, 1, dtype=dtype)
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
    is_near = abs(value - expected) <= near * max(1.0, abs(expected))
    return "" if is_near else f"expected {expected:.6g}, got {value:.6g} for the value"


def large_logits(subject: Subject) -> Iterator[Fault]:
    """Compares slopes and values at logits of 8 to 1e4 with the formula's, in fp32 and bf16."""
    sides = [torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])]
    for dtype, near in LARGE_NEAR.items():
        for size in LARGE:
            if shown := _off(subject, tuple((size * side).to(dtype) for side in sides[: subject.sides]), near):
                yield fault("wrong at large logits", f"{shown} at logits of magnitude {size:g} in {dtype}")
                return


FIRST = frozenset({RAISES, NOT_ONE_NUMBER, WRONG_VALUE})
STOP = FIRST | {NO_SLOPE, WRONG_SLOPES}
CHECKS = (
    Check(values),
    Check(overwrites, frozenset({RAISES, NOT_ONE_NUMBER})),
    Check(slopes, FIRST),
    Check(upstream, STOP),
    Check(second_derivative, STOP),
    Check(one_tensor, STOP | {OVERWRITES}),
    Check(two_losses, STOP | {OVERWRITES}),
    Check(broadcast, FIRST),
    Check(large_logits, STOP),
)
IN_HALF = (Check(half_precision, frozenset({RAISES, NOT_ONE_NUMBER})),)


def _resolve(kind: str, scale: float, label_smoothing: float = 0.0) -> str:
    kind = resolve_kind(kind)
    if scale != 1.0 and kind != "lsgan":
        raise ValueError(f"scale belongs to lsgan's two conventions, not to {kind}")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if label_smoothing and kind not in SMOOTHED:
        raise ValueError(f"label smoothing is not defined for {kind}, only for {', '.join(SMOOTHED)}")
    return kind


def diagnose_d_loss(
    loss: Callable[..., Tensor],
    kind: str = "nonsaturating",
    *,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    half_precision: bool = False,
) -> tuple[Fault, ...]:
    """The faults of loss(real, fake), the discriminator's loss of that kind; () if there is none.

    loss: any callable that takes logits [N, ...] of one shape and returns a 0-d tensor. It runs on a CPU in fp64 (in fp32
    where it cannot), fp32 and bf16. scale: 0.5 for lsgan's halved convention; label_smoothing e: real labels of 1 - e;
    half_precision: whether logits in half precision are to have a value in fp32, which torch's own losses do not give.
    Raises ValueError for an unknown kind, and for options that it does not have.
    """
    formula, mistakes = d_objective(_resolve(kind, scale, label_smoothing), label_smoothing, scale)
    return collect(CHECKS + IN_HALF * half_precision, Subject(loss, formula, mistakes, sides=2, differentiated=2))


def diagnose_g_loss(
    loss: Callable[..., Tensor], kind: str = "nonsaturating", *, scale: float = 1.0, half_precision: bool = False
) -> tuple[Fault, ...]:
    """The faults of loss(fake), the generator's loss of that kind, or of loss(fake, real) for the relativistic kinds.

    Slopes by real logits are not looked at. Shapes, dtypes, options and errors as in `diagnose_d_loss`.
    """
    kind = _resolve(kind, scale)
    formula, mistakes = g_objective(kind, scale)
    subject = Subject(loss, formula, mistakes, sides=1 + (kind in RELATIVISTIC), differentiated=1)
    return collect(CHECKS + IN_HALF * half_precision, subject)


def check_d_loss(
    loss: Callable[..., Tensor],
    kind: str = "nonsaturating",
    *,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    half_precision: bool = False,
) -> None:
    """Raises ConformanceError if `diagnose_d_loss` finds any fault."""
    options = dict(scale=scale, label_smoothing=label_smoothing)
    found = diagnose_d_loss(loss, kind, half_precision=half_precision, **options)
    require_none(f"discriminator's {resolve_kind(kind)} loss", found)


def check_g_loss(
    loss: Callable[..., Tensor], kind: str = "nonsaturating", *, scale: float = 1.0, half_precision: bool = False
) -> None:
    """Raises ConformanceError if `diagnose_g_loss` finds any fault."""
    found = diagnose_g_loss(loss, kind, scale=scale, half_precision=half_precision)
    require_none(f"generator's {resolve_kind(kind)} loss", found)
