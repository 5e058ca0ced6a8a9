"""Penalties as values, which a trainer takes and a command line can name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from ..ops import penalty as ops
from ..ops.sample import Draws, interpolate
from ..runtime import distributed
from .arguments import as_amount, as_count, as_flag, as_number, check_tensor, require

RENAMED = {"push": "penalty_gradient", "has_push": "has_penalty_gradient"}  # hooks of fastgan 0.1, and their names since


class Penalty:
    """What the trainer asks of a penalty: where to take the gradient, and its value. every=k: each k-th D update, times k.

    A subclass is a dataclass that defines `points` and `value`. It is played in closed form, too, if it defines
    `penalty_gradient` or, for a formula that kernels know, `form`; `at` and `interpolates` say what may be known of its points.
    A class that defines `value` or `points` anew does not inherit what was said of the ones before.

    Raises:
        TypeError: a subclass that defines a hook by the name that it had before fastgan 0.2.

    Example:
        >>> class Sum(R1):
        ...     def value(self, gradient):
        ...         return self.gamma * gradient.abs().sum()
        >>> Sum(0.5).value(torch.ones(2, 3)), Sum.at, Sum.has_penalty_gradient()
        (tensor(3.), 'real', False)
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
        """The rows at which the critic's gradient is taken.

        Args:
            real: real rows, [B, ...].
            fake: fake rows, the same.
            draws: the update's random numbers.
            index: tells several penalties' draws apart.

        Returns:
            [B, ...].

        Raises:
            NotImplementedError: a subclass that does not say.
        """
        raise NotImplementedError

    def value(self, gradient: Tensor) -> Tensor:
        """The penalty of input gradients.

        Args:
            gradient: of the critic's sum by the points, [B, ...].

        Returns:
            0-d, fp32 or wider.

        Raises:
            NotImplementedError: a subclass that does not say.
        """
        raise NotImplementedError

    def form(self, times: float = 1.0) -> ops.PenaltyForm | None:
        """The penalty as kernels know it.

        Args:
            times: a factor.

        Returns:
            The form of the penalty times that factor; None where kernels have none.
        """
        return None

    def penalty_gradient(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]:
        """The penalty and its derivative by the input gradients.

        Args:
            gradient: of the critic's sum by the points, [B, ...].
            times: a factor of both.

        Returns:
            The value, 0-d, and the derivative, [B, ...].

        Raises:
            NotImplementedError: a subclass that defines neither this nor a form.
        """
        if (form := self.form(times)) is None:
            raise NotImplementedError
        return ops.penalty_gradient(gradient, form)

    @classmethod
    def has_penalty_gradient(cls) -> bool:
        """Whether a derivative is defined, by a form or by itself.

        Returns:
            True for what is played in closed form.
        """
        return cls._in_closed_form

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # every penalty is a dataclass
            of_kind = as_count if field.name == "every" else _OF_KIND.get(field.type)
            value = getattr(self, field.name)
            if of_kind and (plain := of_kind(field.name, value)) is not value:
                object.__setattr__(self, field.name, plain)

    def __call__(self, *arguments: Any, **options: Any) -> None:
        """Refuses to be called as a loss is.

        Args:
            *arguments: anything.
            **options: anything.

        Raises:
            TypeError: always; the message names what a loop calls.
        """
        raise TypeError(
            f"{type(self).__name__} is a spec, which a trainer takes, Trainer(..., penalty={self}): in a loop of your own "
            "call gradient_penalty(critic, real, fake), r1_penalty(critic, real) or another function of fastgan.penalties"
        )


_OF_KIND: dict[Any, Callable[[str, Any], Any]] = {
    "float": as_amount,
    float: as_amount,
    "bool": as_flag,
    bool: as_flag,
}  # by a field's annotation


def _defined_at(cls: type, name: str) -> int:
    """How far down the order of its bases a class finds an attribute."""
    return next(depth for depth, base in enumerate(cls.__mro__) if name in vars(base))


