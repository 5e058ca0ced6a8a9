"""A module's forward as a chain of torch's modules, by symbolic tracing."""

from __future__ import annotations

import builtins
import copy
import math
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.proxy import Attribute
from torch.nn import functional as F

from ..layers import FusedLinear
from ..runtime.module_state import ModuleState, copied


class NotAnMLP(ValueError):
    """The module is no chain of Linear, activation and Dropout; the message says what in it is not."""


def label_of(part: nn.Module, path: str) -> str:
    """A module's name for a person."""
    return f"{type(part).__name__} '{path}'" if path else type(part).__name__


def twin(module: nn.Module) -> nn.Module:
    """A copy around the same parameters: what a forward does to its module does not reach the original."""
    return copied([module], module.parameters())[0]


def _modes() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


class Rank:
    """How many dimensions the rows have that a forward is read for; `matters` once the forward has asked."""

    def __init__(self, number: int) -> None:
        self.number, self.matters = number, False

    def ask(self) -> int:
        self.matters = True
        return self.number


class _Value(fx.Proxy):
    """What a forward computes; of the rows that it is given the rank is known."""

    tracer: _Tracer

    def __getattr__(self, name: str) -> _Attribute:
        return _Attribute(self, name)

    def __len__(self) -> int:  # asked by `*x.shape`
        return self.tracer.count_sizes(self.node)  # type: ignore[return-value]  # Python says what it thinks of None

    def dim(self) -> Any:
        return self.tracer.rank.ask() if self.node is self.tracer.rows else _Attribute(self, "dim")()

    ndimension = dim
    ndim = property(dim)


class _Attribute(_Value, Attribute):
    """An attribute, such as a shape, or a method before it is called."""


class _Tracer(fx.Tracer):
    """Calls a forward with rows alone, keeps Linear layers of every kind whole, and refuses modes that no graph records."""

    rows: fx.Node

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self.modes, self.rank, self.thread = _modes(), rank, threading.get_ident()

    def proxy(self, node: fx.Node) -> _Value:
        return _Value(node, self)

    def create_args_for_root(self, *arguments: Any, **options: Any) -> tuple[Any, list[Any]]:
        function, (network, rows, *others) = super().create_args_for_root(*arguments, **options)
        self.rows = rows.node
        return function, [network, rows, *map(_default, others)]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if m not in (self.submodule_paths or {}):  # made on the spot, as in nn.ReLU()(x)
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:  # a network with the same parameters runs there
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, target: Any, *arguments: Any, **options: Any) -> fx.Node:
        if _modes() != self.modes:
            raise NotAnMLP(f"{target} runs under no_grad or autocast")
        return super().create_node(kind, target, *arguments, **options)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        count = self.count_sizes(obj.node)
        return super().iter(obj) if count is None else iter([obj[i] for i in range(count)])  # type: ignore[index]

    def length(self, value: fx.Proxy) -> Any:
        """What `len` is of a value: the first of its sizes, or how many sizes it is."""
        count = self.count_sizes(value.node)
        return value.size(0) if count is None else count

    def count_sizes(self, node: fx.Node) -> int | None:
        """How many sizes a shape, or a slice of one, has; None for anything else."""
        if node.target is operator.getitem and isinstance(node.args[1], slice):
            assert isinstance(node.args[0], fx.Node)
            count = self.count_sizes(node.args[0])
            return None if count is None else len(range(count)[node.args[1]])
        if (node.op, node.target, node.args[1:], node.kwargs) not in _SHAPES:
            return None
        if node.args[0] is not self.rows:
            raise NotAnMLP("forward asks for the rank of what it computes")
        return self.rank.ask()


def _default(argument: fx.Proxy) -> Any:
    """The default of an argument if it has one that nothing can change, else the argument."""
    is_plain = argument.node.args and isinstance(argument.node.args[0], (type(None), bool, int, float, str))
    return argument.node.args[0] if is_plain else argument


# nodes that are a whole shape, by their arguments after the tensor
_SHAPES: tuple[Any, ...] = (("call_method", "size", (), {}), ("call_function", getattr, ("shape",), {}))
_len = len
_tracing = threading.RLock()  # fx replaces calls of modules meanwhile, for all threads


def _len_of_any(value: Any, /) -> Any:
    is_ours = isinstance(value, fx.Proxy) and isinstance(value.tracer, _Tracer)
    return value.tracer.length(value) if is_ours else _len(value)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Inside, one thread traces, and `len` of a proxy is part of the graph: Python's own returns nothing but numbers."""
    with _tracing:
        before, builtins.len = builtins.len, _len_of_any
        try:
            yield
        finally:
            builtins.len = before


