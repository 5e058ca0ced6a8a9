"""Modules that draw from torch's generator, such as torch's own dropout: as a function of a seed, and beside other threads.

torch has one generator for all threads of a process. Seeding it before a pass and putting it back afterwards (`seeded`) is
right as long as nobody else draws. `OwnDraws` gives a thread's random operations generators of their own instead, so that
neither side sees the other; it costs a call of Python for each operation. Both draw the same numbers on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_PROBABILITIES = ("dropout_p", "dropout", "p")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's generators begin at a seed; afterwards they are as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def is_compiled(module: nn.Module) -> bool:
    """Whether a part of a module is compiled: what compiled code draws, and when, no dispatch mode sees."""
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in module.modules())


class _Random(NamedTuple):
    """A random operation: what does the same with a generator given, or None; where its dropout probability stands, or None."""

    with_generator: Callable[..., Any] | None
    probability: tuple[int, str] | None

    def draws(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call draws from torch's generator: not with a probability of 0, and not with a generator of its own."""
        if self.probability is not None:
            place, name = self.probability
            return bool(args[place] if place < len(args) else kwargs.get(name, 0.0))
        return not any(isinstance(value, Generator) for value in (*args, *kwargs.values()))


@cache
def _random(func: Any) -> _Random | None:
    """What is known of an operation; None where it draws nothing."""
    if torch.Tag.nondeterministic_seeded not in func.tags or func.__name__.partition(".")[0].endswith("_backward"):
        return None
    if func is torch.ops.aten.native_dropout.default:
        return _Random(_native_dropout, (1, "p"))
    packet = func._overloadpacket
    for overload in (func, *(getattr(packet, name) for name in packet.overloads())):
        if "generator" in _arguments(overload) and _without_generator(overload) == _without_generator(func):
            return _Random(overload, None)
    names = list(_arguments(func))
    return _Random(None, next(((names.index(name), name) for name in _PROBABILITIES if name in names), None))


def _arguments(func: Any) -> dict[str, str]:
    return {argument.name: str(argument.type) for argument in func._schema.arguments}


def _without_generator(func: Any) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in _arguments(func).items() if name != "generator"]


def _native_dropout(input: Tensor, p: float, train: bool | None = True, *, generator: Generator) -> tuple[Tensor, Tensor]:
    """The operation of that name, which takes no generator."""
    kept = torch.empty_like(input, dtype=torch.bool)
    if train is False:
        return input.clone(), kept.fill_(True)
    kept.bernoulli_(1.0 - p, generator=generator)
    return input * kept * (1.0 / (1.0 - p) if p < 1.0 else 0.0), kept


def _device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device:
    """Where an operation runs: on its tensors' device, or on the one that is asked for."""
    tensors = (value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    return next(tensors, torch.device(kwargs.get("device") or "cpu"))


class OwnDraws(TorchDispatchMode):
    """Inside, what this thread's operations draw comes from generators of its own, which begin at a seed (`begin`).

    drawn: whether something was drawn; replayed: whether a backward pass draws it, or will draw it again, as activation
    checkpointing does from the state of torch's generator: it gets other numbers here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn = self.replayed = False
        self._seed, self._generators = 0, dict[torch.device, Generator]()

    def begin(self, seed: int) -> OwnDraws:
        """Makes the next number the first one of a seed."""
        self._seed = seed
        for generator in self._generators.values():
            generator.manual_seed(seed)
        return self

    def _generator(self, device: torch.device) -> Generator:
        if device not in self._generators:
            self._generators[device] = Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, random = kwargs or {}, _random(func)
        if random is None or not random.draws(args, kwargs):
            return func(*args, **kwargs)
        self.drawn = True
        self.replayed |= torch._C._current_graph_task_id() >= 0 or _is_checkpointed()
        device = _device(args, kwargs)
        if random.with_generator is not None:
            return random.with_generator(*args, **kwargs, generator=self._generator(device))
        # a kernel that draws for itself has torch's generator for as long as its launch takes
        seed = int(torch.randint(2**62, (), generator=self._generator(torch.device("cpu"))))
        with seeded(seed, device):
            return func(*args, **kwargs)


def _is_checkpointed() -> bool:
    """Whether what runs now runs again in the backward pass."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"


@contextmanager
def drawing_from(seed: int, device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Inside, what modules draw for themselves is a function of a seed, and torch's generators are afterwards as they were."""
    with seeded(seed, device) if any(map(is_compiled, modules)) else OwnDraws().begin(seed):
        yield
