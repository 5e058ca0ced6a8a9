"""A module's forward as a chain of torch's modules, by symbolic tracing."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn
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


class _Tracer(fx.Tracer):
    """Keeps Linear layers of every kind whole, and refuses the modes that a graph does not record."""

    def __init__(self) -> None:
        super().__init__()
        self.modes = _modes()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if m not in (self.submodule_paths or {}):  # made on the spot, as in nn.ReLU()(x)
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_node(self, kind: str, target: Any, *arguments: Any, **options: Any) -> fx.Node:
        if _modes() != self.modes:
            raise NotAnMLP(f"{target} runs under no_grad or autocast")
        return super().create_node(kind, target, *arguments, **options)


class Trace(NamedTuple):
    """A forward as a chain of modules, and the attributes that it sets, as (number of the module, name)."""

    chain: nn.Sequential
    left_behind: frozenset[tuple[int, str]]


def trace(module: nn.Module) -> Trace:
    """The chain that the module's forward is in the mode it is in; raises NotAnMLP where it is none."""
    try:
        traced = twin(module)
        state = ModuleState(traced)
        chain = _chain(*_graph(traced))
        left_behind = frozenset(_results_left_behind(traced, state))
        # the next call could read what this one left
        if left_behind and repr(_chain(*_graph(traced))) != repr(chain):
            raise NotAnMLP(f"{type(module).__name__} computes something else the second time")
    except NotAnMLP:
        raise
    except Exception as error:  # a person's forward may raise anything
        raise NotAnMLP(f"{type(module).__name__} cannot be read: {error}") from error
    return Trace(chain, left_behind)


def _graph(module: nn.Module) -> tuple[nn.Module, fx.Graph]:
    tracer = _Tracer()
    root = nn.Sequential(module) if tracer.is_leaf_module(module, "") else module
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


_Step = nn.Module | str  # a module of the chain, or a view: "flatten" where it may flatten each row, else "reshape"


def _dropout(input: Any, p: float, training: bool, inplace: bool = False) -> _Step:
    return nn.Dropout(p) if training and p else nn.Identity()


def _without_dropout(layer: FusedLinear) -> FusedLinear:
    layer = copy.copy(layer)
    layer.dropout = 0.0
    return layer


def _flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> _Step:
    return "flatten" if (start_dim, end_dim) == (1, -1) else "reshape"


def _view(input: Any, *sizes: Any, shape: Sequence[Any] = ()) -> _Step:
    rows = [*sizes, *shape][0]
    rows = rows[0] if isinstance(rows, (tuple, list)) else rows
    if isinstance(rows, int) and rows != -1:
        raise NotAnMLP(f"a view fixes the number of rows at {rows}: write -1 or x.size(0)")
    return "flatten"


def _reshape(*arguments: Any, **options: Any) -> _Step:
    return "reshape"


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


def _reads_shape(node: fx.Node, shapes: set[fx.Node]) -> bool:
    """Whether the node asks for a size, or computes with sizes."""
    if node.op == "call_method":
        return node.target in ("size", "numel")
    if node.target in (operator.getitem, operator.mul, operator.floordiv):
        return shapes.issuperset(node.all_input_nodes)
    return node.target is getattr and "shape" in node.args


def _steps(root: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, _Step]]:
    """The graph's steps in order, each on the result of the one before it."""
    value: fx.Node | None = None
    shapes: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            optional = bool(node.args) or str(node.target).startswith("*")
            if value and (node.users or not optional):
                raise NotAnMLP(f"forward takes another argument, {node.target}")
            value = value or node
        elif node.op == "output":
            if node.args != (value,):
                raise NotAnMLP("forward returns something else than the result of its last step")
        elif _reads_shape(node, shapes):
            shapes.add(node)
        else:
            label, step = _meaning(node, root)
            sizes = shapes if isinstance(step, str) else set()
            if [source for source in node.all_input_nodes if source not in sizes] != [value]:
                raise NotAnMLP(f"{label} takes an earlier result: in a chain each is used once, by the next step")
            value = node
            yield label, step


def _chain(root: nn.Module, graph: fx.Graph) -> nn.Sequential:
    """The graph's steps without its views, after an nn.Flatten if one of them flattens the input."""
    chain: list[nn.Module] = []
    linears, flatten, reshaped = 0, False, ""
    for label, step in _steps(root, graph):
        if isinstance(step, nn.Module):
            chain.append(step)
            linears += isinstance(step, nn.Linear)
        elif linears:
            reshaped = label
        elif step == "flatten":
            flatten = True
        else:
            raise NotAnMLP(f"{label} before the first Linear does not flatten each row")
        if reshaped and isinstance(step, nn.Linear):
            raise NotAnMLP(f"{reshaped} stands between two Linear layers")
    return nn.Sequential(*[nn.Flatten()] * flatten, *chain)
