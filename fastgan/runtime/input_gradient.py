"""A critic's gradient by its input, ready to be differentiated again, under all the ways that people run PyTorch.

Eager code takes it by autograd, with compiled critics run as they were written: compiled code has no second derivative. Inside
torch.compile and torch.func transforms it is torch.func.grad, which both of them see through.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..ops import reference
from ..ops.backend import transforms_active
from . import second_order

Critic = Callable[[Tensor], Any]
Select = Callable[[Any], Tensor]

HALVES = (torch.float16, torch.bfloat16)
DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla")
# found out here, because the compiler cannot trace the question before torch 2.14; a private backend is taken to have none
WITH_AUTOCAST = frozenset(device for device in DEVICES if torch.amp.is_autocast_available(device))


def input_gradient(critic: Critic, points: Tensor, select: Select | None = None) -> Tensor:
    """d critic / d points for every row, [B, ...], with the graph that differentiates it again.

    critic: points [B, ...] -> logits with a row for each sample; select: picks them out of a critic's tuple or dict. Attention
    runs on torch's math kernel, and on CUDA a module's recurrent layers on torch's own: others have no second derivative.
    Raises TypeError where no logits come back; ValueError where they are not each a row's, and in eager code where they do not
    depend on the points, which gives 0 elsewhere; in eager code RuntimeError for a kernel that cannot be differentiated twice.
    """

    if torch.compiler.is_compiling():
        with sdpa_kernel(SDPBackend.MATH), _precision(points):
            return torch.func.grad(lambda x: _total(_logits(critic, x, select), x))(points.detach())
    if "torch._dynamo" not in sys.modules:  # who has not imported it has compiled nothing
        return _in_eager_code(critic, points, select, nullcontext())
    return _hidden()(critic, points, select, second_order.as_written)


@functools.cache
def _hidden() -> Callable[..., Tensor]:
    """`_in_eager_code` where the compiler leaves it alone: it would read what a region runs after a graph break."""
    return torch.compiler.disable(_in_eager_code)


def _in_eager_code(critic: Critic, points: Tensor, select: Select | None, as_written: AbstractContextManager) -> Tensor:
    is_wanted = torch.is_grad_enabled()

    def total(x: Tensor) -> Tensor:
        logits = _logits(critic, x, select)
        if not logits.requires_grad:
            return logits.sum()
        value = _total(logits, x)
        if is_wanted:
            second_order.examine(critic, logits)
        return value

    on_cuda_with_rnn = points.is_cuda and second_order.has_rnn(critic)
    rnns = second_order.native_rnns if on_cuda_with_rnn else nullcontext()
    with second_order.math_attention, rnns, _precision(points):
        if transforms_active():
            return torch.func.grad(total)(points.detach())
        with as_written, torch.inference_mode(False), torch.enable_grad():
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


def _logits(critic: Critic, points: Tensor, select: Select | None) -> Tensor:
    output = critic(points)
    logits = output if select is None else select(output)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the critic returned a {type(logits).__name__}, not a tensor of logits: pick them out by select=, "
            'a function, a key or a place, for example select=lambda output: output[0], select="logits" or select=-1'
        )
    if not logits.is_floating_point():
        raise TypeError(f"the critic returned a tensor of {logits.dtype}, not one of floating-point logits")
    return logits


def _total(logits: Tensor, points: Tensor) -> Tensor:
    """The logits' sum, whose derivative by a row is that of its own logits; ValueError where shapes tell that they are not.

    A row has a logit or several, [B, ...], or a map that was flattened, [B * L, ...]; one row may have a 0-d one. Fewer logits
    than rows are of several rows each, and of [k, B] nobody can tell whose they are.
    """
    shape, rows = logits.shape, points.shape[0]
    is_one = rows == 1 and logits.dim() == 0
    if not is_one and (logits.dim() == 0 or logits.numel() == 0 or shape[0] < rows or shape[0] % rows):
        raise ValueError(
            f"the critic returned logits of shape {tuple(shape)} for rows of shape {tuple(points.shape)}, and a penalty needs "
            "logits of every row, rows first: take a mean over the batch in the loss, not in the critic, and pass packs of k "
            "samples as rows, penalty(lambda packs: critic(packs.flatten(0, 1)), real.unflatten(0, (-1, k)), ...)"
        )
    return logits.sum()
