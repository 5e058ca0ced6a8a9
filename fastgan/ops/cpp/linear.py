"""linear by the C++ operators, and how autograd sees it: dropout(act(x W^T + b)) in a product and one pass over it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..backend import fake, implementation, is_transformed, resolve
from ..linear import Dropout, Layer, linear_by_reference
from ..sample import MaskCounter

SLOPES = {"identity": 1.0, "relu": 0.0}  # negative ones


class _FusedActivation(torch.autograd.Function):
    """A layer whose units are piecewise linear: a unit's slope is read back from its output, whose sign tells it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: Layer, dropout: Dropout) -> Tensor:
        y = torch.mm(x, weight.t())
        resolve("linear.encode_activation_", "cpu", "cpp")(y, layer, dropout.masks)
        ctx.save_for_backward(x, weight, bias, y)
        ctx.slopes = layer.negative_slope, layer.scale
        return y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, y = ctx.saved_tensors
        want_x, want_weight, want_bias, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # differentiable again: slopes are constants where they exist
            adjoint = upstream * reference.activation_slope(y.detach(), *ctx.slopes)
            if want_bias:
                adjoint = adjoint + 0.0 * bias  # a bias moves kinks alone: its second derivative is 0, and not missing
        else:
            adjoint = upstream.clone(memory_format=torch.contiguous_format)
            torch.ops.fastgan.activation_slope_.default(adjoint, y, *ctx.slopes)
        of_x = adjoint @ weight if want_x else None
        of_weight = adjoint.t() @ x if want_weight else None
        return of_x, of_weight, adjoint.sum(0) if want_bias else None, None, None


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the operators see all there is to the tensors, in rows, and autocast would not have them in another dtype."""
    known = x.dim() == 2 and x.dtype in (torch.float32, torch.float64)
    alike = all(
        type(each) in (Tensor, torch.nn.Parameter) and each.dtype == x.dtype for each in (x, weight, bias) if each is not None
    )
    alone = not is_transformed() and not torch.is_autocast_enabled("cpu")
    return known and alike and alone and (bias is None or bias.is_contiguous())


@implementation("linear.linear", "cpp", "cpu")
def _linear_cpp(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str, negative_slope: float, dropout: Dropout | None
) -> Tensor:
    """Without dropout torch's own product and activation are as fast; with it a mask is drawn where it is used."""
    slope = negative_slope if activation == "leaky_relu" else SLOPES.get(activation, -1.0)
    if dropout is None or slope < 0 or not isinstance(dropout.masks.seed, int) or not _plain(x, weight, bias):
        return linear_by_reference(x, weight, bias, activation=activation, negative_slope=negative_slope, dropout=dropout)
    return _FusedActivation.apply(x, weight, bias, Layer(weight, bias, slope, dropout.probability), dropout)


@implementation("linear.encode_activation_", "cpp", "cpu")
def _encode_activation_cpp(pre: Tensor, layer: Layer, masks: MaskCounter | None) -> None:
    bias = None if layer.bias is None else layer.bias.detach()
    torch.ops.fastgan.encode_activation_(pre, bias, layer.negative_slope, *_mask_arguments(layer, masks))


@implementation("linear.activation_slope_", "cpp", "cpu")
def _activation_slope_cpp(adjoints: Tensor, activations: Tensor, layer: Layer) -> None:
    torch.ops.fastgan.activation_slope_(adjoints, activations, layer.negative_slope, layer.scale)


def _mask_arguments(layer: Layer, masks: MaskCounter | None) -> tuple:
    """Streams, threshold, scale, key, step and first row, as C++ takes them."""
    if masks is None:
        return (), 0, 1.0, 0, 0, 0
    key, step = reference.key_of(int(masks.seed), masks.step), masks.step & reference.WORD
    return masks.streams, round(layer.dropout * 65536), layer.scale, key, step, masks.first_row


@fake("encode_activation_", "activation_slope_")
def _change(*_: Any) -> None:
    """Nothing is returned."""
