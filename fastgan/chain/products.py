"""What a chain of layers asks of its products, and which storage they come in: torch_mm, packed or triton_tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from ..ops.backend import implementation, resolve
from ..ops.linear import Layer
from ..ops.sample import MaskCounter
from ..runtime import instruction_sets
from .packed import PackedProducts
from .torch_mm import TorchProducts
from .triton_tiles import INPUT_PRECISION, WIDEST, TritonProducts


class Operand(Protocol):
    """Activations A_l, adjoints U_l or, after `tangent_`, tangents of stacked passes, in a storage of the products' own."""

    def rows(self, rows: slice) -> Self:
        """Some of the rows, in the same memory."""


OperandT = TypeVar("OperandT", bound=Operand)


class Products(Protocol[OperandT]):
    """The products of one chain of layers on stacked passes of rows, with operands in a storage of its own.

    The formulas are reference.linear, encode_activation, activation_slope, adjoint and tangent.
    """

    layers: Sequence[Layer]

    def stride(self, rows: int) -> int:
        """How many rows a pass of `rows` rows takes in an operand; those beyond `rows` stay zero where they are loaded."""

    def operand(self, rows: int, width: int) -> OperandT:
        """A new operand [rows, width]."""

    def refresh(self) -> None:
        """Takes over the layers' weights as they are now."""

    def load_(self, out: OperandT, values: Tensor) -> None:
        """out = values [rows, width], rounded."""

    def load_output_(self, out: OperandT, gradient: Tensor, output: Tensor) -> None:
        """U_L = gradient * act', from gradients [rows, out] by the last layer's output and that output."""

    def linear_(self, index: int, out: OperandT, x: OperandT, masks: MaskCounter | None) -> None:
        """A_l = m_l * (A_{l-1} W_l^T + b_l) for a hidden layer."""

    def output_(self, out: Tensor, x: OperandT) -> None:
        """The last layer's output [rows, out], in fp32 or wider."""

    def forward_(self, inputs: Sequence[OperandT], output: Tensor, masks: Sequence[MaskCounter | None]) -> None:
        """A_1 .. A_{L-1} and the output from A_0, with the masks of each hidden layer."""

    def adjoint_(self, index: int, out: OperandT, upstream: OperandT, activations: OperandT) -> None:
        """U_l = m_l * (U_{l+1} W_{l+1}) for a hidden layer."""

    def descend_(self, adjoints: Sequence[OperandT], inputs: Sequence[OperandT]) -> None:
        """U_{L-1} .. U_1 from U_L."""

    def input_gradient_(self, out: Tensor, upstream: OperandT) -> None:
        """g = U_1 W_1, [rows, in], in fp32 or wider."""

    def load_tangent_(self, out: OperandT, tangent: Tensor, values: Tensor, coefficient: Tensor) -> None:
        """T_0 = tangent, in place of the values that were loaded; what weight gradients read becomes c * values + T_0."""

    def tangent_(self, index: int, out: OperandT, x: OperandT, coefficient: Tensor) -> None:
        """T_l = m_l * (T_{l-1} W_l^T), in place of A_l; what weight gradients read becomes c * A_l + T_l. c: [rows]."""

    def tangents_(self, inputs: Sequence[OperandT], coefficient: Tensor) -> None:
        """T_1 .. T_{L-1} from T_0, as `tangent_`."""

    def gradient_(
        self, index: int, weight: Tensor, bias: Tensor | None, upstream: OperandT, x: OperandT, coefficient: Tensor
    ) -> None:
        """dW_l = U_l^T (what x holds for it) and db_l = U_l^T c, into fp32 or wider tensors."""

    def update_operands(
        self, upstream: Sequence[OperandT], x: Sequence[OperandT], coefficient: Tensor
    ) -> dict[str, Any] | None:
        """What an operator takes that makes all gradients and an optimizer's step in one; None where these are two things."""


@implementation("linear.products", "reference")
def _products(layers: Sequence[Layer], precision: str) -> Products[Any]:
    return TorchProducts(layers, torch.bfloat16 if precision == "bf16" else layers[0].weight.dtype)


@implementation("linear.products", "cpp", "cpu")
def _products_cpp(layers: Sequence[Layer], precision: str) -> Products[Any]:
    chosen = instruction_sets.choose(precision).instruction_set if layers[0].weight.dtype == torch.float32 else None
    return PackedProducts(layers, chosen) if chosen else _products(layers, precision)


def products(layers: Sequence[Layer], precision: str, backend: str = "auto") -> Products[Any]:
    """The fastest products of a chain in a precision (fp64, fp32, tf32, bf16), each a call of its own."""
    return resolve("linear.products", layers[0].weight.device.type, backend)(layers, precision)


@implementation("linear.fused_products", "reference")
def _no_fused_products(layers: Sequence[Layer], precision: str) -> None:
    return None


@implementation("linear.fused_products", "triton", "cuda", "cpu")
def _fused_products_triton(layers: Sequence[Layer], precision: str) -> TritonProducts | None:
    fits = max(extent for layer in layers for extent in layer.weight.shape) <= WIDEST
    taken = fits and precision in INPUT_PRECISION and layers[0].weight.dtype == torch.float32 and len(layers) > 1
    return TritonProducts(layers, precision) if taken else None


def fused_products(layers: Sequence[Layer], precision: str, backend: str = "auto") -> TritonProducts | None:
    """Products with what surrounds them in few launches, for devices where a launch is what costs, or None."""
    return resolve("linear.fused_products", layers[0].weight.device.type, backend)(layers, precision)
