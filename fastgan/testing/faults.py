"""Faults of a loss or a penalty: their names, what shows them, what to change; and the search for the formula computed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Fault(NamedTuple):
    """One fault of a loss or a penalty.

    Args:
        name: what is wrong.
        evidence: the numbers that show it.
        remedy: what to change.

    Example:
        >>> (fault,) = diagnose_g_loss(lambda fake: fake.mean(), "wgan")
        >>> fault.name, fault.remedy
        ('sign flipped', 'Both losses are minimised: return the negative.')
    """

    name: str
    evidence: str
    remedy: str


class ConformanceError(AssertionError):
    """A loss or a penalty has faults: `faults` holds them, and the message lists each with its evidence and remedy.

    Args:
        subject: what has them.
        faults: at least one.

    Example:
        >>> try:
        ...     check_g_loss(lambda fake: fake.mean(), "wgan")
        ... except ConformanceError as error:
        ...     print(error.subject, [fault.name for fault in error.faults])
        generator's wgan loss ['sign flipped']
    """

    def __init__(self, subject: str, faults: Sequence[Fault]) -> None:
        super().__init__(subject, faults)
        self.subject, self.faults = subject, tuple(faults)

    def __str__(self) -> str:
        count = f"{len(self.faults)} fault{'s' * (len(self.faults) != 1)}"
        return "\n".join([f"{self.subject}: {count}", *(f"  {name}: {shown}. {remedy}" for name, shown, remedy in self.faults)])


HALF_PRECISION = (torch.bfloat16, torch.float16)

RAISES, WRONG_VALUE, NOT_ONE_NUMBER = "raises an error", "wrong value", "not a 0-d tensor"
NOT_ASKED, NO_GRAPH, NO_SLOPE = "critic not asked", "no graph to the critic's parameters", "no gradient to the logits"
OVERWRITES, WRONG_SLOPES = "overwrites the logits", "wrong slopes"

OF_BOTH = {
    RAISES: "Make it run for any batch [B, C, H, W] of a penalty and any logits [N, ...] of a loss, on a CPU.",
    WRONG_VALUE: "Compare the formula with the one that fastgan.losses or fastgan.penalties states.",
    NOT_ONE_NUMBER: "Reduce to one number, and return it as a tensor without dimensions.",
    "halved": "Remove the factor 1/2, or pass the weight or scale that it stands for.",
    "doubled": "Remove the factor 2, or pass the weight or scale that it stands for.",
    "summed over rows instead of averaged": "Take the mean over the rows, or the weight grows with the batch size.",
}

OF_PENALTIES = {
    # what they compute from the critic's gradient
    "norm over the whole batch": "Flatten each sample and take one norm per row: gradient.flatten(1).norm(2, dim=1).",
    "norm over the channels only": "A norm over dim=1 is one per pixel: flatten each sample first, gradient.flatten(1).",
    "squared norm instead of the norm": "Take the square root of the sum of squares before the target is subtracted.",
    "norm instead of the squared norm": "R1 and R2 penalize the squared norm: leave out the square root.",
    "norms averaged before the square": "Subtract the target and square per row, and take the mean last.",
    "mean over features instead of the sum": "Sum the squares over a sample's features: .flatten(1).square().sum(1).",
    "gradient of the critic's mean instead of its sum": "Differentiate critic(x).sum(): a mean divides each gradient by B.",
    "weight ignored": "Multiply by the weight (gamma) that was asked for.",
    "halved convention lost": "R1 and R2 are gamma / 2 times the mean squared norm.",
    "one-sided where two-sided was asked": "Penalize norms below the target too: no relu or clamp of norm - target.",
    "two-sided where one-sided was asked": "Penalize norms above the target only: relu(norm - target) before the square.",
    # where they take the gradient
    NOT_ASKED: "Call the critic that is given, at points that require a gradient.",
    "taken at the real rows": "Move the points off the real rows: real + alpha (fake - real), or DRAGAN's noise.",
    "taken at the fake rows": "Take points between real and fake rows: real + alpha (fake - real), alpha uniform in [0, 1].",
    "taken off the line between real and fake": "Points are real + alpha (fake - real) and nothing else.",
    "taken at the wrong points": "Take R1's gradient at the real rows and R2's at the fake rows, as they are.",
    "one alpha for the whole batch": "Draw one alpha per sample: torch.rand(B, 1, 1, 1).",
    "one alpha per element": "Draw one alpha per sample, torch.rand(B, 1, 1, 1): all its elements move together.",
    "alpha not uniform in [0, 1]": "Draw alpha by torch.rand, not torch.randn or a constant.",
    "noise normal instead of uniform": "Draw DRAGAN's noise by torch.rand_like, uniform in [0, 1).",
    "noise centred on the real rows": "DRAGAN's noise is uniform in [0, 1), not around 0.",
    "noise not uniform in [0, 1)": "Points are real + std_scale * std(real) * torch.rand_like(real).",
    "one noise value per sample": "Draw DRAGAN's noise for every element: torch.rand_like(real).",
    "std of each feature instead of the whole batch": "Take one standard deviation over all elements: real.std().",
    "std of each sample instead of the whole batch": "Take one standard deviation over all elements: real.std().",
    "std ignored": "Multiply the noise by real.std().",
    "std_scale ignored": "Multiply the noise by the std_scale that was asked for.",
    # what they leave behind
    NO_GRAPH: "Take the input gradient with create_graph=True and detach nothing, or the penalty trains nothing.",
    "wrong gradient by the critic's parameters": "Detach neither norms nor gradients: only real, fake and alpha are constants.",
    "slope not finite at zero gradient": "Use torch.linalg.vector_norm, or sqrt(sum + eps): the slope of sqrt(0) is infinite.",
    "requires_grad switched on in the caller's tensors": "Detach first: x = real.detach().requires_grad_().",
    "the caller's tensors are modified": "Compute new tensors instead of in-place operations on real and fake.",
    "the critic is changed": "Leave weights, requires_grad and training mode alone, or put them back.",
    ".grad of the critic's parameters filled": "Use torch.autograd.grad with respect to the points instead of backward().",
    "value in half precision inside autocast": "Take norms of gradient.float() inside torch.autocast(enabled=False).",
}

OF_LOSSES = {
    # what they compute from the logits
    "sign flipped": "Both losses are minimised: return the negative.",
    "sides exchanged": "Exchange real and fake: the discriminator pulls real logits up, the generator fake ones.",
    "sigmoid applied to the logits": "Pass the critic's output as it is: the loss takes logits, not probabilities.",
    "saturating loss in place of the non-saturating one": "Its generator's loss is softplus(-fake), not -softplus(fake).",
    "non-saturating loss in place of the saturating one": "Its generator's loss is -softplus(fake), not softplus(-fake).",
    "loss of another kind": "Pass the kind that this loss is, or change its formula.",
    "label smoothing forgotten": "The real label is 1 - label_smoothing.",
    "label smoothing on both sides": "Smooth the real label only: the fake one stays 0.",
    "label smoothing not asked for": "The real label is 1 unless label_smoothing is given.",
    # what they do besides
    NO_SLOPE: "Keep the graph: no .item(), .detach(), torch.tensor(...) or no_grad on the way.",
    WRONG_SLOPES: "The backward is not the derivative of this value: compare it by torch.autograd.gradcheck in fp64.",
    "ignores the upstream gradient": "Multiply the slopes by grad_output in backward.",
    "wrong at large logits": "Use softplus or logsigmoid of the logits: log(sigmoid(x)) saturates, and BCELoss with it.",
    "second derivative missing": "Compute backward by differentiable operations on the saved logits, not by a saved slope.",
    "second derivative wrong": "Check the backward's own derivative by torch.autograd.gradgradcheck in fp64.",
    "one tensor on both sides gets a wrong gradient": "Return each side's partial derivative, as of two tensors.",
    "a tensor in two losses gets a wrong gradient": "Keep what backward needs by ctx.save_for_backward alone.",
    OVERWRITES: "Write values and slopes into memory of their own.",
    "broadcasts [N, 1] against [N]": "Refuse logits of different shapes: they make an N x N table.",
    "value in half precision": "Compute in fp32 and return it: logits.float() first.",
}

REMEDIES = OF_BOTH | OF_PENALTIES | OF_LOSSES


def fault(name: str, evidence: str) -> Fault:
    """The fault of that name, with its remedy."""
    return Fault(name, evidence, REMEDIES[name])


class Found(Exception):
    """A fault after which the rest of a check has nothing to look at."""

    def __init__(self, name: str, evidence: str) -> None:
        super().__init__(name, evidence)
        self.fault = fault(name, evidence)


def one_number(value: Any) -> Tensor:
    """The value, if it is a 0-d tensor."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise Found(NOT_ONE_NUMBER, f"expected a tensor of shape [], got {got}")


