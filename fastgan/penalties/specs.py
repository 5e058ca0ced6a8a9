"""Penalties as values, which a trainer takes and a command line can name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from ..ops import penalty as ops
from ..ops.sample import Draws, interpolate
from ..runtime import distributed


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_amount(name: str, value: float) -> None:
    _require(math.isfinite(value) and value >= 0, f"{name} must be a finite number >= 0, got {value}")


RENAMED = {"push": "penalty_gradient", "has_push": "has_penalty_gradient"}  # hooks of fastgan 0.1, and their names since


class Penalty:
    """What the trainer asks of a penalty: where to take the gradient, and its value. every=k: each k-th D update, times k.

    A subclass defines `points` and `value`. It is played in closed form, too, if it defines `penalty_gradient` or, for a formula
    that kernels know, `form`; `at` and `interpolates` say what may be known of its points. A class that defines `value` or
    `points` anew does not inherit what was said of the ones before.
    """

    every: int
    at: ClassVar[str | None] = None  # "real" or "fake": its points are those rows themselves
    interpolates: ClassVar[bool] = False  # its points lie between real and fake rows, where `Draws.alpha` says
    _in_closed_form: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for old, new in RENAMED.items():
            if hasattr(cls, old):  # nobody would call it, and autograd would run in its place
                raise TypeError(f"{cls.__name__}.{old} is called {new} since fastgan 0.2 (docs/upgrading.md)")
        value, form, derivative = (_defined_at(cls, name) for name in ("value", "form", "penalty_gradient"))
        has_form, has_derivative = form <= min(value, derivative), derivative <= value
        if not has_form:
            cls.form = Penalty.form  # type: ignore[method-assign]
        if not (has_form or has_derivative):
            cls.penalty_gradient = Penalty.penalty_gradient  # type: ignore[method-assign]
        last = cls.__mro__.index(Penalty)
        cls._in_closed_form = (has_form and form < last) or (has_derivative and derivative < last)
        if _defined_at(cls, "at") > (points := _defined_at(cls, "points")):
            cls.at = None
        if _defined_at(cls, "interpolates") > points:
            cls.interpolates = False

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        """The rows [B, ...] at which the critic's gradient is taken; `index` tells several penalties' draws apart."""
        raise NotImplementedError

    def value(self, gradient: Tensor) -> Tensor:
        """The penalty of input gradients [B, ...], 0-d."""
        raise NotImplementedError

    def form(self, times: float = 1.0) -> ops.PenaltyForm | None:
        """The penalty times a number as kernels know it, None where they do not."""
        return None

    def penalty_gradient(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]:
        """The penalty's value times a number, and its derivative by the input gradients [B, ...]."""
        if (form := self.form(times)) is None:
            raise NotImplementedError
        return ops.penalty_gradient(gradient, form)

    @classmethod
    def has_penalty_gradient(cls) -> bool:
        """Whether a derivative is defined, by a form or by itself."""
        return cls._in_closed_form

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):  # type: ignore[arg-type]  # every penalty is a dataclass
            value = getattr(self, name)
            if name == "every":
                _require(isinstance(value, int) and value >= 1, f"every must be a whole number >= 1, got {value}")
            elif name != "one_sided":
                _check_amount(name, value)


def _defined_at(cls: type, name: str) -> int:
    """How far down the order of its bases a class finds an attribute."""
    return next(depth for depth, base in enumerate(cls.__mro__) if name in vars(base))


@dataclass(frozen=True)
class GradientPenalty(Penalty):
    """WGAN-GP's penalty between real and fake rows; one_sided counts only norms above the target (WGAN-LP)."""

    interpolates: ClassVar[bool] = True
    weight: float = 10.0
    target: float = 1.0
    one_sided: bool = False
    every: int = 1

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        return interpolate(real, fake, draws.alpha(real.shape[0], index))

    def value(self, gradient: Tensor) -> Tensor:
        return ops.norm_penalty(gradient, weight=self.weight, target=self.target, one_sided=self.one_sided)

    def form(self, times: float = 1.0) -> ops.PenaltyForm:
        return ops.PenaltyForm(False, times * self.weight, self.target, self.one_sided)


@dataclass(frozen=True)
class DRAGAN(Penalty):
    """The same norm penalty around the real rows; std is that of all elements of the batch, on all processes."""

    weight: float = 10.0
    target: float = 1.0
    std_scale: float = 0.5
    every: int = 1

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        noise = draws.noise(real.shape[0], real[0].numel(), index).view_as(real)
        return real + self.std_scale * distributed.std(real, distributed.world()) * noise

    def value(self, gradient: Tensor) -> Tensor:
        return ops.norm_penalty(gradient, weight=self.weight, target=self.target)

    def form(self, times: float = 1.0) -> ops.PenaltyForm:
        return ops.PenaltyForm(False, times * self.weight, self.target)


@dataclass(frozen=True)
class R1(Penalty):
    """gamma / 2 * mean |g|^2 on the real rows."""

    at: ClassVar[str | None] = "real"
    gamma: float = 10.0
    every: int = 1

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        return real

    def value(self, gradient: Tensor) -> Tensor:
        return ops.square_penalty(gradient, gamma=self.gamma)

    def form(self, times: float = 1.0) -> ops.PenaltyForm:
        return ops.PenaltyForm(True, times * self.gamma)


@dataclass(frozen=True)
class R2(R1):
    """gamma / 2 * mean |g|^2 on the fake rows."""

    at: ClassVar[str | None] = "fake"

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        return fake


@dataclass(frozen=True)
class WeightClip:
    """Every weight of the critic is clipped to [-bound, bound] after each of its updates (Arjovsky et al. 2017)."""

    bound: float = 0.01

    def __post_init__(self) -> None:
        _require(math.isfinite(self.bound) and self.bound > 0, f"bound must be a finite number > 0, got {self.bound}")


Spec = Penalty | WeightClip
_NAMED: dict[str, Callable[..., Spec]] = {
    "gp": lambda weight=10.0, every=1: GradientPenalty(weight, every=every),
    "lp": lambda weight=10.0, every=1: GradientPenalty(weight, one_sided=True, every=every),
    "r1": R1,
    "r2": R2,
    "dragan": lambda weight=10.0, every=1: DRAGAN(weight, every=every),
    "clip": WeightClip,
}


def parse(text: str) -> tuple[Spec, ...]:
    """Penalties from a command line: NAME[:AMOUNT[:EVERY]], comma-separated, such as "r1:5,r2:5" or "gp:10"; or "none"."""
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
    """One spec or several, as a tuple; TypeError for anything else, ValueError for two weight clips."""
    specs = (penalty,) if isinstance(penalty, Spec) else tuple(penalty)
    for spec in specs:
        if not isinstance(spec, Spec):
            raise TypeError(f"a penalty must be a spec from fastgan.penalties, got {type(spec).__name__}")
    _require(sum(isinstance(spec, WeightClip) for spec in specs) <= 1, "weights can be clipped to one bound only")
    return specs


_TYPES = {kind.__name__: kind for kind in (GradientPenalty, DRAGAN, R1, R2, WeightClip)}


def to_config(specs: Iterable[Spec]) -> list[dict]:
    """Specs as plain data, for a checkpoint."""
    return [{"type": type(spec).__name__, **vars(spec)} for spec in specs]


def from_config(config: list[dict]) -> tuple[Spec, ...]:
    """The specs that `to_config` described."""
    return tuple(_TYPES[entry["type"]](**{name: value for name, value in entry.items() if name != "type"}) for entry in config)
