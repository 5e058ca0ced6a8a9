"""A critic's gradient by its input, ready to be differentiated again, under all the ways that people run PyTorch.

Eager code takes it by autograd, with compiled critics run as they were written: compiled code has no second derivative. Inside
torch.compile and torch.func transforms it is torch.func.grad, which both of them see through.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

from .ops import reference
from .ops.backend import transforms_active

Critic = Callable[[Tensor], Any]
Select = Callable[[Any], Tensor]


def input_gradient(critic: Critic, points: Tensor, select: Select | None = None) -> Tensor:
    """d critic / d points for every row, [B, ...], with the graph that differentiates it again.

    critic: points [B, ...] -> logits with a row for each sample; select: picks them out of a critic's tuple or dict.
    Raises TypeError where no logits come back, ValueError where they do not depend on the points.
    """

    def total(x: Tensor) -> Tensor:
        return _logits(critic(x), select).sum()

    if torch.compiler.is_compiling() or transforms_active():
        with _precision(points):
            return torch.func.grad(total)(points.detach())
    with ExitStack() as contexts:
        for context in (torch.inference_mode(False), torch.enable_grad(), _as_written(), _precision(points)):
            contexts.enter_context(context)
        points = (points.clone() if points.is_inference() else points.detach()).requires_grad_()
        return _differentiate(total(points), points)


def _differentiate(total: Tensor, points: Tensor) -> Tensor:
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, points, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("the critic's logits do not depend on the rows it was given, or were detached from them")
    return gradient


def product_dtype(points: Tensor) -> torch.dtype:
    """What a critic's products run in: autocast's bf16; in place of fp16, whose range an input gradient can leave, fp32."""
    device = points.device.type
    if points.dtype == torch.float32 and torch.is_autocast_enabled(device):
        half = torch.get_autocast_dtype(device)
        return half if half == torch.bfloat16 else torch.float32
    return points.dtype


def under_autocast(points: Tensor) -> Tensor:
    """Rows as autocast would have them from the start: what it made half is fp32 again."""
    return reference.wide(points) if torch.is_autocast_enabled(points.device.type) else points


def _precision(points: Tensor) -> AbstractContextManager:
    """No autocast where it would take products in another dtype than `product_dtype`."""
    device = points.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != product_dtype(points):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _as_written() -> AbstractContextManager:
    """Runs what torch.compile has compiled without what it made of it."""
    # who has not imported it has compiled nothing
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _logits(output: Any, select: Select | None) -> Tensor:
    logits = output if select is None else select(output)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the critic returned a {type(logits).__name__}, not a tensor of logits: "
            "pick them out, for example by select=lambda output: output[0]"
        )
    return logits
