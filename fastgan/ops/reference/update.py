"""update in plain torch: weight gradient -> optimizer -> weight, its moving average (EMA)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


def least_eps(eps: float, dtype: torch.dtype) -> float:
    """An eps in a dtype, above 0: beside any other root the least number is nothing, and 0 / 0 becomes 0."""
    return max(eps, torch.finfo(dtype).tiny)


def sgd(w, g, state: list[Tensor], lr, *, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, count) -> list[Tensor]:
    """torch.optim.SGD's formula: returns the new weight and the new state, [velocity] when momentum > 0."""
    if weight_decay:
        g = g + weight_decay * w
    if not momentum:
        return [w - lr * g]
    velocity = torch.where(count == 1, g, momentum * state[0] + (1.0 - dampening) * g)
    return [w - lr * (g + momentum * velocity if nesterov else velocity), velocity]


def rmsprop(w, g, state, lr, *, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, count) -> list[Tensor]:
    """torch.optim.RMSprop's formula; state: [square average, velocity if momentum, gradient average if centered]."""
    del count
    if weight_decay:
        g = g + weight_decay * w
    square = alpha * state[0] + (1.0 - alpha) * g * g
    new, spread = [square], square
    if centered:
        mean = alpha * state[-1] + (1.0 - alpha) * g
        spread = square - mean * mean
    direction = g / (spread.sqrt() + least_eps(eps, w.dtype))
    if momentum:
        direction = momentum * state[1] + direction
        new.append(direction)
    return [w - lr * direction, *new, *([mean] if centered else [])]


def adam(w, g, state, lr, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, count) -> list[Tensor]:
    """torch.optim.Adam's formula (Kingma and Ba 2015); state: [mean, square average].

    count: updates so far, this one included, in fp64: 1 - beta^count loses four digits in fp32 at the first steps.
    """
    if weight_decay:
        g = g + weight_decay * w
    mean = torch.lerp(state[0], g, 1.0 - betas[0])
    square = betas[1] * state[1] + (1.0 - betas[1]) * g * g
    step_size = lr / (1.0 - betas[0] ** count)
    denominator = square.sqrt() / (1.0 - betas[1] ** count).sqrt() + least_eps(eps, w.dtype)
    return [w - step_size * (mean / denominator), mean, square]


class Rule(NamedTuple):
    """An optimizer: its formula, and how many buffers of the weights' size it keeps, by the formula's own options."""

    formula: Callable[..., list[Tensor]]
    buffers: Callable[..., int]

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """All options of the formula, in the order of torch.optim's arguments; by their defaults where they are not given."""
        defaults: dict[str, Any] = getattr(self.formula, "__kwdefaults__")  # noqa: B009
        return defaults | given


RULES = {
    "sgd": Rule(sgd, lambda momentum=0.0, **_: int(momentum > 0)),
    "rmsprop": Rule(rmsprop, lambda momentum=0.0, centered=False, **_: 1 + (momentum > 0) + centered),
    "adam": Rule(adam, lambda **_: 2),
}


def is_withheld(withhold: Tensor) -> Tensor:
    """Whether any element of the last dimension is true or, of floating-point numbers, not finite: bool, without it."""
    return ~withhold.isfinite().all(-1) if withhold.is_floating_point() else withhold.any(-1)


def in_range(new_weight: Tensor) -> Tensor:
    """Whether a new value of a weight can be taken: finite, and so is its difference to an average of such values."""
    return new_weight.abs() <= torch.finfo(new_weight.dtype).max / 2


def update_(
    weight: Tensor,
    gradient: Tensor,
    state: list[Tensor],
    lr: Tensor,
    count: Tensor,
    withhold: Tensor,
    *,
    rule: str,
    options: dict,
    clip: float = 0.0,
    ema: Tensor | None = None,
    ema_decay: float = 0.0,
) -> Tensor:
    """One optimizer step over a flat network, in place: weight, state, count and ema are updated.

    weight, gradient, every state and ema: [P]; lr: 0-d; count: 0-d, updates done: int64 or fp64, fp32 ends at 2^24.
    Where withhold, 0-d or [n], `is_withheld` nothing changes, the count included. A weight whose gradient is not finite
    keeps its value and its state; one whose new value is not `in_range`, after the clip, keeps its value. clip > 0 bounds new
    weights; ema: ema_decay * ema + (1 - ema_decay) * weight.
    Returns [sum of the finite gradients' squares, number of weights that keep their value], in weight's dtype.
    """
    withhold = is_withheld(withhold)
    finite = gradient.isfinite()
    take = finite & ~withhold
    clean = torch.where(finite, gradient, 0.0)
    count += (~withhold).to(count.dtype)
    new_weight, *new_state = RULES[rule].formula(weight, clean, state, lr, count=count.double().clamp(min=1), **options)
    if clip:
        new_weight = new_weight.clamp(-clip, clip)
    fits = in_range(new_weight)
    new_weight = torch.where(fits, new_weight, weight)
    for old, new in zip([weight, *state], [new_weight, *new_state], strict=True):
        old.copy_(torch.where(take, new, old))
    if ema is not None:
        ema.copy_(torch.where(withhold, ema, torch.lerp(weight, ema, ema_decay)))
    kept = ~finite | ~(fits | withhold)
    return torch.stack((clean.square().sum(), kept.sum().to(weight.dtype)))