@dataclass(frozen=True)
class GradientPenalty(Penalty):
    """WGAN-GP's penalty between real and fake rows: weight * mean (|g| - target)^2.

    Args:
        weight: the penalty's factor, >= 0.
        target: the norm that is not penalized, >= 0.
        one_sided: whether only norms above the target are penalized (WGAN-LP).
        every: k for each k-th D update, times k.

    Raises:
        ValueError: a value out of its range.
        TypeError: a value of another kind.

    Example:
        >>> spec = GradientPenalty(10.0, one_sided=True)
        >>> spec.value(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).item()
        80.0
    """

    interpolates: ClassVar[bool] = True
    weight: float = 10.0
    target: float = 1.0
    one_sided: bool = False
    every: int = 1

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        return interpolate(real, fake, draws.alpha(real.shape[0], index))

    def value(self, gradient: Tensor) -> Tensor:
        check_tensor("gradient", gradient)
        return ops.norm_penalty(gradient, weight=self.weight, target=self.target, one_sided=self.one_sided)

    def form(self, times: float = 1.0) -> ops.PenaltyForm:
        return ops.PenaltyForm(False, times * self.weight, self.target, self.one_sided)


@dataclass(frozen=True)
class DRAGAN(Penalty):
    """The norm penalty around the real rows: weight * mean (|g| - target)^2.

    Args:
        weight: the penalty's factor, >= 0.
        target: the norm that is not penalized, >= 0.
        std_scale: the noise's factor, >= 0; std is that of all elements of the batch, on all processes.
        every: k for each k-th D update, times k.

    Raises:
        ValueError: a value out of its range.
        TypeError: a value of another kind.

    Example:
        >>> DRAGAN(std_scale=1.0)
        DRAGAN(weight=10.0, target=1.0, std_scale=1.0, every=1)
    """

    weight: float = 10.0
    target: float = 1.0
    std_scale: float = 0.5
    every: int = 1

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        noise = draws.noise(real.shape[0], real[0].numel(), index).view_as(real)
        return real + self.std_scale * distributed.std(real, distributed.world()) * noise

    def value(self, gradient: Tensor) -> Tensor:
        check_tensor("gradient", gradient)
        return ops.norm_penalty(gradient, weight=self.weight, target=self.target)

    def form(self, times: float = 1.0) -> ops.PenaltyForm:
        return ops.PenaltyForm(False, times * self.weight, self.target)


@dataclass(frozen=True)
class R1(Penalty):
    """gamma / 2 * mean |g|^2 on the real rows.

    Args:
        gamma: twice the penalty's factor, >= 0.
        every: k for each k-th D update, times k.

    Raises:
        ValueError: a value out of its range.
        TypeError: a value of another kind.

    Example:
        >>> R1(2.0, every=16).value(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item()
        13.0
    """

    at: ClassVar[str | None] = "real"
    gamma: float = 10.0
    every: int = 1

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        return real

    def value(self, gradient: Tensor) -> Tensor:
        check_tensor("gradient", gradient)
        return ops.square_penalty(gradient, gamma=self.gamma)

    def form(self, times: float = 1.0) -> ops.PenaltyForm:
        return ops.PenaltyForm(True, times * self.gamma)


@dataclass(frozen=True)
class R2(R1):
    """gamma / 2 * mean |g|^2 on the fake rows.

    Args:
        gamma: twice the penalty's factor, >= 0.
        every: k for each k-th D update, times k.

    Raises:
        ValueError: a value out of its range.
        TypeError: a value of another kind.

    Example:
        >>> R1(1.0).at, R2(1.0).at
        ('real', 'fake')
    """

    at: ClassVar[str | None] = "fake"

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        return fake


@dataclass(frozen=True)
class WeightClip:
    """Every weight of the critic is clipped to [-bound, bound] after each of its updates (Arjovsky et al. 2017).

    Args:
        bound: above 0.

    Raises:
        ValueError: a bound that is not a finite number > 0.
        TypeError: a bound that is no number.

    Example:
        >>> WeightClip(0.01)
        WeightClip(bound=0.01)
    """

    bound: float = 0.01

    def __post_init__(self) -> None:
        bound = as_number("bound", self.bound)
        require(math.isfinite(bound) and bound > 0, f"bound must be a finite number > 0, got {bound}")
        object.__setattr__(self, "bound", bound)


Spec = Penalty | WeightClip
