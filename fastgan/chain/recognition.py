"""Recognition: which modules are chains of linear layers, and whether they still are; for trainers and penalties alike."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ..mlp import MLP
from ..runtime.module_state import ModuleState, has_global_hooks
from .tracing import NotAnMLP, Rank, label_of, trace, twin

_ROWS = 3  # of the comparison
_RANKS = (2, 4, 3, 5)  # of flat rows and images, which decide for a trainer, of signals and voxels
_MOST_READINGS = 32  # of one module: what changes at every use costs more to read than the closed form spares
_NOT_ITS_CLASS = "is compiled, or its forward was replaced: only the one of its class is read"
_WRAPPERS = ("torch.nn.parallel", "torch.distributed", "torch._dynamo")


class Reading(NamedTuple):
    """What a module was read as: its chain, or why it has none; `state` says whether that still holds.

    rank: the only number of dimensions of rows for which it holds; None where the forward does not ask for it.
    """

    chain: MLP | None
    problem: str = ""
    state: ModuleState | None = None
    rank: int | None = None

    def holds(self, module: nn.Module) -> bool:
        """Whether the module is as it was read."""
        return self.state is None or self.state.holds(module)


# by the module's id: a class may define another equality
_readings: dict[int, tuple[weakref.ref[nn.Module], list[Reading]]] = {}


def read(module: nn.Module, rank: int = 2) -> Reading:
    """The chain of fused layers that `module` computes of rows of a rank, in the mode it is in, sharing its Parameter objects.

    Read: Linear, ReLU, LeakyReLU, Identity and Dropout, as modules or functions, in classes and nested Sequentials; Tanh or
    Sigmoid after the last Linear; views that flatten the input (then the chain has `flatten`) or shape the output (the chain's
    own is [B, out]). Dropout that is switched off is left out. Arguments after the rows have their defaults. A forward that
    asks for its rows' rank is read for each rank apart.

    The module is left as it is, torch's generators too. It is read anew when `ModuleState` sees it changed.
    """
    readings = _readings_of(module)
    for reading in readings:
        if reading.rank in (None, rank) and reading.holds(module):
            return reading
    if len(readings) == _MOST_READINGS:
        readings.append(Reading(None, f"{type(module).__name__} has changed {_MOST_READINGS} times since it was first read"))
    else:
        readings.append(_read(module, Rank(rank)))
    return readings[-1]


def _readings_of(module: nn.Module) -> list[Reading]:
    key = id(module)
    known = _readings.get(key)
    if known is None or known[0]() is not module:
        known = _readings[key] = weakref.ref(module, lambda _: _readings.pop(key, None)), []
    return known[1]


def recognise(module: nn.Module) -> MLP:
    """The chain that `read` finds, for an optimizer that takes all of its parameters over; the MLP is the caller's own.

    Raises NotAnMLP for what is no chain, is compiled, or has parameters that are shared, frozen, hooked or of several dtypes.
    """
    for path, part in module.named_modules():
        if part._compiled_call_impl is not None:
            raise NotAnMLP(f"{label_of(part, path)} {_NOT_ITS_CLASS}")
    reading = _read_for_all_ranks(module)
    if reading.chain is None:
        raise NotAnMLP(reading.problem)
    _check_trained(module, reading.chain)
    return _own(reading.chain).train(module.training)


def _read_for_all_ranks(module: nn.Module) -> Reading:
    """What a module is whatever the rank of rows that it takes: where it asks for it, it has to be the same chain for each."""
    first = read(module)
    if first.rank is None:
        return first
    readings = [read(module, rank) for rank in _RANKS]
    found = next((reading.chain for reading in readings[:2] if reading.chain), None)
    if found is None:
        return first
    for rank, reading in zip(_RANKS, readings, strict=True):
        if not _agrees(module, found, reading, Rank(rank)):
            return Reading(None, f"{type(module).__name__} computes something else for rows of {rank} dimensions")
    return first._replace(chain=found)


def _agrees(module: nn.Module, chain: MLP, reading: Reading, rank: Rank) -> bool:
    """Whether a module, read so for a rank, computes what a chain does, or takes no such rows."""
    if reading.chain is not None:
        return _described(reading.chain) == _described(chain)
    rank.ask()
    with _left_alone(module):
        try:
            if _runs(module, chain.layers[0].in_features, rank):
                _check_results(module, chain, rank)
        except NotAnMLP:
            return False
    return True


def _described(chain: MLP) -> list[tuple[Any, ...]]:
    return [(id(la.weight), id(la.bias), la.activation, la.negative_slope, la.dropout) for la in chain.layers]


def _own(chain: MLP) -> MLP:
    copied = twin(chain)
    assert isinstance(copied, MLP)
    return copied


@contextmanager
def _left_alone(module: nn.Module) -> Iterator[None]:
    """Inside, none of the caller's modes is on, and what the module draws is none of the caller's random numbers."""
    devices = {parameter.device.index for parameter in module.parameters() if parameter.is_cuda}
    with torch.inference_mode(False), _disable_current_modes(), torch.random.fork_rng(sorted(devices)):
        yield


def _read(module: nn.Module, rank: Rank) -> Reading:
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return Reading(None, f"{type(module).__name__} is scripted")
    state, chain, problem = ModuleState(module), None, ""
    try:
        with _left_alone(module):
            _check_modules(module)
            traced = trace(module, rank)
            fused = _fuse(traced.chain)
            _check_layers(fused)
            _check_parameters(module, fused)
            _check_results(module, fused, rank)
            chain = fused
            state = ModuleState(module, traced.left_behind) if traced.left_behind else state
    except NotAnMLP as error:
        problem = str(error)
    return Reading(chain, problem, state, rank.number if rank.matters else None)


def _check_modules(module: nn.Module) -> None:
    """Refuses what a trace would not show, and what is not worth one."""
    if has_global_hooks():
        raise NotAnMLP("there are hooks of all modules, which a fused layer would not run")
    for path, part in module.named_modules():
        name, kind = label_of(part, path), type(part)
        if nn.utils.parametrize.is_parametrized(part):
            raise NotAnMLP(f"{name} is parametrized: its weight is computed from other tensors")
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            raise NotAnMLP(f"{name} has hooks, which a fused layer would not run")
        if "forward" in vars(part):
            raise NotAnMLP(f"{name} {_NOT_ITS_CLASS}")
        if kind.__module__.startswith(_WRAPPERS) or (_has_numbers(part) and kind.__module__.startswith("torch.")):
            raise NotAnMLP(f"{name} has no place in a chain of Linear, activation and Dropout")


def _has_numbers(part: nn.Module) -> bool:
    """Whether a layer that is no Linear has parameters or buffers."""
    numbers = [*part._parameters.values(), *part._buffers.values()]
    return not isinstance(part, (nn.Linear, nn.Sequential)) and any(number is not None for number in numbers)


def _fuse(chain: nn.Sequential) -> MLP:
    try:
        return MLP.from_sequential(chain)
    except ValueError as error:
        raise NotAnMLP(str(error)) from error


def _check_layers(mlp: MLP) -> None:
    *hidden, last = mlp.layers
    for layer in hidden:
        if layer.activation in ("tanh", "sigmoid"):
            raise NotAnMLP(f"{layer.activation} stands between two Linear layers: hidden activations are piecewise linear")
    for layer, following in itertools.pairwise(mlp.layers):
        if layer.weight.shape[0] != following.weight.shape[1]:
            raise NotAnMLP(f"a Linear of {following.weight.shape[1]} numbers is given {layer.weight.shape[0]}")
    for layer in mlp.layers:
        if layer.activation == "leaky_relu" and not layer.negative_slope >= 0:
            raise NotAnMLP(f"LeakyReLU has the negative slope {layer.negative_slope}")
    if last.dropout:
        raise NotAnMLP("Dropout stands after the last Linear")


def _check_parameters(module: nn.Module, mlp: MLP) -> None:
    """The chain has every parameter of the module, and nothing else has numbers."""
    for name, _ in module.named_buffers():
        raise NotAnMLP(f"the buffer '{name}' is not used by the chain")
    for name, parameter in module.named_parameters():
        if not any(parameter is other for other in mlp.parameters()):
            raise NotAnMLP(f"the parameter '{name}' is not used by the chain")


def _check_trained(module: nn.Module, mlp: MLP) -> None:
    """All parameters are trained, each in one layer, alike and without hooks."""
    used = [parameter for layer in mlp.layers for parameter in (layer.weight, layer.bias) if parameter is not None]
    if len({id(parameter) for parameter in used}) < len(used):
        raise NotAnMLP("two Linear layers share a parameter, or one is used twice")
    first = used[0]
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            raise NotAnMLP(f"the parameter '{name}' is frozen")
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise NotAnMLP(f"the parameter '{name}' has hooks")
        if not parameter.is_floating_point() or (parameter.dtype, parameter.device) != (first.dtype, first.device):
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


def _samples(features: int, rank: Rank) -> list[tuple[int, ...]]:
    """Shapes that a sample of so many numbers may have: flat or a square image, where the rank matters one of that."""
    sides = [(channels, math.isqrt(features // channels)) for channels in (1, 3)]
    images = [(channels, side, side) for channels, side in sides if channels * side**2 == features]
    if not rank.matters:
        return [(features,), *images]
    return [shape for shape in [*images, *((1,) * ones + (features,) for ones in range(4))] if len(shape) == rank.number - 1]


def _result_for_rows(module: nn.Module, values: dict[int, Tensor], rows: Tensor, rank: Rank) -> tuple[Tensor, Tensor]:
    """The module's results for these rows in a shape that it takes."""
    problem = None
    for shape in _samples(rows.shape[1], rank):
        try:
            return _result(twin(module).eval(), values, rows.view(_ROWS, *shape))
        except Exception as error:
            problem = problem or error
    raise NotAnMLP(f"{type(module).__name__} does not run on rows {list(rows.shape)}: {problem}") from problem


