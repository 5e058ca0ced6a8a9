"""Specs out of a command line's text and a checkpoint's plain data, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from inspect import signature
from types import NoneType
from typing import Any

from torch import Tensor

from ..runtime.arguments import describe
from .arguments import require
from .specs import DRAGAN, R1, R2, GradientPenalty, Spec, WeightClip

_NAMED: dict[str, Callable[..., Spec]] = {
    "gp": lambda weight=10.0, every=1: GradientPenalty(weight, every=every),
    "lp": lambda weight=10.0, every=1: GradientPenalty(weight, one_sided=True, every=every),
    "r1": R1,
    "r2": R2,
    "dragan": lambda weight=10.0, every=1: DRAGAN(weight, every=every),
    "clip": WeightClip,
}


def parse(text: str) -> tuple[Spec, ...]:
    """Penalties from a command line.

    Args:
        text: NAME[:AMOUNT[:EVERY]] with gp, lp, r1, r2, dragan or clip, comma-separated, such as "r1:5,r2:5" or "gp:10"; or
            "none".

    Returns:
        The specs, in that order.

    Raises:
        ValueError: an unknown name, or an amount that is none.
        TypeError: no string.

    Example:
        >>> parse("gp:10,r1:5:16")
        (GradientPenalty(weight=10.0, target=1.0, one_sided=False, every=1), R1(gamma=5.0, every=16))
    """
    if not isinstance(text, str):
        raise TypeError(f'text must be a string such as "gp:10" or "none", got {describe(text)}')
    if text == "none":
        return ()
    specs = []
    for part in text.split(","):
        name, *amounts = part.strip().split(":")
        if name not in _NAMED:
            raise ValueError(f"unknown penalty {name!r}; choose one of {', '.join(_NAMED)}, none")
        specs.append(_read(part, name, amounts))
    return tuple(specs)


def _read(part: str, name: str, amounts: list[str]) -> Spec:
    form = f"penalty {part!r} is not of the form NAME[:AMOUNT[:EVERY]]"
    most = len(signature(_NAMED[name]).parameters)
    if len(amounts) > most:
        raise ValueError(f"{form}: {name} takes {most} of these numbers at most, got {len(amounts)}")
    arguments: list[float] = []
    for kind, word, text in zip((float, int), ("a number", "a whole number"), amounts, strict=False):
        try:
            arguments.append(kind(text))
        except ValueError:
            raise ValueError(f"{form}: {text!r} is not {word}") from None
    try:
        return _NAMED[name](*arguments)
    except ValueError as error:
        raise ValueError(f"{form}: {error}") from None


def as_specs(penalty: Spec | Iterable[Spec]) -> tuple[Spec, ...]:
    """One spec or several, as a tuple.

    Args:
        penalty: a spec, or some.

    Returns:
        The specs.

    Raises:
        TypeError: anything else.
        ValueError: two weight clips.

    Example:
        >>> as_specs(R1(5.0)), as_specs([])
        ((R1(gamma=5.0, every=1),), ())
    """
    several = isinstance(penalty, Iterable) and not isinstance(penalty, (Spec, str, dict, Tensor))
    specs: tuple[Any, ...] = tuple(penalty) if several else (penalty,)  # type: ignore[arg-type]
    for spec in specs:
        if not isinstance(spec, Spec):
            raise TypeError(f"a penalty must be a spec from fastgan.penalties, got {describe(spec)}{_remedy(spec)}")
    require(sum(isinstance(spec, WeightClip) for spec in specs) <= 1, "weights can be clipped to one bound only")
    return specs


def _remedy(penalty: Any) -> str:
    """What to write in place of something that is no spec."""
    if isinstance(penalty, str):
        return f": write penalties.parse({penalty!r})"
    if penalty is None:
        return ": write () for none"
    if isinstance(penalty, type) and issubclass(penalty, Spec):
        return f": write {penalty.__name__}(), an instance of it"
    return ", such as penalties.R1(10.0)"


_TYPES = {kind.__name__: kind for kind in (GradientPenalty, DRAGAN, R1, R2, WeightClip)}


def to_config(specs: Spec | Iterable[Spec]) -> list[dict]:
    """Specs as plain data, for a checkpoint.

    Args:
        specs: one or several, fastgan's own or of one's own.

    Returns:
        For each its type's name and its fields; of one's own also the type's module, and of fields that are no plain data the
        type.

    Raises:
        TypeError: something that is no spec.
        ValueError: two weight clips.

    Example:
        >>> to_config(parse("r1:5,clip"))
        [{'type': 'R1', 'gamma': 5.0, 'every': 1}, {'type': 'WeightClip', 'bound': 0.01}]
    """
    return [_described(spec) for spec in as_specs(specs)]


def _described(spec: Spec) -> dict:
    kind, values = type(spec), {name: _plain(value) for name, value in vars(spec).items()}
    own = {} if kind is _TYPES.get(kind.__name__) else {"module": kind.__module__}
    return {"type": kind.__name__, **own, **values}


def _plain(value: Any) -> Any:
    """A value as JSON has it, or the name of its type."""
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return value if isinstance(value, (str, int, float, NoneType)) else f"{type(value).__module__}.{type(value).__qualname__}"


def from_config(config: list[dict]) -> tuple[Spec, ...]:
    """The specs that `to_config` described.

    Args:
        config: what it returned, as it is or out of JSON.

    Returns:
        Equal specs.

    Raises:
        ValueError: a penalty that is none of fastgan's, or fields that it does not have.
        TypeError: no list of such entries.

    Example:
        >>> from_config([{"type": "R1", "gamma": 5.0, "every": 1}])
        (R1(gamma=5.0, every=1),)
    """
    if not isinstance(config, (list, tuple)) or not all(isinstance(entry, dict) and "type" in entry for entry in config):
        raise TypeError(f'config must be what to_config returned, a list such as [{{"type": "R1"}}], got {describe(config)}')
    return tuple(map(_from_entry, config))


def is_own(entry: dict) -> bool:
    """Whether an entry of a config describes one of fastgan's own specs.

    Args:
        entry: one of those that `to_config` returned.

    Returns:
        True if `from_config` makes the spec of it.

    Example:
        >>> is_own({"type": "R1", "gamma": 5.0}), is_own({"type": "R1", "module": "mine"})
        (True, False)
    """
    return "module" not in entry and entry["type"] in _TYPES


def _from_entry(entry: dict) -> Spec:
    given = {name: value for name, value in entry.items() if name != "type"}
    name = entry["type"]
    if not is_own(entry):
        raise ValueError(
            f"the checkpoint's penalty is a {name}, which is not fastgan's own: pass penalty= as it was given then"
        )
    kind = _TYPES[name]
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = ", ".join(name for name in given if name not in known)
    require(not unknown, f"{kind.__name__} has no {unknown}, only {', '.join(known)}")
    return kind(**given)
