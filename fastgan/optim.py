"""Optimizer specs and learning-rate schedules: plain values, with torch.optim's formulas, names and defaults.

The trainer runs a spec over one flat buffer per network (`engines.flat_network.FlatNetwork`). TTUR is two specs with two
learning rates.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from inspect import signature
from typing import Any, ClassVar, dataclass_transform

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """A learning rate that moves from `start` to `end` over `steps` steps of the trainer and stays there.

    Args:
        shape: "cosine" or "linear".
        start: the rate at step 0, >= 0.
        end: the rate from `steps` on, >= 0.
        steps: at least 1.

    Raises:
        ValueError: an unknown shape, a rate below 0 or not finite, no steps.

    Example:
        >>> schedule = Schedule("linear", 2e-4, 0.0, 1000)
        >>> [round(float(schedule(torch.tensor(step))), 6) for step in (0, 250, 1000, 2000)]
        [0.0002, 0.00015, 0.0, 0.0]
    """

    shape: str
    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.shape not in ("cosine", "linear"):
            raise ValueError(f"unknown schedule {self.shape!r}; choose cosine or linear")
        _check_rate("start", self.start)
        _check_rate("end", self.end)
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"a schedule's steps must be a whole number >= 1, got {self.steps}")

    def __call__(self, step: Tensor) -> Tensor:
        """The rate at a step.

        Args:
            step: 0-d.

        Returns:
            0-d, fp64, on the step's device.
        """
        progress = (step.double() / self.steps).clamp(max=1.0)
        remaining = 0.5 * (1.0 + torch.cos(math.pi * progress)) if self.shape == "cosine" else 1.0 - progress
        return self.end + (self.start - self.end) * remaining


def _check_rate(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def cosine(start: float, end: float = 0.0, *, steps: int) -> Schedule:
    """Half a cosine from start to end over `steps` steps (Loshchilov and Hutter 2017, without restarts).

    Args:
        start: the rate at step 0, >= 0.
        end: the rate from `steps` on, >= 0.
        steps: steps of the trainer, at least 1.

    Returns:
        A rate for an optimizer spec.

    Example:
        >>> Adam(lr=cosine(2e-4, steps=20_000)).lr
        Schedule(shape='cosine', start=0.0002, end=0.0, steps=20000)
    """
    return Schedule("cosine", start, end, steps)


def linear(start: float, end: float = 0.0, *, steps: int) -> Schedule:
    """A straight line from start to end over `steps` steps.

    Args:
        start: the rate at step 0, >= 0.
        end: the rate from `steps` on, >= 0.
        steps: steps of the trainer, at least 1.

    Returns:
        A rate for an optimizer spec.

    Example:
        >>> float(linear(1.0, 0.5, steps=10)(torch.tensor(5)))
        0.75
    """
    return Schedule("linear", start, end, steps)


Rate = float | Schedule


@dataclass_transform(frozen_default=True)
def _spec(cls: type) -> Any:
    """A frozen dataclass that takes no parameters, as torch's optimizers do."""
    spec: Any = dataclass(frozen=True)(cls)
    name, initialise = cls.__name__, spec.__init__

    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        first = arguments[0] if arguments else options.get("params", options.get("lr"))
        if "params" in options or not isinstance(first, (int, float, str, Schedule, type(None))):
            raise TypeError(
                f"fastgan.optim.{name} is a spec without parameters: write {name}(lr=2e-4) and give it to "
                f"Trainer(g_optimizer=..., d_optimizer=...); a loop of your own takes torch.optim.{name}"
            )
        initialise(self, *arguments, **options)

    spec.__init__, spec.__signature__ = __init__, signature(spec)
    return spec


