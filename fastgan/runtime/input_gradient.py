"""A critic's gradient by its input, ready to be differentiated again, under all the ways that people run PyTorch.

Eager code takes it by autograd, with compiled critics run as they were written: compiled code has no second derivative. Inside
torch.compile and torch.func transforms it is torch.func.grad, which both of them see through.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import reference
from ..ops.backend import transforms_active

Critic = Callable[[Tensor], Any]
Select = Callable[[Any], Tensor]

HALVES = (torch.float16, torch.bfloat16)
DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla")
# found out here, because the compiler cannot trace the question before torch 2.14; a private backend is taken to have none
WITH_AUTOCAST = frozenset(device for device in DEVICES if torch.amp.is_autocast_available(device))


def input_gradient(critic: Critic, points: Tensor, select: Select | None = None) -> Tensor:
    """d critic / d points for every row, [B, ...], with the graph that differentiates it again.

    critic: points [B, ...] -> logits with a row for each sample; select: picks them out of a critic's tuple or dict.
    Raises TypeError where no logits come back; in eager code ValueError where they do not depend on the points, which gives 0
    elsewhere.
    """

    def total(x: Tensor) -> Tensor:
        return _logits(critic(x), select).sum()

    if torch.compiler.is_compiling() or transforms_active():
        with _precision(points):
            return torch.func.grad(total)(points.detach())
    with ExitStack() as contexts:
        for context in (torch.inference_mode(False), torch.enable_grad(), as_written(), _precision(points)):
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


def _autocast_dtype(device: str) -> torch.dtype | None:
    """What autocast makes of fp32 on a device type; None where it is off, or not known there."""
    on = device in WITH_AUTOCAST and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def product_dtype(points: Tensor) -> torch.dtype:
    """What a critic's products run in: autocast's bf16; in place of fp16, whose range an input gradient can leave, fp32."""
    bf16 = points.dtype == torch.float32 and _autocast_dtype(points.device.type) == torch.bfloat16
    return torch.bfloat16 if bf16 else points.dtype


def under_autocast(critic: Critic, points: Tensor) -> Tensor:
    """Rows as they were before autocast: what it made half is fp32 again, but for a critic that is half itself."""
    if points.dtype not in HALVES or _autocast_dtype(points.device.type) is None:
        return points
    half = isinstance(critic, nn.Module) and any(p.dtype in HALVES for p in critic.parameters())
    return points if half else reference.wide(points)


def _precision(points: Tensor) -> AbstractContextManager:
    """No autocast where it would take products in another dtype than `product_dtype`."""
    if _autocast_dtype(points.device.type) in (None, product_dtype(points)):
        return nullcontext()
    return _in_fp32(points.device.type)


@contextmanager
def _in_fp32(device: str) -> Iterator[None]:
    try:
        with torch.autocast(device, enabled=False):
            yield
    except RuntimeError as error:
        if "dtype" in str(error) or "scalar type" in str(error):
            error.add_note("inside autocast to fp16 a penalty runs its critic in fp32: give it .float() of what else it takes")
        raise


_stance_lock, _stance_users, _stance = threading.Lock(), 0, ExitStack()


@contextmanager
def as_written() -> Iterator[None]:
    """Runs what torch.compile has compiled without what it made of it.

    The stance is the process's, and threads that overlap share it: the first one sets it, the last one restores it.
    """
    global _stance_users
    if "torch._dynamo" not in sys.modules:  # who has not imported it has compiled nothing
        yield
        return
    with _stance_lock:
        if not _stance_users:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _stance_users += 1
    try:
        yield
    finally:
        with _stance_lock:
            _stance_users -= 1
            if not _stance_users:
                _stance.close()


def _logits(output: Any, select: Select | None) -> Tensor:
    logits = output if select is None else select(output)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the critic returned a {type(logits).__name__}, not a tensor of logits: "
            "pick them out, for example by select=lambda output: output[0]"
        )
    return logits
