"""update: weight gradient -> optimizer -> weight, its moving average (EMA); in place, over one flat buffer per network."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .backend import implementation, resolve

implementation("update.update_", "reference")(reference.update_)


def state_size(rule: str, options: dict) -> int:
    """How many buffers of the weights' size an optimizer keeps."""
    return reference.RULES[rule].buffers(**options)


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
    backend: str = "auto",
) -> Tensor:
    """One optimizer step over a flat network, in place; see reference.update_ for every argument.

    Returns [sum of squares of the finite gradients, number of weights that keep their value].
    """
    run = reference.update_ if torch.compiler.is_compiling() else resolve("update.update_", weight.device.type, backend)
    return run(
        weight, gradient, state, lr, count, withhold, rule=rule, options=options, clip=clip, ema=ema, ema_decay=ema_decay
    )
