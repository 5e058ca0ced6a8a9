"""Gradient penalties on the critic's input: functions for a loop of your own, and specs for the trainer.

With g = dD/dx, one row per sample, and norms over all of a sample's dimensions:

    gradient penalty  weight * mean (|g| - target)^2   at x = real + alpha (fake - real), one alpha per sample
    DRAGAN            weight * mean (|g| - target)^2   at x = real + std_scale * std(real) * uniform noise
    R1                gamma / 2 * mean |g|^2           at x = real
    R2                gamma / 2 * mean |g|^2           at x = fake

A critic is any callable of rows: a module, `lambda x: critic(x, labels)` for a conditional one, and with `select` one that
returns more than logits. Norms and values are fp32 or wider; inside autocast to bf16 the critic runs in bf16, to fp16 in fp32.
Derivatives: any order by the critic's parameters, by double backward; MLPs have a closed form, without it, for the first.
In torch.compile, torch.func.grad and vmap, and of compiled critics, penalties are as in eager code. A compiled penalty takes no
`generator`, and no critic that writes in place: batch norm in training mode, spectral norm by hooks (parametrized, it is fine).
Batch norm in training mode mixes rows, so that a row's gradient is not its own: use none in a critic that is penalised.

Sources: Gulrajani et al. 2017, Petzka et al. 2018 (one-sided), Kodali et al. 2017 (DRAGAN), Mescheder et al. 2018 (R1, R2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from . import closed_penalty, distributed
from .input_gradient import Critic, Select, input_gradient, under_autocast
from .ops import penalty as ops
from .ops.reference import wide
from .ops.sample import Draws, interpolate


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_amount(name: str, value: float) -> None:
    _require(math.isfinite(value) and value >= 0, f"{name} must be a finite number >= 0, got {value}")


class Penalty:
    """What the trainer asks of a penalty: where to take the gradient, and its price. every=k: each k-th D update, times k."""

    every: int
    at: ClassVar[str | None] = None  # "real" or "fake" rows, where it looks at those themselves

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        """The rows [B, ...] at which the critic's gradient is taken; `index` tells several penalties' draws apart."""
        raise NotImplementedError

    def value(self, gradient: Tensor) -> Tensor:
        """The price of input gradients [B, ...], 0-d."""
        raise NotImplementedError

    def form(self, times: float = 1.0) -> ops.Form | None:
        """The price times a number as kernels know it, None where they do not."""
        return None

    def push(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]:
        """The price times a number, and its derivative by the input gradients [B, ...]."""
        if (form := self.form(times)) is None:
            raise NotImplementedError
        return ops.push(gradient, form)

    def kernel_form(self, times: float = 1.0) -> ops.Form | None:
        """`form`, unless a push of its own says otherwise."""
        return self.form(times) if type(self).push is Penalty.push else None

    @classmethod
    def has_push(cls) -> bool:
        """Whether a push is defined, by a form or by itself."""
        return cls.push is not Penalty.push or cls.form is not Penalty.form

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):  # type: ignore[arg-type]  # every penalty is a dataclass
            value = getattr(self, name)
            if name == "every":
                _require(isinstance(value, int) and value >= 1, f"every must be a whole number >= 1, got {value}")
            elif name != "one_sided":
                _check_amount(name, value)


@dataclass(frozen=True)
class GradientPenalty(Penalty):
    """WGAN-GP's penalty between real and fake rows; one_sided counts only norms above the target (WGAN-LP)."""

    weight: float = 10.0
    target: float = 1.0
    one_sided: bool = False
    every: int = 1

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        return interpolate(real, fake, draws.alpha(real.shape[0], index))

    def value(self, gradient: Tensor) -> Tensor:
        return ops.norm_penalty(gradient, weight=self.weight, target=self.target, one_sided=self.one_sided)

    def form(self, times: float = 1.0) -> ops.Form:
        return ops.Form(False, times * self.weight, self.target, self.one_sided)


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

    def form(self, times: float = 1.0) -> ops.Form:
        return ops.Form(False, times * self.weight, self.target)


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

    def form(self, times: float = 1.0) -> ops.Form:
        return ops.Form(True, times * self.gamma)


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


