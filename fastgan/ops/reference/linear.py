"""linear in plain torch: x -> act(x W^T + b) with dropout; its siblings adjoint and tangent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import wide

SATURATING = ("tanh", "sigmoid")


def activate(x: Tensor, activation: str, negative_slope: float = 0.2) -> Tensor:
    """The activations an MLP layer may end in: identity, relu, leaky_relu, tanh, sigmoid."""
    if activation == "leaky_relu":
        return F.leaky_relu(x, negative_slope)
    return x if activation == "identity" else getattr(torch, activation)(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, activation="identity", negative_slope=0.2, scale=None) -> Tensor:
    """scale * act(x W^T + b): x [..., in], weight [out, in], bias [out], dropout scale [..., out] or None.

    tanh and sigmoid give fp32 or wider: in bf16 they round to 1 beyond 3 or 6, and their slope to 0.
    """
    # a tanh or a sigmoid before this layer gives fp32, which half-precision weights do not take
    narrow = x.dtype == torch.float32 and weight.dtype in (torch.float16, torch.bfloat16)
    product = F.linear(x.to(weight.dtype) if narrow else x, weight, bias)
    y = activate(wide(product) if activation in SATURATING else product, activation, negative_slope)
    # the scale is fp32 even where y is bf16: 1 / (1 - p) rounded to bf16 would be off by 0.1 %
    return y if scale is None else (y * scale).to(y.dtype)


def encode_activation(pre: Tensor, negative_slope: float, scale: Tensor | None = None) -> Tensor:
    """A = scale * leaky(pre), its slope kept in its sign: -0 where the unit passes the negative slope, +0 where it is dropped.

    negative_slope: 1 for the identity, 0 for ReLU; scale: a dropout factor like pre, or None.
    """
    a = torch.where(pre > 0, pre, -(negative_slope * pre.abs()))
    return a if scale is None else torch.where(scale > 0, a * scale, 0.0).to(pre.dtype)


def activation_slope(activations: Tensor, negative_slope: float, scale: float = 1.0) -> Tensor:
    """m = dA / d pre-activation, read back from what `encode_activation` made: scale, negative_slope * scale, or 0 where A is
    +0.

    At a pre-activation of 0 ReLU has slope 0 and LeakyReLU its negative slope, as in torch's own backward.
    """
    below = activations.signbit()
    kept = torch.full_like(activations, scale).masked_fill(below, negative_slope * scale)
    return kept.masked_fill((activations == 0) & ~below, 0.0)


def output_activation_slope(y: Tensor, activation: str) -> Tensor:
    """d act / d pre-activation of a network's last layer, from its output y: identity, tanh or sigmoid."""
    if activation == "tanh":
        return 1.0 - y * y
    return y * (1.0 - y) if activation == "sigmoid" else torch.ones_like(y)


def adjoint(upstream: Tensor, weight: Tensor, m: Tensor | None = None) -> Tensor:
    """U_l = m_l * (U_{l+1} W_{l+1}): upstream [B, out], weight [out, in], m [B, in]; without m, dD/dx."""
    product = upstream @ weight
    return product if m is None else product * m


def tangent(t: Tensor, weight: Tensor, m: Tensor) -> Tensor:
    """T_l = m_l * (T_{l-1} W_l^T), a forward pass without bias: t [B, in], weight [out, in], m [B, out]."""
    return (t @ weight.t()) * m
