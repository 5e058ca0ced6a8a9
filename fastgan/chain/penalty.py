"""A penalty on an MLP critic's input gradient in closed form: its value and slope by the weights, without double backward."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import next_masks
from ..mlp import MLP
from ..ops.backend import is_transformed
from ..ops.linear import Dropout, Layer, linear_by_reference
from ..ops.sample import MaskCounter
from ..runtime.input_gradient import WITH_AUTOCAST, product_dtype
from . import recognition
from .passes import Passes, read_layers
from .torch_mm import TorchProducts

log = logging.getLogger("fastgan")


class HasPenaltyGradient(Protocol):
    """What a penalty's spec has."""

    def value(self, gradient: Tensor) -> Tensor: ...

    def penalty_gradient(self, gradient: Tensor) -> tuple[Tensor, Tensor]: ...


def read(critic: Any, points: Tensor) -> list[Layer] | None:
    """The layers of a critic whose penalty at `points` has a closed form; None for others, which is logged once for each."""
    critic = getattr(critic, "_orig_mod", critic)  # what torch.compile was given
    if torch.compiler.is_compiling() or is_transformed() or not isinstance(critic, nn.Module):
        return None
    reading = recognition.read(critic, points.dim())
    if reading.chain is None:
        _say_once(critic, reading.problem)
        return None
    layers = read_layers(reading.chain.layers)
    linear = layers[-1].output == "identity"  # recognition leaves no activation but piecewise linear ones before it
    return layers if linear and _takes(reading.chain, points) and _is_faster(layers, points) else None


_said: dict[int, weakref.ref[nn.Module]] = {}  # by the critic's id: a class may define another equality


def _say_once(critic: nn.Module, problem: str) -> None:
    key = id(critic)
    if key not in _said:
        _said[key] = weakref.ref(critic, lambda _: _said.pop(key, None))
        log.info("penalties of this %s run by double backward: %s", type(critic).__name__, problem)


def _is_faster(layers: list[Layer], points: Tensor) -> bool:
    """Whether the closed form is the faster way: in bf16 it rounds the weights anew, which costs more than few rows."""
    if len(points) >= 128 or product_dtype(points) != torch.bfloat16:
        return True
    return len(points) >= 64 and any(layer.dropout for layer in layers)


def _takes(chain: MLP, points: Tensor) -> bool:
    """Whether each row is one of the network's, of its dtype, on its device."""
    known = points.dtype in (torch.float32, torch.float64) and points.device.type in WITH_AUTOCAST
    alike = all((p.dtype, p.device) == (points.dtype, points.device) for p in chain.parameters())
    # a critic that views its input may fold a row into several
    whole = points.dim() > 0 and points.numel() == len(points) * chain.layers[0].weight.shape[1]
    return known and alike and whole and (chain.flatten or points.dim() == 2)


def penalty(layers: list[Layer], points: Tensor, spec: HasPenaltyGradient) -> Tensor:
    """spec.value of the input gradient at points [B, ...] of a critic of these layers, 0-d; differentiable to any order.

    The first derivative, by the weights, is made at once, so that nothing else of the passes is kept. Biases only move kinks:
    their gradient is 0, as autograd has it.
    """
    biases = [layer.bias for layer in layers[:-1] if layer.bias is not None]
    parameters = [*(layer.weight for layer in layers), *biases]
    wanted = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
    kept = points.clone() if points.is_inference() else points.detach()  # what inference mode has made cannot be saved
    return _Penalty.apply(layers, kept, spec, wanted, *parameters)


class _Unit(NamedTuple):
    """A hidden layer apart from its parameters."""

    negative_slope: float
    bias: bool
    dropout: Dropout | None


def _units(layers: list[Layer], masks: list[MaskCounter]) -> list[_Unit]:
    drawn = iter(masks)
    dropouts = [Dropout(layer.dropout, next(drawn)) if layer.dropout else None for layer in layers]
    pairs = zip(layers[:-1], dropouts[:-1], strict=True)
    return [_Unit(layer.negative_slope, layer.bias is not None, dropout) for layer, dropout in pairs]


class _Penalty(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layers: list[Layer], points: Tensor, spec: HasPenaltyGradient, wanted: bool, *parameters: Tensor
    ) -> Tensor:
        masks = [next_masks(points.device) for layer in layers if layer.dropout]
        ctx.units, ctx.spec, ctx.dtype = _units(layers, masks), spec, product_dtype(points)
        with torch.autocast(points.device.type, enabled=False):
            rows = points.flatten(1)
            products = TorchProducts(layers, ctx.dtype)
            passes = Passes(products, len(rows), Passes.allocate(products, 1, len(rows)), 1)[:1]
            passes.load(rows)
            passes.forward(masks.__getitem__)
            passes.seed[0].fill_(1.0)
            passes.coefficient[0].fill_(0.0)
            passes.adjoint()
            value, penalty_gradient = spec.penalty_gradient(passes.input_gradient()[0])
            gradients = _gradients(passes, penalty_gradient, rows) if wanted else []
        ctx.save_for_backward(points, *parameters, *gradients)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.needs_input_grad) - 4
        points, parameters, gradients = ctx.saved_tensors[0], ctx.saved_tensors[1 : 1 + count], ctx.saved_tensors[1 + count :]
        if torch.is_grad_enabled():
            return None, None, None, None, *_differentiable(ctx, upstream, points, parameters)
        weights = torch._foreach_mul(list(gradients), upstream)
        biases = [torch.zeros_like(bias) for bias in parameters[len(weights) :]]
        return None, None, None, None, *weights, *biases


def _gradients(passes: Passes, penalty_gradient: Tensor, rows: Tensor) -> list[Tensor]:
    passes.tangent(penalty_gradient, rows)
    gradients = [torch.empty_like(layer.weight) for layer in passes.products.layers]
    passes.gradients([(gradient, None) for gradient in gradients])
    return gradients


def _differentiable(ctx: Any, upstream: Tensor, points: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients with a graph of their own, by double backward through the same units."""
    # a weight that two layers share has a derivative in each
    aliases, wanted = [p.view_as(p) for p in parameters], ctx.needs_input_grad[4:]
    points = points.clone().requires_grad_()
    with torch.autocast(points.device.type, torch.bfloat16, enabled=ctx.dtype == torch.bfloat16):
        logits = _logits(ctx.units, points.flatten(1), aliases)
        (gradient,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
    targets = [alias for alias, want in zip(aliases, wanted, strict=True) if want]
    value = ctx.spec.value(gradient)
    found = iter(torch.autograd.grad(value, targets, upstream, create_graph=True, materialize_grads=True))
    return tuple(next(found) if want else None for want in wanted)


def _logits(units: list[_Unit], x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """What the critic returns, up to its last bias."""
    weights, biases = parameters[: len(units) + 1], iter(parameters[len(units) + 1 :])
    for (negative_slope, has_bias, dropout), weight in zip(units, weights[:-1], strict=True):
        bias = next(biases) if has_bias else None
        x = linear_by_reference(x, weight, bias, activation="leaky_relu", negative_slope=negative_slope, dropout=dropout)
    return F.linear(x, weights[-1])