T = TypeVar("T")


def unless_refused(call: Callable[[], T]) -> T | None:
    """What the call returns; None if it raises an error, which is no silent fault."""
    try:
        return call()
    except Found:
        raise
    except Exception:
        return None


class Mistake(NamedTuple):
    """A known wrong formula: the fields in which it differs from the right one."""

    name: str
    changes: Mapping[str, Any]
    detail: str = ""


F = TypeVar("F", bound="DataclassInstance")


def explain(right: F, mistakes: Sequence[Mistake], fits: Callable[[F], bool]) -> tuple[F, tuple[Mistake, ...]] | None:
    """The formula that fits, and its mistakes: as few as possible and two at most, in different fields. None if none fits.

    right: a dataclass, whose fields the mistakes change.
    """
    for count in range(3):
        for chosen in itertools.combinations(mistakes, count):
            fields = [name for mistake in chosen for name in mistake.changes]
            if len(set(fields)) < len(fields):
                continue
            changes = {name: value for mistake in chosen for name, value in mistake.changes.items()}
            formula = replace(right, **changes)
            if fits(formula):
                return formula, chosen
    return None


class Check(NamedTuple):
    """One idea to look at, and the faults that would make it see more than there is."""

    run: Callable[[Any], Iterable[Fault]]
    unless: frozenset[str] = frozenset()


def _seen(check: Check, subject: Any) -> Iterator[Fault]:
    torch.default_generator.manual_seed(0)  # what a penalty draws is the same in every run
    try:
        yield from check.run(subject)
    except Found as found:
        yield found.fault
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        yield fault(RAISES, f"expected a value, got {type(error).__name__}: {reason} (check: {check.run.__name__})")


def collect(checks: Sequence[Check], subject: Any) -> tuple[Fault, ...]:
    """What the checks find, the first fault of each name; the caller's random numbers and gradient mode stay as they are."""
    found: dict[str, Fault] = {}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for check in checks:
            if check.unless.isdisjoint(found):
                for seen in _seen(check, subject):
                    found.setdefault(seen.name, seen)
    return tuple(found.values())


def require_none(subject: str, faults: Sequence[Fault]) -> None:
    """Raises ConformanceError if there is any fault."""
    if faults:
        raise ConformanceError(subject, faults)
