"""Whether a module is still what it was when somebody looked: a check that takes microseconds, made before each use."""

from __future__ import annotations

import copy
import operator
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _hooks_of_all

# what every module has; of these `training` alone says how a forward goes on, and hooks are counted
_COMMON = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(vars(_hooks_of_all)[f"_global{name}"] for name in _HOOKS)

# compared by `==`: nothing inside them can change
_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, type, types.FunctionType, types.BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.layout),
)
_KINDS = ("_modules", "_parameters", "_buffers")
_DEPTH = 3  # how far into attributes of attributes the check looks
_MOST = 64  # entries of a container that are looked at


@contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Afterwards every part of the modules is in the mode, training or evaluation, that it was in."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def copied(modules: Sequence[nn.Module], shared: Iterable[Tensor] = ()) -> list[nn.Module]:
    """Deep copies, around the same `shared` tensors.

    Of results of a differentiable computation, such as features that the last forward left behind, the numbers are copied; what
    has no copy, such as a lock or an open file, is shared.
    """
    named = [item for module in modules for part in module.modules() for item in vars(part).items()]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    memo |= {id(value): value.detach().clone() for _, value in named if isinstance(value, Tensor) and id(value) not in memo}
    try:
        return copy.deepcopy(list(modules), dict(memo))
    except Exception:
        uncopied = [value for name, value in named if name not in _COMMON and not _has_a_copy(value, memo)]
        return copy.deepcopy(list(modules), memo | {id(value): value for value in uncopied})


def _has_a_copy(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True


def has_global_hooks() -> bool:
    """Whether calling any module runs hooks that were registered for all."""
    return any(_GLOBAL_HOOKS)


class ModuleTree:
    """The modules, parameters and buffers of a module, by their places."""

    def __init__(self, module: nn.Module, kinds: Iterable[str] = ("_modules", "_parameters")) -> None:
        kinds = tuple(kinds)
        self._tables = [vars(part)[kind] for part in module.modules() for kind in kinds]
        self._entries = self._now()

    def _now(self) -> list[Any]:
        return list(chain.from_iterable([table.values() for table in self._tables]))

    def holds(self) -> bool:
        """Whether each is where it was, the same object."""
        now = self._now()
        return len(now) == len(self._entries) and all(map(operator.is_, now, self._entries))


class ModuleState:
    """What a module's forward depends on besides the numbers in its parameters.

    Seen: its modules, parameters and buffers, each by identity; their attributes, lists and objects in them too, three levels
    deep; training flags; how many hooks there are, global ones among them; methods and attributes of its classes. Not seen:
    what a forward reads elsewhere, in closures, globals and files.

    left_behind: attributes, as (number of the module in `modules()`, name), that the forward itself sets at every call;
    kinds: the tables whose entries are compared.
    """

    def __init__(self, module: nn.Module, left_behind: Iterable[tuple[int, str]] = (), kinds: Iterable[str] = _KINDS) -> None:
        parts = list(module.modules())
        self._tree = ModuleTree(module, kinds)
        self._attributes = [vars(part) for part in parts]
        self._were = [dict(attributes) for attributes in self._attributes]
        self._left_behind = frozenset(left_behind)
        for part, name in self._left_behind:
            self._were[part].pop(name, None)
        self._inner = list(self._read_inner())
        self._types = list(map(type, parts))
        own = {cls for kind in self._types for cls in kind.__mro__[: kind.__mro__.index(nn.Module)]}
        self._classes = [(vars(cls), dict(vars(cls))) for cls in own]
        # the module itself is not kept: caches hold this state for as long as the module lives
        self._children = parts[1:]
        self._hooks = [*(vars(part)[name] for part in parts for name in _HOOKS), *_GLOBAL_HOOKS]
        self._hook_counts = list(map(len, self._hooks))

    def holds(self, module: nn.Module) -> bool:
        """Whether nothing of this has changed in the module it was taken of."""
        return (
            list(map(type, [module, *self._children])) == self._types
            and list(map(len, self._hooks)) == self._hook_counts
            and self._tree.holds()
            and all([now == then for now, then in self._classes])
            and (self._attributes_equal() or not self._replaced())
            and all([inner.holds() for inner in self._inner])
        )

    def changes(self) -> list[tuple[int, str]]:
        """The attributes that are not as they were, as (number of the module, name)."""
        return [*self._replaced(), *(inner.place for inner in self._inner if not inner.holds())]

    def _attributes_equal(self) -> bool:
        try:
            return all(map(operator.eq, self._attributes, self._were))
        except Exception:  # arrays among them have no `==` of one truth value
            return False

    def _replaced(self) -> list[tuple[int, str]]:
        absent = object()
        return [
            (part, name)
            for part, (now, then) in enumerate(zip(self._attributes, self._were, strict=True))
            for name in sorted(now.keys() | then.keys())
            if not _same(now.get(name, absent), then.get(name, absent)) and (part, name) not in self._left_behind
        ]

    def _read_inner(self) -> Iterable[_Inner]:
        """The attributes inside which something can change."""
        for part, attributes in enumerate(self._attributes):
            for name, value in attributes.items():
                if name not in _COMMON and not _is_constant(value) and (part, name) not in self._left_behind:
                    yield _Inner((part, name), value)


def _is_constant(value: Any) -> bool:
    """Whether nothing inside a value can change."""
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(_is_constant, value)))


def _same(now: Any, then: Any) -> bool:
    if now is then:
        return True
    return type(now) is type(then) and isinstance(now, _PLAIN) and now == then


class _Inner:
    """What is inside an attribute."""

    def __init__(self, place: tuple[int, str], value: Any) -> None:
        self.place, self.value, self.was = place, value, list(_contents(value, _DEPTH))

    def holds(self) -> bool:
        now = list(_contents(self.value, _DEPTH))
        return len(now) == len(self.was) and all(map(_same, now, self.was))


def _contents(value: Any, depth: int) -> Iterable[Any]:
    """What is in a value, in its order, itself first; modules by their numbers, so that nobody keeps them."""
    yield id(value) if isinstance(value, nn.Module) else value
    if isinstance(value, Tensor):
        yield value._version if not value.is_inference() else 0
    elif depth and not isinstance(value, (*_PLAIN, nn.Module)):
        for inner in _parts(value):
            yield from _contents(inner, depth - 1)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()] if len(value) <= _MOST else [len(value)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return value if len(value) <= _MOST else [len(value)]
    if isinstance(value, types.MethodType):
        return [value.__func__]
    attributes = getattr(value, "__dict__", {})
    return [*attributes, *attributes.values()] if len(attributes) <= _MOST else [len(attributes)]
