"""update by Triton: an optimizer's step over any network's flat buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from .backend import implementation
from .sample_triton import launcher
from .tiled import FLAT_BLOCK, buffers_of, rule_numbers

DOUBT = 2  # where in a record an update's doubts begin (kernels/update.py)


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
    average: Tensor | None = None,
    decay: float = 0.0,
) -> Tensor:
    """kernels/update.py for contiguous fp32 buffers; the reference for others."""
    extra: dict[str, Any] = dict(clip=clip, average=average, decay=decay)
    buffers = [weight, gradient, *state] if average is None else [weight, gradient, *state, average]
    plain = all(x.dtype == torch.float32 and x.is_contiguous() and x.numel() == weight.numel() for x in buffers)
    if not plain or count.dtype != torch.int64:
        return reference.update_(weight, gradient, state, lr, count, withhold, rule=rule, options=options, **extra)
    from ..kernels import update as kernels

    name, nesterov, numbers = rule_numbers(rule, options)
    programs, launch = -(-weight.numel() // FLAT_BLOCK), launcher(weight.device)
    doubts = withhold.float() if withhold.is_floating_point() else torch.where(withhold, torch.nan, 0.0)
    statistics = DOUBT + max(2, doubts.numel())
    record = torch.zeros(1, statistics + 2 * programs, device=weight.device)
    record[0, DOUBT : DOUBT + doubts.numel()] = doubts.flatten()
    launch(
        kernels.flat_kernel, (programs,),
        buffers_of(weight, state, average), gradient, 1, weight.numel(), record, 0, 0, doubts.numel(), statistics,
        lr, count, numbers, clip, decay, RULE=name, NESTEROV=nesterov, FLAGS=1, BLOCK=FLAT_BLOCK,
    )  # fmt: skip
    results = torch.empty(6, device=weight.device)
    launch(
        kernels.settle_kernel, (1,),
        record, 0, 1, doubts.numel(), statistics, programs, count, torch.zeros_like(count), results, BLOCK=1024,
    )  # fmt: skip
    return results[4:]