class Trace(NamedTuple):
    """A forward as a chain of modules, and the attributes that it sets, as (number of the module, name)."""

    chain: nn.Sequential
    left_behind: frozenset[tuple[int, str]]


def trace(module: nn.Module, rank: Rank) -> Trace:
    """The chain that the module's forward is for rows of a rank, in the mode it is in; raises NotAnMLP where it is none."""
    try:
        traced = twin(module)
        state = ModuleState(traced)
        chain = _chain(*_graph(traced, rank), rank)
        left_behind = frozenset(_results_left_behind(traced, state))
        # the next call could read what this one left
        if left_behind and repr(_chain(*_graph(traced, rank), rank)) != repr(chain):
            raise NotAnMLP(f"{type(module).__name__} computes something else the second time")
    except NotAnMLP:
        raise
    except Exception as error:  # a person's forward may raise anything
        raise NotAnMLP(f"{type(module).__name__} cannot be read: {error}") from error
    return Trace(chain, left_behind)


def _graph(module: nn.Module, rank: Rank) -> tuple[nn.Module, fx.Graph]:
    tracer = _Tracer(rank)
    root = nn.Sequential(module) if tracer.is_leaf_module(module, "") else module
    with _one_at_a_time():
        return root, tracer.trace(root)


def _results_left_behind(module: nn.Module, before: ModuleState) -> Iterator[tuple[int, str]]:
    """The attributes to which a forward has assigned its results; NotAnMLP where it changed any other.

    A next call that reads a result shows it in its graph; one that reads a counter or a list does not.
    """
    parts = list(module.named_modules())
    for number, name in before.changes():
        path, part = parts[number]
        if not isinstance(vars(part).get(name), fx.Proxy):
            raise NotAnMLP(f"forward changes '{name}' of {label_of(part, path)}, which the next call may read")
        yield number, name


class _Flatten(NamedTuple):
    """A view that joins dimensions."""

    start: int
    end: int

    def keeps_rows(self, rank: Rank) -> bool:
        """Whether it joins all dimensions of a row, and no rows."""
        if self == (1, -1):
            return True
        dims = rank.ask()
        return (self.start % dims, self.end % dims) == (1, dims - 1)


# a module of the chain, or what changes no number: "flatten" where it may flatten each row, "reshape", or "cast"
_Step = nn.Module | _Flatten | str


def _dropout(input: Any, p: float, training: bool, inplace: bool = False) -> _Step:
    return nn.Dropout(p) if training and p else nn.Identity()


def _without_dropout(layer: FusedLinear) -> FusedLinear:
    layer = copy.copy(layer)
    layer.dropout = 0.0
    return layer


def _flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> _Step:
    return _Flatten(start_dim, end_dim)


def _view(input: Any, *sizes: Any, shape: Sequence[Any] = ()) -> _Step:
    rows = [*sizes, *shape][0]
    rows = rows[0] if isinstance(rows, (tuple, list)) else rows
    if isinstance(rows, int) and rows != -1:
        raise NotAnMLP(f"a view fixes the number of rows at {rows}: write -1 or x.size(0)")
    return "flatten"


def _reshape(*arguments: Any, **options: Any) -> _Step:
    return "reshape"


def _index(input: Any, index: Any) -> _Step:
    """Takes the one number of a row, or adds dimensions."""
    rows, *others = index if isinstance(index, tuple) else (index,)
    if rows not in (slice(None), ...) or any(other not in (slice(None), ..., None, 0, -1) for other in others):
        raise NotAnMLP("an index picks some of the rows or of their numbers")
    return "reshape"


def _cast(input: Any, *kinds: Any, **options: Any) -> _Step:
    return "cast"


_CASTS = ("to", "type", "type_as")