@dataclass(frozen=True)
class Optimizer:
    """What every spec has: a learning rate, and the name and options of its update rule in `ops.reference`.

    Args:
        lr: the learning rate, a number >= 0 or a `Schedule`.

    Raises:
        ValueError: a rate or an option out of its range.

    Example:
        >>> spec = SGD(0.1, momentum=0.9)
        >>> isinstance(spec, Optimizer), spec.rule, spec.lr
        (True, 'sgd', 0.1)
    """

    rule: ClassVar[str]
    lr: Rate

    def __post_init__(self) -> None:
        if not isinstance(self.lr, Schedule):
            _check_rate("lr", self.lr)
        for name, value in self.options().items():
            if name == "betas":
                if not isinstance(value, tuple) or len(value) != 2:
                    raise ValueError(f"betas must be two numbers, such as (0.5, 0.999), got {value!r}")
                _check_unit("beta1", value[0])
                _check_unit("beta2", value[1])
            elif name in ("alpha", "momentum"):
                _check_unit(name, value)
            elif not isinstance(value, bool):
                _check_rate(name, value)

    def options(self) -> dict:
        """The rule's own arguments.

        Returns:
            Values by their names, without the learning rate.
        """
        return {name: value for name, value in vars(self).items() if name != "lr"}


def _check_unit(name: str, value: float) -> None:
    _check_rate(name, value)
    if value >= 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


@_spec
class SGD(Optimizer):
    """Gradient descent, with momentum if wanted; torch.optim.SGD's formula.

    Args:
        lr: the learning rate, a number >= 0 or a `Schedule`.
        momentum: in [0, 1).
        dampening: of the momentum.
        weight_decay: times the weights, added to the gradient.
        nesterov: whether the momentum is Nesterov's.

    Raises:
        ValueError: a number out of its range; nesterov without a momentum, or with dampening.
        TypeError: a network's parameters.

    Example:
        >>> SGD(0.1, momentum=0.9, nesterov=True).options()
        {'momentum': 0.9, 'dampening': 0.0, 'weight_decay': 0.0, 'nesterov': True}
    """

    rule: ClassVar[str] = "sgd"
    lr: Rate = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError("nesterov needs a momentum above 0 and no dampening, as in torch.optim.SGD")


@_spec
class RMSprop(Optimizer):
    """torch.optim.RMSprop's formula (Tieleman and Hinton 2012).

    Args:
        lr: the learning rate, a number >= 0 or a `Schedule`.
        alpha: decay of the squares' average, in [0, 1).
        eps: added to the root; with 0, a weight whose gradients were all 0 stays.
        weight_decay: times the weights, added to the gradient.
        momentum: in [0, 1).
        centered: whether the gradient's mean is subtracted from the squares.

    Raises:
        ValueError: a number out of its range.
        TypeError: a network's parameters.

    Example:
        >>> RMSprop(5e-5)
        RMSprop(lr=5e-05, alpha=0.99, eps=1e-08, weight_decay=0.0, momentum=0.0, centered=False)
    """

    rule: ClassVar[str] = "rmsprop"
    lr: Rate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False


@_spec
class Adam(Optimizer):
    """torch.optim.Adam's formula (Kingma and Ba 2015).

    Args:
        lr: the learning rate, a number >= 0 or a `Schedule`.
        betas: decays of the averages of gradients and of their squares, each in [0, 1).
        eps: added to the root; with 0, a weight whose gradients were all 0 stays.
        weight_decay: times the weights, added to the gradient.

    Raises:
        ValueError: a number out of its range, betas that are not two.
        TypeError: a network's parameters.

    Example:
        >>> Adam(2e-4, betas=(0.5, 0.999))
        Adam(lr=0.0002, betas=(0.5, 0.999), eps=1e-08, weight_decay=0.0)
    """

    rule: ClassVar[str] = "adam"
    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.betas, list):
            object.__setattr__(self, "betas", tuple(self.betas))
        super().__post_init__()


_TYPES: dict[str, Callable[..., Optimizer]] = {spec.rule: spec for spec in (SGD, RMSprop, Adam)}


