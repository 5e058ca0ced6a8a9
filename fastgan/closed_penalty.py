"""A penalty on an MLP critic's input gradient in closed form: its value and slope by the weights, without double backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .chain import Passes, read_layers
from .input_gradient import input_gradient, product_dtype
from .layers import next_masks
from .mlp import MLP, PIECEWISE_LINEAR, has_hooks
from .ops.backend import transforms_active
from .ops.dense import DenseProducts, Layer


class Price(Protocol):
    """What a penalty's spec has."""

    def value(self, gradient: Tensor) -> Tensor: ...

    def push(self, gradient: Tensor) -> tuple[Tensor, Tensor]: ...


def read(critic: Any, points: Tensor) -> list[Layer] | None:
    """The layers of a critic whose penalty at `points` has a closed form, an MLP or a Sequential like one; None for others."""
    if torch.compiler.is_compiling() or transforms_active() or not isinstance(critic, nn.Module):
        return None
    mlp = _as_mlp(critic)
    if mlp is None or any(has_hooks(module) or module.training != critic.training for module in critic.modules()):
        return None
    *hidden, last = mlp.layers
    linear = all(x.activation in PIECEWISE_LINEAR and x.negative_slope >= 0 for x in hidden)
    if not linear or last.activation != "identity" or last.dropout:
        return None
    alike = points.dtype in (torch.float32, torch.float64)
    alike = alike and all((p.dtype, p.device) == (points.dtype, points.device) for p in mlp.parameters())
    layers = read_layers(mlp.layers)
    return [x if critic.training else x._replace(dropout=0.0) for x in layers] if alike else None


def _as_mlp(critic: nn.Module) -> MLP | None:
    critic = getattr(critic, "_orig_mod", critic)  # what torch.compile was given
    if isinstance(critic, nn.Sequential) and type(critic).forward is nn.Sequential.forward:
        try:
            return MLP.from_sequential(critic)
        except ValueError:
            return None
    as_mlp = getattr(critic, "as_mlp", None)
    return as_mlp() if as_mlp else None


def penalty(critic: Callable[[Tensor], Tensor], layers: list[Layer], points: Tensor, price: Price) -> Tensor:
    """price.value of the critic's input gradient at points [B, ...], 0-d; differentiable by its parameters.

    Once, and again where no dropout is on. Biases only move kinks: their gradient is 0, as autograd has it.
    """
    biases = [layer.bias for layer in layers[:-1] if layer.bias is not None]
    return _Penalty.apply(critic, layers, points.detach(), price, *(layer.weight for layer in layers), *biases)


class _Penalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, critic: Any, layers: list[Layer], points: Tensor, price: Price, *parameters: Tensor) -> Tensor:
        dtype = product_dtype(points)
        with torch.autocast(points.device.type, enabled=False):
            rows = points.flatten(1)
            passes = Passes(DenseProducts(layers, dtype), None, 1, len(rows))[:1]
            passes.load(rows)
            passes.forward(lambda _: next_masks(points.device))
            passes.seed[0].fill_(1.0)
            passes.coefficient[0].fill_(0.0)
            passes.adjoint()
            value, push = price.push(passes.input_gradient()[0])
        ctx.save_for_backward(points, *parameters)
        ctx.critic, ctx.layers, ctx.price, ctx.passes, ctx.push = critic, layers, price, passes, push
        ctx.gradients = None
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        points, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, None, None, *_differentiable(ctx, upstream, points, parameters)
        if ctx.gradients is None:  # tangents take the place of activations, so this is done once
            ctx.gradients = _gradients(ctx.passes, ctx.push, points.flatten(1))
            ctx.passes = ctx.push = None
        weights = torch._foreach_mul(ctx.gradients, upstream)
        biases = [torch.zeros_like(bias) for bias in parameters[len(weights) :]]
        return None, None, None, None, *weights, *biases


def _gradients(passes: Passes, push: Tensor, rows: Tensor) -> list[Tensor]:
    layers = passes.products.layers
    with torch.autocast(rows.device.type, enabled=False):
        passes.tangent(push, rows)
        gradients = [torch.empty_like(layer.weight) for layer in layers]
        passes.gradients([(gradient, None) for gradient in gradients])
    return gradients


def _differentiable(ctx: Any, upstream: Tensor, points: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradients with a graph of their own, by double backward."""
    if any(layer.dropout for layer in ctx.layers):
        raise RuntimeError('the penalty of a critic with dropout was differentiated twice: pass method="autograd"')
    value = ctx.price.value(input_gradient(ctx.critic, points))
    return torch.autograd.grad(value, parameters, upstream, create_graph=True, materialize_grads=True)