# what a module (by type, called with it), a function or a method (by name, called with the node's arguments) stands for
_MEANINGS: dict[Any, Callable[..., _Step]] = {
    **dict.fromkeys((nn.Linear, nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid), lambda module: module),
    FusedLinear: lambda module: module if module.training else _without_dropout(module),
    nn.Dropout: lambda module: _dropout(None, module.p, module.training),
    nn.Flatten: lambda module: _flatten(None, module.start_dim, module.end_dim),
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), lambda input, inplace=False: nn.ReLU()),
    **dict.fromkeys(
        (F.leaky_relu, F.leaky_relu_), lambda input, negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope)
    ),
    **dict.fromkeys((torch.tanh, torch.tanh_, "tanh", "tanh_"), lambda input: nn.Tanh()),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_"), lambda input: nn.Sigmoid()),
    F.dropout: _dropout,
    **dict.fromkeys(("contiguous", "clone", torch.clone), lambda input, memory_format=None: nn.Identity()),
    **dict.fromkeys(_CASTS, _cast),
    operator.getitem: _index,
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((torch.reshape, "reshape", "view"), _view),
    **dict.fromkeys((nn.Unflatten, torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze", "unflatten"), _reshape),
}


def _meaning(node: fx.Node, root: nn.Module) -> tuple[str, _Step]:
    """A node's name for a person, and what it stands for."""
    key: Any = node.target
    label, arguments, options = f"{getattr(key, '__name__', key)}()", tuple[Any, ...](node.args), node.kwargs
    if node.op == "call_module":
        part = root.get_submodule(key)
        key, label, arguments, options = type(part), label_of(part, key), (part,), {}
    elif node.op == "get_attr":
        key, label = None, f"the tensor '{key}'"
    if key not in _MEANINGS:
        raise NotAnMLP(f"{label} has no place in a chain of Linear, activation and Dropout")
    return label, _MEANINGS[key](*arguments, **options)


def _is_known(node: fx.Node, known: set[fx.Node]) -> bool:
    """Whether the node asks for a size, a dtype or a device, or computes with sizes: it has no number of a tensor."""
    if node.op == "get_attr":  # a parameter that is asked for nothing else
        return all(user.target is getattr or (user.target in _CASTS and user.args[0] is not node) for user in node.users)
    if node.op == "call_method":
        return node.target in ("size", "numel")
    if node.target in (operator.getitem, operator.mul, operator.floordiv, math.prod):
        return known.issuperset(node.all_input_nodes)
    return node.target is getattr and node.args[1] in ("shape", "dtype", "device")


def _check_cast(node: fx.Node, root: nn.Module) -> None:
    """The rows become what they are where the penalty or the step runs: of the parameters' dtype, on their device."""
    for kind in (*node.args[1:], *node.kwargs.values()):
        if isinstance(kind, torch.dtype):
            same = all(p.dtype == kind for p in root.parameters())
        else:
            same = not isinstance(kind, (torch.device, str)) or {torch.device(kind).type} == {
                p.device.type for p in root.parameters()
            }
        if not same:
            raise NotAnMLP(f"{node.target}() makes {kind} of what is not: write the dtype or the device of a weight")


def _steps(root: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, _Step]]:
    """The graph's steps in order, each on the result of the one before it."""
    value: fx.Node | None = None
    known: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            optional = bool(node.args) or str(node.target).startswith("*")
            if value and (node.users or not optional):
                raise NotAnMLP(f"forward takes another argument, {node.target}")
            value = value or node
        elif node.op == "output":
            if node.args != (value,):
                raise NotAnMLP("forward returns something else than the result of its last step")
        elif _is_known(node, known):
            known.add(node)
        else:
            label, step = _meaning(node, root)
            if step == "cast":
                _check_cast(node, root)
            asked = set() if isinstance(step, nn.Module) else known
            if [source for source in node.all_input_nodes if source not in asked] != [value]:
                raise NotAnMLP(f"{label} takes an earlier result: in a chain each is used once, by the next step")
            value = node
            yield label, step


def _chain(root: nn.Module, graph: fx.Graph, rank: Rank) -> nn.Sequential:
    """The graph's steps without its views, after an nn.Flatten if one of them flattens the input."""
    chain: list[nn.Module] = []
    linears, flatten, reshaped = 0, False, ""
    for label, step in _steps(root, graph):
        if isinstance(step, nn.Module):
            chain.append(step)
            linears += isinstance(step, nn.Linear)
        elif step == "cast":
            continue
        elif linears:
            reshaped = label
        elif step == "flatten" or (isinstance(step, _Flatten) and step.keeps_rows(Rank(2) if flatten else rank)):
            flatten = True
        else:
            raise NotAnMLP(f"{label} before the first Linear does not flatten each row")
        if reshaped and isinstance(step, nn.Linear):
            raise NotAnMLP(f"{reshaped} stands between two Linear layers")
    return nn.Sequential(*[nn.Flatten()] * flatten, *chain)
