"""update by Triton: an optimizer's step over a network's flat buffers, alone or after its weight gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..backend import implementation, launcher

BLOCK = 1024  # weights of a program
VALUE, SKIPPED, FINITE_CHECK, PENALTY_VALUES = 0, 1, 2, 4  # places in a record, see kernels/update.py
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

    def arguments(self) -> tuple:
        """What a launch takes besides buffers."""
        return self.lr, self.count, self.numbers, self.clip, self.ema_decay


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
    weight_decay = float(options.get("weight_decay", 0.0))
    if rule == "adam":
        beta1, beta2 = options.get("betas", (0.9, 0.999))
        logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
        return rule, False, (weight_decay, beta1, 1 - beta1, beta2, 1 - beta2, options.get("eps", 1e-8), *logs)
    momentum = float(options.get("momentum", 0.0))
    if rule == "sgd":
        if not momentum:
            return rule, False, (weight_decay,)
        return "sgd-momentum", options.get("nesterov", False), (weight_decay, momentum, 1 - options.get("dampening", 0.0))
    alpha = options.get("alpha", 0.99)
    name = rule + ("-centered" if options.get("centered", False) else "") + ("-momentum" if momentum else "")
    return name, False, (weight_decay, alpha, 1 - alpha, options.get("eps", 1e-8), momentum)


def programs(weights: int) -> int:
    """How many programs a flat step over so many weights has."""
    return -(-weights // BLOCK)


def step_(launch: Any, optimizer: OptimizerArgs, gradients: Tensor, location: tuple, flags: int) -> None:
    """The optimizer's step on the sum of gradients [splits, weights]; location, flags: of its record (update_log.py)."""
    from ...kernels import update as kernels

    weights = optimizer.buffers[0].numel()
    launch(
        kernels.flat_kernel, (programs(weights),),
        optimizer.buffers, gradients, len(gradients), weights, *location, *optimizer.arguments(),
        RULE=optimizer.rule, NESTEROV=optimizer.nesterov, FLAGS=flags, BLOCK=BLOCK,
    )  # fmt: skip


def flush_(
    launch: Any,
    rows: Tensor,
    used: int,
    finite_checks: int,
    statistics: int,
    parts: int,
    count: Tensor,
    skips: Tensor,
    results: Tensor,
) -> None:
    """Counts the updates of the first `used` records, and gathers the last one's results [RESULTS]."""
    from ...kernels import update as kernels

    launch(
        kernels.flush_kernel, (used,),
        rows, rows.stride(0), used, finite_checks, statistics, parts, count, skips, results, BLOCK=1024,
    )  # fmt: skip


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
    location = record, 0, 0, finite_checks.numel(), statistics
    step_(launch, optimizer_args(weight, state, lr, count, **extra), gradient.unsqueeze(0), location, 1)
    results, skips = torch.empty(RESULTS, device=weight.device), torch.zeros_like(count)
    flush_(launch, record, 1, finite_checks.numel(), statistics, parts, count, skips, results)
    return results[4:]