def parse(text: str, base: Optimizer | None = None) -> Optimizer:
    """An optimizer from a command line.

    Args:
        text: NAME[:OPTION=VALUE,...] with adam, rmsprop or sgd, such as "adam:beta1=0,beta2=0.99" or "sgd:momentum=0.9".
        base: has what is not said, where its rule is the same; otherwise torch.optim's defaults have it.

    Returns:
        The spec.

    Raises:
        ValueError: an unknown name or option, or a value that is none.

    Example:
        >>> parse("adam:beta1=0,lr=1e-4", base=Adam(betas=(0.5, 0.9)))
        Adam(lr=0.0001, betas=(0.0, 0.9), eps=1e-08, weight_decay=0.0)
    """
    name, _, options = text.partition(":")
    if name.lower() not in _TYPES:
        raise ValueError(f"unknown optimizer {name!r}; choose one of {', '.join(_TYPES)}")
    spec: Optimizer = base if base is not None and base.rule == name.lower() else _TYPES[name.lower()]()
    fields = dict(vars(spec))
    for option in filter(None, options.split(",")):
        fields |= _read_option(spec, fields, *option.partition("=")[::2])
    return replace(spec, **fields)


def _read_option(spec: Optimizer, fields: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    known = set(fields)
    if "betas" in fields:
        known = known - {"betas"} | {"beta1", "beta2"}
    if name not in known:
        raise ValueError(f"{spec.rule} has no option {name!r}; it has {', '.join(sorted(known))}")
    if isinstance(fields.get(name), bool):
        return {name: _switch(name, text)}
    value: Any = parse_rate(text) if name == "lr" else _number(name, text)
    if name == "beta1":
        return {"betas": (value, fields["betas"][1])}
    if name == "beta2":
        return {"betas": (fields["betas"][0], value)}
    return {name: value}


_SWITCHES = {"": True, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _switch(name: str, text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise ValueError(f"{name} must be true or false, got {text!r}")
    return _SWITCHES[text.lower()]


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, got {text!r}") from None


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def parse_rate(text: str) -> Rate:
    """A learning rate from a command line.

    Args:
        text: a number, or SHAPE:START:END:STEPS such as "cosine:2e-4:0:20000".

    Returns:
        The number, or the schedule.

    Raises:
        ValueError: anything else.

    Example:
        >>> parse_rate("1e-4"), parse_rate("cosine:2e-4:0:20000")
        (0.0001, Schedule(shape='cosine', start=0.0002, end=0.0, steps=20000))
    """
    shape, *fields = text.split(":")
    if not fields:
        return _number("a learning rate", shape)
    if len(fields) != 3:
        raise ValueError(f"a schedule has the form SHAPE:START:END:STEPS, got {text!r}")
    return Schedule(shape, _number("start", fields[0]), _number("end", fields[1]), _whole("steps", fields[2]))


def to_config(spec: Optimizer) -> dict:
    """A spec as plain data, for a checkpoint.

    Args:
        spec: any of this module's optimizers.

    Returns:
        Its rule and its fields.

    Example:
        >>> to_config(Adam())
        {'rule': 'adam', 'lr': 0.001, 'betas': (0.9, 0.999), 'eps': 1e-08, 'weight_decay': 0.0}
    """
    return {"rule": spec.rule, **asdict(spec)}


def from_config(config: dict) -> Optimizer:
    """The spec that `to_config` described.

    Args:
        config: what it returned, as it is or out of JSON.

    Returns:
        An equal spec.

    Example:
        >>> spec = RMSprop(linear(1e-3, steps=100), centered=True)
        >>> from_config(to_config(spec)) == spec
        True
    """
    fields = {name: value for name, value in config.items() if name != "rule"}
    if isinstance(fields["lr"], dict):
        fields["lr"] = Schedule(**fields["lr"])
    return _TYPES[config["rule"]](**fields)
