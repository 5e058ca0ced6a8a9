"""update by C++: an optimizer's step in one pass over a network's flat buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..backend import fake, implementation

FLOAT_DTYPES = (torch.float32, torch.float64)  # what C++ takes
COUNT_DTYPES = (torch.int64, *FLOAT_DTYPES)


@implementation("update.update_", "cpp", "cpu")
def _update_in_one_pass(
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
    """csrc/cpu/update.cpp for contiguous fp32 and fp64 buffers; the reference for others."""
    extra: dict[str, Any] = dict(clip=clip, ema=ema, ema_decay=ema_decay)
    buffers = [weight, gradient, *state] if ema is None else [weight, gradient, *state, ema]
    if not _alike(buffers) or count.dtype not in COUNT_DTYPES or lr.dtype not in FLOAT_DTYPES:
        return reference.update_(weight, gradient, state, lr, count, withhold, rule=rule, options=options, **extra)
    run = torch.ops.fastgan.update_.default
    result = run(weight, gradient, state, lr, count, withhold, rule, numbers(rule, options), **extra)
    _mark_changed(weight, state, ema)
    return result


def update_with_gradients_(
    weight: Tensor,
    gradient: Tensor,
    state: list[Tensor],
    lr: Tensor,
    count: Tensor,
    withhold: Tensor,
    *,
    rule: str,
    options: dict[str, Any],
    operands: dict[str, Any],
    **extra: Any,
) -> Tensor:
    """`update_` on gradients that are made on the way, from a packed chain's operands; `gradient` is not touched."""
    del gradient
    run = torch.ops.fastgan.packed_update_.default
    result = run(weight, state, lr, count, withhold, rule, numbers(rule, options), **extra, **operands)
    _mark_changed(weight, state, extra.get("ema"))
    return result


def _mark_changed(weight: Tensor, state: list[Tensor], ema: Tensor | None) -> None:
    """What autograd has saved of these is out of date: kernels get memory alone, and no version counter."""
    torch.autograd.graph.increment_version([weight, *state] if ema is None else [weight, *state, ema])


def numbers(rule: str, options: dict[str, Any]) -> list[float]:
    """A rule's options as C++ takes them: in the order of torch.optim's arguments after the learning rate, betas as two."""
    values = reference.RULES[rule].options(options).values()
    return [float(number) for value in values for number in (value if isinstance(value, tuple) else (value,))]


def _alike(buffers: list[Tensor]) -> bool:
    """Contiguous, of one size, and of one dtype that C++ has."""
    dtype, size = buffers[0].dtype, buffers[0].numel()
    return dtype in FLOAT_DTYPES and all(x.dtype == dtype and x.numel() == size and x.is_contiguous() for x in buffers)


@fake("update_")
def _fake_update(weight: Tensor, *_: Any, **__: Any) -> Tensor:
    return weight.new_empty(2)
