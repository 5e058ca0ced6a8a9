"""update by Triton: an optimizer's step over a network's flat buffers, alone or after its weight gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..backend import Launch, implementation, launcher

BLOCK = 1024  # weights of a program
VALUE, SKIPPED, FINITE_CHECK, PENALTY_VALUES = 0, 1, 2, 4  # places in a record, see kernels/record.py
RESULTS = 6  # numbers that a flush leaves


@dataclass(frozen=True)
class OptimizerArgs:
    """An optimizer as kernels take it: its buffers (weights, three states, the ema), rate, count, rule, clip and ema_decay.

    rule, nesterov, numbers: the formula's name in kernels/update.py, its variant and its numbers.
    """

    buffers: tuple
    lr: Tensor
    count: Tensor
    rule: str
    nesterov: bool
    numbers: tuple[float, ...]
    clip: float
    ema_decay: float

    def arguments(self) -> dict[str, Any]:
        """What a launch takes of it."""
        given = dict(buffers=self.buffers, lr=self.lr, count=self.count, numbers=self.numbers, clip=self.clip)
        return given | dict(ema_decay=self.ema_decay, RULE=self.rule, NESTEROV=self.nesterov)


class RecordLocation(NamedTuple):
    """Where an update's record stands in a log, records [updates, record_size]; see kernels/record.py.

    number: of the update, or, of a whole log, how many there are; finite_checks: how many numbers of a record must be finite;
    statistics_at: where its statistics begin; flags: a power of two, more than any number.
    """

    records: Tensor
    record_size: int
    number: int
    finite_checks: int
    statistics_at: int
    flags: int

    def arguments(self) -> dict[str, Any]:
        """What an update's launch takes of it."""
        given = dict(update_log=self.records, record_size=self.record_size, index=self.number)
        return given | dict(finite_checks=self.finite_checks, statistics_at=self.statistics_at, FLAGS=self.flags)


def optimizer_args(
    weight: Tensor,
    state: Sequence[Tensor],
    lr: Tensor,
    count: Tensor,
    *,
    rule: str,
    options: dict[str, Any],
    clip: float,
    ema: Tensor | None,
    ema_decay: float,
) -> OptimizerArgs:
    """An optimizer with the arguments of `ops.update.update_`."""
    buffers = (weight, *(*state, None, None, None)[:3], ema)
    return OptimizerArgs(buffers, lr, count, *_formula(rule, options), clip, ema_decay)


def _formula(rule: str, options: dict[str, Any]) -> tuple[str, bool, tuple[float, ...]]:
    """The variant of a rule that kernels have, whether it is Nesterov's, and the numbers that it unpacks."""
    given = reference.RULES[rule].options(options)
    weight_decay = float(given["weight_decay"])
    if rule == "adam":
        beta1, beta2 = given["betas"]
        logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
        return rule, False, (weight_decay, beta1, 1 - beta1, beta2, 1 - beta2, _eps(given), *logs)
    if rule == "sgd":
        if not given["momentum"]:
            return rule, False, (weight_decay,)
        return "sgd-momentum", given["nesterov"], (weight_decay, float(given["momentum"]), 1 - given["dampening"])
    if rule == "rmsprop":
        alpha, momentum = given["alpha"], float(given["momentum"])
        name = rule + ("-centered" if given["centered"] else "") + ("-momentum" if momentum else "")
        return name, False, (weight_decay, alpha, 1 - alpha, _eps(given), momentum)
    raise ValueError(f"no kernel has the rule {rule!r}")


def _eps(given: dict[str, Any]) -> float:
    return reference.least_eps(given["eps"], torch.float32)


def programs(weights: int) -> int:
    """How many programs a flat step over so many weights has."""
    return -(-weights // BLOCK)


def step_(launch: Launch, optimizer: OptimizerArgs, gradients: Tensor, location: RecordLocation) -> None:
    """The optimizer's step on the sum of gradients [splits, weights]; location: of the update's record."""
    from ...kernels import update as kernels

    weights = optimizer.buffers[0].numel()
    grid, sums = (programs(weights),), dict(gradient=gradients, splits=len(gradients), size=weights)
    launch(kernels.flat_kernel, grid, **sums, **location.arguments(), **optimizer.arguments(), BLOCK=BLOCK)


def flush_(launch: Launch, location: RecordLocation, programs: int, count: Tensor, skips: Tensor, results: Tensor) -> None:
    """Counts the updates of the first records, as many as location's number, and gathers the last one's results [RESULTS].

    programs: of the kernel that ends an update.
    """
    from ...kernels import update as kernels

    updates = location.number
    launch(
        kernels.flush_kernel,
        (updates,),
        update_log=location.records,
        record_size=location.record_size,
        updates=updates,
        finite_checks=location.finite_checks,
        statistics_at=location.statistics_at,
        programs=programs,
        count=count,
        skips=skips,
        results=results,
        BLOCK=1024,
    )


@implementation("update.update_", "triton", "cuda", "cpu")
def _update_triton(
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
    """kernels/update.py for contiguous fp32 buffers; the reference for others."""
    extra: dict[str, Any] = dict(rule=rule, options=options, clip=clip, ema=ema, ema_decay=ema_decay)
    buffers = [weight, gradient, *state] if ema is None else [weight, gradient, *state, ema]
    plain = all(x.dtype == torch.float32 and x.is_contiguous() and x.numel() == weight.numel() for x in buffers)
    if not plain or count.dtype != torch.int64:
        return reference.update_(weight, gradient, state, lr, count, withhold, **extra)
    parts, launch = programs(weight.numel()), launcher(weight.device)
    finite_checks = withhold.float() if withhold.is_floating_point() else torch.where(withhold, torch.nan, 0.0)
    statistics = FINITE_CHECK + max(2, finite_checks.numel())
    record = torch.zeros(1, statistics + 2 * parts, device=weight.device)
    record[0, FINITE_CHECK : FINITE_CHECK + finite_checks.numel()] = finite_checks.flatten()
    location = RecordLocation(record, 0, 0, finite_checks.numel(), statistics, 1)
    step_(launch, optimizer_args(weight, state, lr, count, **extra), gradient.unsqueeze(0), location)
    results, skips = torch.empty(RESULTS, device=weight.device), torch.zeros_like(count)
    flush_(launch, location._replace(number=1), parts, count, skips, results)
    return results[4:]
