"""Faults of a loss, a penalty or a step: what shows them; and the search for the formula that was computed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .remedies import ALL_NOTES, FIRST_OF_A_TUPLE, NOT_ONE_NUMBER, ONE_ELEMENT, RAISES, REMEDIES

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Fault(NamedTuple):
    """One fault of a loss, a penalty or a step, or a note: a convention under which it is right.

    Args:
        name: what is wrong, or the convention.
        evidence: the numbers that show it.
        remedy: what to change, or to know.
        is_note: whether it is a note. Notes stand after all faults, and no check raises for them.

    Example:
        >>> (fault,) = diagnose_g_loss(lambda fake: fake.mean(), "wgan")
        >>> fault.name, fault.remedy
        ('sign flipped', 'Both losses are minimised: return the negative.')
    """

    name: str
    evidence: str
    remedy: str
    is_note: bool = False


class ConformanceError(AssertionError):
    """A loss, a penalty or a step has faults: `faults` holds them, and the message lists each with its evidence and remedy.

    Args:
        subject: what has them.
        faults: at least one, and no notes.

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
        return "\n".join(
            [f"{self.subject}: {count}", *(f"  {found.name}: {found.evidence}. {found.remedy}" for found in self.faults)]
        )


HALF_PRECISION = (torch.bfloat16, torch.float16)


def fault(name: str, evidence: str) -> Fault:
    """The fault or the note of that name, with its remedy."""
    return Fault(name, evidence, REMEDIES[name], is_note=name in ALL_NOTES)


class Found(Exception):
    """A fault after which the rest of a check has nothing to look at."""

    def __init__(self, name: str, evidence: str) -> None:
        super().__init__(name, evidence)
        self.fault = fault(name, evidence)


def one_number(returned: Any) -> Tensor:
    """The value as a 0-d tensor, if what was returned is one number, alone or first in a tuple."""
    value = _first(returned)
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise Found(NOT_ONE_NUMBER, f"expected a tensor of shape [], got {got}")


def _first(returned: Any) -> Any:
    return returned[0] if isinstance(returned, tuple) and returned else returned


def form_of(returned: Any) -> Iterator[Fault]:
    """Notes of the form in which a value was returned."""
    value = one_number(returned)
    if returned is not _first(returned):
        yield fault(FIRST_OF_A_TUPLE, f"expected a tensor, got a tuple of {len(returned)}, first in it {value.item():.6g}")
    if _first(returned).dim():
        yield fault(ONE_ELEMENT, f"expected shape [], got {list(_first(returned).shape)}")


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
    """What the checks find, the first of each name, faults before notes.

    The caller's random numbers and gradient mode stay as they are.
    """
    found: dict[str, Fault] = {}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for check in checks:
            if check.unless.isdisjoint(found):
                for seen in _seen(check, subject):
                    found.setdefault(seen.name, seen)
    return tuple(sorted(found.values(), key=lambda seen: seen.is_note))


def require_none(subject: str, found: Sequence[Fault]) -> None:
    """Raises ConformanceError if there is any fault; notes are none."""
    if faults := [seen for seen in found if not seen.is_note]:
        raise ConformanceError(subject, faults)
