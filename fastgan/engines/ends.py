"""What a network ends in: a Sigmoid whose logits a loss can read, a Tanh that needs fp32, as modules or as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..runtime.input_gradient import as_written


class Kind(NamedTuple):
    """An activation: its module, its functions, and those that write over their input."""

    module: type[nn.Module]
    functions: frozenset[Callable[..., Tensor]]
    in_place: frozenset[Callable[..., Tensor]]


SIGMOID = Kind(
    nn.Sigmoid,
    frozenset({torch.sigmoid, Tensor.sigmoid, F.sigmoid, torch.special.expit}),
    frozenset({torch.sigmoid_, Tensor.sigmoid_}),
)
TANH = Kind(nn.Tanh, frozenset({torch.tanh, Tensor.tanh, F.tanh}), frozenset({torch.tanh_, Tensor.tanh_}))


class _Calls(TorchFunctionMode):
    """Inside, calls of an activation's functions are counted, and done by `_call`."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind, self.count = kind, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.kind.functions and func not in self.kind.in_place:
            return func(*args, **(kwargs or {}))
        self.count += 1
        return self._call(func, args, kwargs or {})

    def _call(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        raise NotImplementedError


class _Kept(_Calls):
    """Keeps what they return."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.outputs: list[tuple[Tensor, int]] = []

    def _call(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        output = func(*args, **kwargs)
        self.outputs.append((output, output._version))
        return output

    def number_of(self, result: Tensor) -> int | None:
        """Which call gave the result, perhaps as a view, into which nothing was written since; None if none did."""
        for number, (output, version) in reversed([*enumerate(self.outputs)]):
            same_memory = output.data_ptr() == result.data_ptr() and output.numel() == result.numel()
            if same_memory and output._version == version:
                return number
        return None


class _Replaced(_Calls):
    """Does something else at one of the calls."""

    def __init__(self, kind: Kind, number: int, instead: Callable[[Tensor], Tensor]) -> None:
        super().__init__(kind)
        self.number, self.instead = number, instead

    def _call(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        if self.count == self.number + 1:
            return self.instead(args[0] if args else kwargs["input"])
        return func(*args, **kwargs)


class End(NamedTuple):
    """An activation at a network's end: the module that does it alone, or None; which of its calls it is, of how many."""

    kind: Kind
    module: nn.Module | None
    number: int
    calls: int

    @contextmanager
    def replaced(self, instead: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Around one pass over the network, which then ends in something else.

        Raises RuntimeError where the pass does not go as it went when data were attached.
        """
        with as_written(), _Replaced(self.kind, self.number, instead) as calls:
            yield
        if calls.count not in (0, self.calls):  # none at all: the network ends so in evaluation mode alone
            name = self.kind.module.__name__.lower()
            raise RuntimeError(
                f"a network ended in a {name} when data were attached, the last of {self.calls}, and calls {calls.count} now: "
                "attach the data again, or end it without"
            )


class Look(NamedTuple):
    """A network's end, if it is an activation of the kind; else whether that ran somewhere before it, and what came out."""

    end: End | None
    ran: bool
    result: Any


@torch.no_grad()
def look(network: nn.Module, kind: Kind, rows: Tensor) -> Look:
    """Runs the network on a few rows, and looks at its end."""
    outputs: list[tuple[nn.Module, Any]] = []
    with ExitStack() as stack:
        for part in network.modules():
            if type(part) is kind.module:
                hook = part.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
                stack.callback(hook.remove)
        stack.enter_context(as_written())
        calls = stack.enter_context(_Kept(kind))
        result = network(rows)
    number = calls.number_of(result) if isinstance(result, Tensor) else None
    if number is None:
        return Look(None, calls.count > 0, result)
    output = calls.outputs[number][0]
    last = next((module for module, made in outputs if made is output), None)
    alone = last if sum(module is last for module, _ in outputs) == 1 else None
    return Look(End(kind, alone, number, calls.count), True, result)
