"""Recognition: a person's own MLP, read by symbolic tracing as a chain of fused layers that share its parameters."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..layers import FusedLinear
from ..mlp import MLP

_ROWS = 3  # of the comparison


class NotAnMLP(ValueError):
    """The module is no chain of Linear, activation and Dropout; the message says what in it is not."""


def recognise(module: nn.Module) -> MLP:
    """The chain of fused layers that `module` computes in training mode, sharing its Parameter objects.

    Read: Linear, ReLU, LeakyReLU, Identity and Dropout, as modules or functions; Tanh or Sigmoid after the last Linear; views
    that flatten the input (then the chain has `flatten`) or shape the output (the chain's own is [B, out]). The module is
    left as it is, torch's generators too. Raises NotAnMLP for everything else.
    """
    devices = {parameter.device.index for parameter in module.parameters() if parameter.is_cuda}
    with torch.inference_mode(False), torch.random.fork_rng(sorted(devices)):
        _check_modules(module)
        mlp = _fuse(module)
        _check_layers(mlp)
        _check_parameters(module, mlp)
        _check_results(module, mlp)
    return mlp.train(module.training)


def _label(part: nn.Module, path: str) -> str:
    return f"{type(part).__name__} '{path}'" if path else type(part).__name__


def _check_modules(module: nn.Module) -> None:
    for path, part in module.named_modules():
        label = _label(part, path)
        if nn.utils.parametrize.is_parametrized(part):
            raise NotAnMLP(f"{label} is parametrized: its weight is computed from other tensors")
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            raise NotAnMLP(f"{label} has hooks, which a fused layer would not run")
        if "forward" in vars(part) or part._compiled_call_impl is not None:
            raise NotAnMLP(f"{label} is compiled, or its forward was replaced: only the one of its class is read")


def _twin(module: nn.Module) -> nn.Module:
    """A copy around the same parameters: what a forward does to its module does not reach the original."""
    attributes = [value for part in module.modules() for value in vars(part).values()]
    # deepcopy refuses results of a differentiable computation, such as features that the last forward left behind
    memo = {id(value): value.detach().clone() for value in attributes if isinstance(value, Tensor)}
    return copy.deepcopy(module, memo | {id(parameter): parameter for parameter in module.parameters()})


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


def _trace(module: nn.Module) -> tuple[nn.Module, fx.Graph]:
    """A copy of the module, and the graph of its forward in training mode."""
    tracer, twin = _Tracer(), _twin(module).train()
    root = nn.Sequential(twin) if tracer.is_leaf_module(twin, "") else twin
    return root, tracer.trace(root)


def _fuse(module: nn.Module) -> MLP:
    try:
        return MLP.from_sequential(_chain(*_trace(module)))
    except NotAnMLP:
        raise
    except Exception as error:  # a person's forward may raise anything
        raise NotAnMLP(f"{type(module).__name__} cannot be read: {error}") from error


_Step = nn.Module | str  # a module of the chain, or a view: "flatten" where it may flatten each row, else "reshape"


def _dropout(input: Any, p: float, training: bool, inplace: bool = False) -> _Step:
    return nn.Dropout(p) if training and p else nn.Identity()


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
    **dict.fromkeys((nn.Linear, FusedLinear, nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid), lambda module: module),
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
        key, label, arguments, options = type(part), _label(part, key), (part,), {}
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


def _check_layers(mlp: MLP) -> None:
    *hidden, last = mlp.layers
    for layer in hidden:
        if layer.activation in ("tanh", "sigmoid"):
            raise NotAnMLP(f"{layer.activation} stands between two Linear layers: hidden activations are piecewise linear")
    for layer in mlp.layers:
        if layer.activation == "leaky_relu" and not layer.negative_slope >= 0:
            raise NotAnMLP(f"LeakyReLU has the negative slope {layer.negative_slope}")
    if last.dropout:
        raise NotAnMLP("Dropout stands after the last Linear")


def _check_parameters(module: nn.Module, mlp: MLP) -> None:
    """The chain has every parameter of the module once, and all of them are trained, alike and without hooks."""
    used = [parameter for layer in mlp.layers for parameter in (layer.weight, layer.bias) if parameter is not None]
    if len({id(parameter) for parameter in used}) < len(used):
        raise NotAnMLP("two Linear layers share a parameter, or one is used twice")
    for name, _ in module.named_buffers():
        raise NotAnMLP(f"the buffer '{name}' is not used by the chain")
    for name, parameter in module.named_parameters():
        if not any(parameter is other for other in used):
            raise NotAnMLP(f"the parameter '{name}' is not used by the chain")
        if not parameter.requires_grad:
            raise NotAnMLP(f"the parameter '{name}' is frozen")
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise NotAnMLP(f"the parameter '{name}' has hooks")
        if not parameter.is_floating_point() or (parameter.dtype, parameter.device) != (used[0].dtype, used[0].device):
            raise NotAnMLP(f"the parameter '{name}' is {parameter.dtype} on {parameter.device}: all must be one kind of float")


class _WithoutDropout(TorchFunctionMode):
    """Skips the dropout that a forward leaves on outside training."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0] if func is F.dropout else func(*args, **(kwargs or {}))


def _result(module: nn.Module, values: dict[int, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The module's output and its gradient at x, with other values for its parameters."""
    x = x.detach().requires_grad_()
    named = {name: values[id(parameter)] for name, parameter in module.named_parameters()}
    with _WithoutDropout():
        y = torch.func.functional_call(module, named, (x,))
    return y, torch.autograd.grad(y.sum(), x)[0]


def _result_for_rows(module: nn.Module, values: dict[int, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """The module's results for flat rows, or for square images where it refuses those."""
    side = math.isqrt(rows.shape[1])
    problem = None
    for shape in [rows.shape, (_ROWS, 1, side, side)][: 1 + (side**2 == rows.shape[1])]:
        try:
            return _result(_twin(module).eval(), values, rows.view(shape))
        except Exception as error:
            problem = problem or error
    raise NotAnMLP(f"{type(module).__name__} does not run on rows {list(rows.shape)}: {problem}") from problem


def _check_results(module: nn.Module, mlp: MLP) -> None:
    """The chain's value and gradient at random rows and weights are the module's: a graph misses what runs beside it.

    In fp64 on the CPU, so that neither the parameters' values nor a kernel's rounding matter.
    """
    draws = torch.Generator("cpu").manual_seed(0)

    def uniform(shape: Sequence[int]) -> Tensor:  # of variance 1 / width
        unit = torch.rand(shape, generator=draws, dtype=torch.float64, device="cpu")
        return (2.0 * unit - 1.0) * math.sqrt(3.0 / shape[-1])

    values = {id(parameter): uniform(parameter.shape) for parameter in mlp.parameters()}
    rows = uniform((_ROWS, mlp.layers[0].in_features))
    for ours, theirs in zip(_result(mlp.eval(), values, rows), _result_for_rows(module, values, rows), strict=True):
        if theirs.shape[:1] != (_ROWS,) or theirs.numel() != ours.numel():
            raise NotAnMLP(f"{_ROWS} rows give {list(theirs.shape)}: views of the output do not keep the rows")
        if not torch.allclose(ours.reshape(-1), theirs.reshape(-1), rtol=1e-6, atol=1e-9):
            raise NotAnMLP(f"{type(module).__name__} computes something else than its layers in a chain, or another gradient")