@torch.no_grad()
def _runs(module: nn.Module, features: int, rank: Rank) -> bool:
    """Whether the module takes rows of so many numbers that have this rank."""
    like = next(module.parameters())
    for shape in _samples(features, rank):
        try:
            twin(module)(like.new_zeros(_ROWS, *shape))
        except Exception:
            continue
        return True
    return False


def _check_results(module: nn.Module, mlp: MLP, rank: Rank) -> None:
    """The chain's value and gradient at random rows and weights are the module's: a graph misses what runs beside it.

    In fp64 on the CPU, so that neither the parameters' values nor a kernel's rounding matter.
    """
    draws = torch.Generator("cpu").manual_seed(0)

    def uniform(shape: Sequence[int]) -> Tensor:  # of variance 1 / width
        unit = torch.rand(shape, generator=draws, dtype=torch.float64, device="cpu")
        return (2.0 * unit - 1.0) * math.sqrt(3.0 / shape[-1])

    values = {id(parameter): uniform(parameter.shape) for parameter in mlp.parameters()}
    rows = uniform((_ROWS, mlp.layers[0].in_features))
    ours_in_turn = _result(mlp.eval(), values, rows)
    mlp.train()
    for ours, theirs in zip(ours_in_turn, _result_for_rows(module, values, rows, rank), strict=True):
        if theirs.shape[:1] != (_ROWS,) or theirs.numel() != ours.numel():
            raise NotAnMLP(f"{_ROWS} rows give {list(theirs.shape)}: views of the output do not keep the rows")
        if not torch.allclose(ours.reshape(-1), theirs.reshape(-1), rtol=1e-6, atol=1e-9):
            raise NotAnMLP(f"{type(module).__name__} computes something else than its layers in a chain, or another gradient")
