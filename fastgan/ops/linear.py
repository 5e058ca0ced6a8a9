"""linear: x -> act(x W^T + b) with dropout, and its siblings slope, adjoint and tangent."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .backend import implementation, resolve

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid")

for _name in ("linear", "slope", "adjoint", "tangent"):
    implementation(f"linear.{_name}", "reference")(getattr(reference, _name))


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: str = "identity",
    negative_slope: float = 0.2,
    scale: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """scale * act(x W^T + b): x [..., in], weight [out, in], bias [out] -> [..., out]; differentiable to any order.

    activation: one of ACTIVATIONS; negative_slope: LeakyReLU's; scale: a dropout factor [..., out] or None.
    """
    run = reference.linear if torch.compiler.is_compiling() else resolve("linear.linear", x.device.type, backend)
    return run(x, weight, bias, activation=activation, negative_slope=negative_slope, scale=scale)
