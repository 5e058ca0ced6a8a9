"""Specs out of a command line's text and a checkpoint's plain data, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .specs import DRAGAN, R1, R2, GradientPenalty, Spec, WeightClip, _require

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

    Example:
        >>> parse("gp:10,r1:5:16")
        (GradientPenalty(weight=10.0, target=1.0, one_sided=False, every=1), R1(gamma=5.0, every=16))
    """
    if text == "none":
        return ()
    specs = []
    for part in text.split(","):
        name, *amounts = part.strip().split(":")
        if name not in _NAMED:
            raise ValueError(f"unknown penalty {name!r}; choose one of {', '.join(_NAMED)}, none")
        try:
            arguments = [float(amounts[0]), *map(int, amounts[1:])] if amounts else []
            specs.append(_NAMED[name](*arguments))
        except (TypeError, ValueError) as error:
            raise ValueError(f"penalty {part!r} is not of the form NAME[:AMOUNT[:EVERY]]: {error}") from None
    return tuple(specs)


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
    specs = (penalty,) if isinstance(penalty, Spec) else tuple(penalty)
    for spec in specs:
        if not isinstance(spec, Spec):
            raise TypeError(f"a penalty must be a spec from fastgan.penalties, got {type(spec).__name__}")
    _require(sum(isinstance(spec, WeightClip) for spec in specs) <= 1, "weights can be clipped to one bound only")
    return specs


_TYPES = {kind.__name__: kind for kind in (GradientPenalty, DRAGAN, R1, R2, WeightClip)}


def to_config(specs: Iterable[Spec]) -> list[dict]:
    """Specs as plain data, for a checkpoint.

    Args:
        specs: fastgan's own.

    Returns:
        For each its type's name and its fields.

    Example:
        >>> to_config(parse("r1:5,clip"))
        [{'type': 'R1', 'gamma': 5.0, 'every': 1}, {'type': 'WeightClip', 'bound': 0.01}]
    """
    return [{"type": type(spec).__name__, **vars(spec)} for spec in specs]


def from_config(config: list[dict]) -> tuple[Spec, ...]:
    """The specs that `to_config` described.

    Args:
        config: what it returned, as it is or out of JSON.

    Returns:
        Equal specs.

    Example:
        >>> from_config([{"type": "R1", "gamma": 5.0, "every": 1}])
        (R1(gamma=5.0, every=1),)
    """
    return tuple(_TYPES[entry["type"]](**{name: value for name, value in entry.items() if name != "type"}) for entry in config)
