"""What a network ends in: a Sigmoid whose logits a loss can read, a Tanh that needs fp32, as modules or as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..runtime.second_order import uncompiled


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
    """Keeps what the last of them returned."""

    output: Tensor | None = None

    def _call(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        self.output = func(*args, **kwargs)
        return self.output


class _Replaced(_Calls):
    """Does something else at one of the calls."""

    def __init__(self, kind: Kind, number: int, instead: Callable[[Tensor], Tensor]) -> None:
        super().__init__(kind)
        self.number, self.instead = number, instead

    def _call(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        if self.count != self.number:
            return func(*args, **kwargs)
        given = args[0] if args else kwargs["input"]
        result = self.instead(given)
        if func in self.kind.in_place and result is not given:
            given.copy_(result)
        return result


class End(NamedTuple):
    """An activation at a network's end: the module that does it alone, or None; how often its kind is called in a pass."""

    kind: Kind
    module: nn.Module | None
    calls: int

    @contextmanager
    def replaced(self, instead: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Around one pass over the network, which then ends in something else.

        Raises RuntimeError where the pass does not go as it went when data were attached.
        """
        with uncompiled(), _Replaced(self.kind, self.calls, instead) as calls:
            yield
        if calls.count not in (0, self.calls):  # none at all: the network ends so in evaluation mode alone
            name = self.kind.module.__name__.lower()
            raise RuntimeError(
                f"a network ended in a {name} when data were attached, the last of {self.calls}, and calls {calls.count} now: "
                "attach the data again, or end it without"
            )


class Look(NamedTuple):
    """A network's end, if it is an activation of the kind, and how often that was called in a pass."""

    end: End | None
    calls: int


@torch.no_grad()
def look(network: nn.Module, kind: Kind, rows: Tensor) -> Look:
    """Runs the network on a few rows, and looks at its end."""
    outputs: list[tuple[nn.Module, Any]] = []
    with ExitStack() as stack:
        for part in network.modules():
            if type(part) is kind.module:
                hook = part.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
                stack.callback(hook.remove)
        stack.enter_context(uncompiled())
        calls = stack.enter_context(_Kept(kind))
        result = network(rows)
    if not calls.count or not isinstance(result, Tensor) or not _is_passed_on(network, kind, calls.count, rows):
        return Look(None, calls.count)
    last = next((module for module, made in outputs if made is calls.output), None)
    alone = last if sum(module is last for module, _ in outputs) == 1 else None
    return Look(End(kind, alone, calls.count), calls.count)


@torch.no_grad()
def returns_probabilities(network: nn.Module, rows: Tensor, seen: Look) -> bool:
    """Whether what is read of a critic, as it was looked at, stays in [0, 1], for rows far away too.

    Where no sigmoid was seen, both ends have to be reached there: other critics begin with small numbers as well.
    """
    ran = seen.calls > (seen.end is not None)
    before = _Replaced(seen.end.kind, seen.end.calls, lambda x: x) if seen.end else nullcontext()
    far_away = []
    with uncompiled(), before:
        if not _in_unit_interval(network(rows)):
            return False
        for scale in (1e4, -1e4):
            try:
                far_away.append(network(scale * rows))
            except Exception:  # it takes no such rows
                return ran
    if not all(map(_in_unit_interval, far_away)):
        return False
    reached = torch.cat([numbers.reshape(-1) for numbers in far_away])
    return ran or bool(reached.min() < 1e-3 and reached.max() > 1 - 1e-3)


def _in_unit_interval(result: Any) -> bool:
    return isinstance(result, Tensor) and bool(((result >= 0) & (result <= 1)).all())


def _is_passed_on(network: nn.Module, kind: Kind, number: int, rows: Tensor) -> bool:
    """Whether the network returns as it is whatever a call gives, not clamped, for example, or averaged."""
    numbers: list[Tensor] = []

    def far_apart(x: Tensor) -> Tensor:
        signs = torch.arange(x.numel(), dtype=x.dtype, device=x.device) % 2 * 2 - 1
        numbers.append((signs * torch.arange(1000, 1000 + x.numel(), dtype=x.dtype, device=x.device)).view_as(x))
        return numbers[-1].clone()

    with uncompiled(), _Replaced(kind, number, far_apart):
        result = network(rows)
    return result.numel() == numbers[0].numel() and torch.equal(result.reshape(-1).to(numbers[0]), numbers[0].reshape(-1))
