"""What lets a critic's input gradient be differentiated again: kernels with a second derivative, and a look at the others."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import CellType
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

log = logging.getLogger("fastgan")

# scaled_dot_product_attention's kernels, set as torch.nn.attention.sdpa_kernel sets them: all critics would feel its 25 us
_ATTENTION = [
    (getattr(torch._C, f"_get_{name}_sdp_enabled"), getattr(torch._C, f"_set_sdp_use_{name}"), name == "math")
    for name in ("cudnn", "flash", "mem_efficient", "overrideable", "math")
]


class _Shared:
    """A setting of the process, which threads that overlap share: the first one sets it, the last one restores it."""

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change, self._lock, self._users = change, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._restore = self._change()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._restore()


def _force_eager() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    stance.__enter__()
    return lambda: stance.__exit__(None, None, None)


def _choose_math() -> Callable[[], object]:
    before = [(choose, is_on()) for is_on, choose, _ in _ATTENTION]
    for _, choose, on in _ATTENTION:
        choose(on)
    return lambda: [choose(on) for choose, on in before]


def _leave_cudnn() -> Callable[[], object]:
    before, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
    return lambda: setattr(torch.backends.cudnn, "enabled", before)


as_written = _Shared(_force_eager)  # runs what torch.compile has compiled without what it made of it
math_attention = _Shared(_choose_math)  # runs attention on torch's math kernel, the one with a second derivative
native_rnns = _Shared(_leave_cudnn)  # runs recurrent layers on torch's own kernels: cuDNN's have no second derivative


def uncompiled() -> AbstractContextManager[None]:
    """`as_written` where torch's compiler is loaded: who has not imported it has compiled nothing."""
    return as_written if "torch._dynamo" in sys.modules else nullcontext()


def modules_of(critic: Any) -> Iterator[nn.Module]:
    """The modules that can be seen of a critic: itself, a method's own, those that a function was written around."""
    while isinstance(critic, partial):
        critic = critic.func
    held = [cell.cell_contents for cell in getattr(critic, "__closure__", None) or () if cell != _EMPTY]
    for part in (critic, getattr(critic, "__self__", None), *held):
        if isinstance(part, nn.Module):
            yield part


_EMPTY = CellType()


def has_rnn(critic: Any) -> bool:
    """Whether recurrent layers can be seen in a critic."""
    return any(isinstance(part, nn.RNNBase) for module in modules_of(critic) for part in module.modules())


_ATTENTION_REMEDY = "leave the kernel to scaled_dot_product_attention, which runs torch's math kernel under a penalty"
_RNN_REMEDY = "pass the module itself as the critic, or call the penalty inside torch.backends.cudnn.flags(enabled=False)"
_ONCE = (  # nodes that cannot be differentiated again, and what to write
    ("CudnnRnn", _RNN_REMEDY),
    *((name, _ATTENTION_REMEDY) for name in ("ScaledDotProduct", "FlashAttention", "EfficientAttention")),
)
_examined: tuple[WeakSet, WeakSet] = WeakSet(), WeakSet()  # critics in evaluation mode, and in training mode


def examine(critic: Any, logits: Tensor) -> None:
    """Looks, once for each critic and mode, at what its logits were made by, and says where batch norm mixes their rows.

    RuntimeError for a kernel without a second derivative: autograd would tell of it in the user's backward.
    """
    module = next(modules_of(critic), None)
    # a function may be written anew in each step of a loop: its code stays
    key = getattr(critic, "__code__", type(critic)) if module is None else module
    examined = _examined[module is not None and module.training]
    if key in examined:
        return
    mixes_rows = False
    for node in _nodes(logits):
        name = node.name()
        for prefix, remedy in _ONCE:
            if name.startswith(prefix):
                raise RuntimeError(f"the critic ran {name.removesuffix('Backward0')}, which has no second derivative: {remedy}")
        mixes_rows |= "BatchNorm" in name and _mixes_rows(node)
    examined.add(key)
    if mixes_rows:
        log.warning(
            "%s has batch norm in training mode, which mixes rows: under a penalty no row's gradient is its own; "
            "take layer, instance or group norm, or put the batch norm into eval mode",
            "the critic" if module is None else type(module).__name__,
        )


def leave_unexamined(module: nn.Module) -> None:
    """Says nothing of a critic that is a copy of another."""
    for examined in _examined:
        examined.add(module)


def _mixes_rows(node: Any) -> bool:
    """Whether a batch norm used its batch's statistics; instance norm is batch norm of one row to torch."""
    return getattr(node, "_saved_training", True) and node._input_metadata[0].shape[0] > 1


def _nodes(tensor: Tensor) -> Iterator[Node]:
    """The nodes of a tensor's autograd graph."""
    waiting, seen = [tensor.grad_fn], set[Node]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [below for below, _ in node.next_functions]
            yield node
