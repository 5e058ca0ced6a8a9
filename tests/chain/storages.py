"""What tests of the storages share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.chain.packed import PackedProducts
from fastgan.chain.products import Products
from fastgan.chain.torch_mm import TorchProducts
from fastgan.ops.linear import Layer
from fastgan.runtime.instruction_sets import available

TORCH = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
SETS = ("avx2", "avx512", "avx512-bf16", "portable")  # of instructions, each a storage of its own
# the dtype of products in each storage
FORMATS = TORCH | {name: torch.bfloat16 if name == "avx512-bf16" else torch.float32 for name in SETS}


def make(format_: str, layers: Sequence[Layer]) -> Products:
    """Products in a storage."""
    return TorchProducts(layers, TORCH[format_]) if format_ in TORCH else PackedProducts(layers, available()[format_])


def unpacked(panels: Tensor, group: int) -> Tensor:
    """Panels as a matrix [rows, columns, filled up]."""
    return panels.unflatten(2, (-1, group)).permute(1, 3, 0, 2).flatten(2).flatten(0, 1)


def packs(products: PackedProducts) -> list[Tensor]:
    """The packed weights."""
    return [*products.forward, *products.adjoint]
