"""linear: x -> act(x W^T + b) with dropout, and which products a chain of such layers takes (dense.py, packed.py, tiled.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import linear_cpp  # noqa: F401  registers what it has
from .backend import implementation, resolve
from .dense import DenseProducts, Layer, Products
from .linear_reference import Dropout, linear_by_reference
from .packed import PackedProducts
from .tiled import INPUT_PRECISION, WIDEST, TiledProducts

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid")


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: str = "identity",
    negative_slope: float = 0.2,
    dropout: Dropout | None = None,
    backend: str = "auto",
) -> Tensor:
    """dropout(act(x W^T + b)): x [..., in], weight [out, in], bias [out] -> [..., out]; differentiable to any order.

    activation: one of ACTIVATIONS; negative_slope: LeakyReLU's. A mask's rows are those of x's first dimension.
    """
    run = linear_by_reference if torch.compiler.is_compiling() else resolve("linear.linear", x.device.type, backend)
    return run(x, weight, bias, activation=activation, negative_slope=negative_slope, dropout=dropout)


@implementation("linear.products", "reference")
def _products(layers: Sequence[Layer], precision: str) -> Products:
    return DenseProducts(layers, _dtype(layers, precision))


@implementation("linear.products", "cpp", "cpu")
def _products_cpp(layers: Sequence[Layer], precision: str) -> Products:
    packed = precision == "bf16" and layers[0].weight.dtype == torch.float32 and torch.ops.fastgan.bf16_dot()
    return PackedProducts(layers) if packed else _products(layers, precision)


@implementation("linear.products", "triton", "cuda", "cpu")
def _products_triton(layers: Sequence[Layer], precision: str) -> Any:
    fits = max(extent for layer in layers for extent in layer.weight.shape) <= WIDEST
    tiled = fits and precision in INPUT_PRECISION and layers[0].weight.dtype == torch.float32 and len(layers) > 1
    return TiledProducts(layers, precision) if tiled else _products(layers, precision)


def _dtype(layers: Sequence[Layer], precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else layers[0].weight.dtype


def products(layers: Sequence[Layer], precision: str, backend: str = "auto") -> Any:
    """The fastest products of a chain in a precision (fp64, fp32, tf32, bf16): `Products`, or `TiledProducts` if fused."""
    return resolve("linear.products", layers[0].weight.device.type, backend)(layers, precision)