def _penalize(critic: Critic, points: Tensor, spec: Penalty, method: str, select: Select | None) -> Tensor:
    _require(method in ("auto", "autograd"), f'method must be "auto" or "autograd", got {method!r}')
    points = under_autocast(critic, points)
    if method == "auto" and select is None and (layers := closed_penalty.read(critic, points)):
        return closed_penalty.penalty(layers, points, spec)
    return spec.value(input_gradient(critic, points, select))


def _check_rows(name: str, rows: Tensor) -> None:
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        what = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
        raise TypeError(f"{name} must be a tensor of floating-point rows, got {what}")
    _require(rows.dim() > 0 and rows.numel() > 0, f"{name} has no rows, shape {tuple(rows.shape)}")


def _uniforms(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), fp32 or wider."""
    device, dtype = like.device, torch.promote_types(like.dtype, torch.float32)
    if generator is None:  # an overload of its own: the other one keeps torch.compile from shapes that it does not know
        return torch.rand(shape, device=device, dtype=dtype)
    return torch.rand(shape, generator=generator, device=device, dtype=dtype)


def gradient_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    alpha: Tensor | None = None,
    generator: torch.Generator | None = None,
    select: Select | None = None,
    method: str = "auto",
) -> Tensor:
    """weight * mean over rows of (|grad D at real + alpha (fake - real)| - target)^2, 0-d.

    real, fake: [B, ...] of one shape; alpha: one weight in [0, 1] per sample, [B] (drawn uniformly from `generator` if None).
    select: picks the logits out of what the critic returns. method: "auto" takes the closed form where the critic has one,
    "autograd" double backward.
    Differentiable with respect to the critic's parameters; real and fake are taken as constants. At zero gradient its
    slope is 0, not nan. Raises ValueError (shapes that differ, no rows, an amount out of range), TypeError (no logits).
    """
    _check_rows("real", real)
    _check_rows("fake", fake)
    _require(real.shape == fake.shape, f"real and fake differ in shape: {tuple(real.shape)} and {tuple(fake.shape)}")
    if alpha is None:
        alpha = _uniforms(real.shape[:1], real, generator)
    rows = real.shape[0]
    one_each = alpha.shape[:1] == (rows,) and alpha.numel() == rows
    _require(one_each, f"alpha is one weight per sample, [{rows}], got {tuple(alpha.shape)}")
    between = interpolate(real.detach(), fake.detach(), alpha.detach())
    points = between.to(torch.promote_types(real.dtype, fake.dtype))  # alpha is fp32 where rows are half
    return _penalize(critic, points, GradientPenalty(weight, target, one_sided), method, select)


def r1_penalty(
    critic: Critic, real: Tensor, *, gamma: float = 10.0, select: Select | None = None, method: str = "auto"
) -> Tensor:
    """gamma / 2 * mean over rows of |grad D at real|^2, 0-d; arguments and errors as in `gradient_penalty`."""
    _check_rows("real", real)
    return _penalize(critic, real, R1(gamma), method, select)


def r2_penalty(
    critic: Critic, fake: Tensor, *, gamma: float = 10.0, select: Select | None = None, method: str = "auto"
) -> Tensor:
    """gamma / 2 * mean over rows of |grad D at fake|^2, 0-d; arguments and errors as in `gradient_penalty`."""
    _check_rows("fake", fake)
    return _penalize(critic, fake, R2(gamma), method, select)


def dragan_penalty(
    critic: Critic,
    real: Tensor,
    *,
    weight: float = 10.0,
    std_scale: float = 0.5,
    generator: torch.Generator | None = None,
    select: Select | None = None,
    method: str = "auto",
) -> Tensor:
    """weight * mean over rows of (|grad D at real + std_scale * std(real) * u| - 1)^2 with u uniform in [0, 1), 0-d.

    The std is that of all elements of this process's batch. Arguments and errors as in `gradient_penalty`.
    """
    _check_rows("real", real)
    rows = wide(real.detach())
    points = (rows + std_scale * rows.std() * _uniforms(real.shape, real, generator)).to(real.dtype)
    return _penalize(critic, points, DRAGAN(weight, std_scale=std_scale), method, select)


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
