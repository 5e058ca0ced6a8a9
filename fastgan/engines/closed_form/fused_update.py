"""Weight gradients of a chain and the optimizer's step on them, in one launch where nothing else must be added before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...chain.triton_tiles import TritonProducts
from ...ops.triton.update import OptimizerArgs, RecordLocation, programs, step_
from ...runtime.distributed import sum_
from .update_log import DeviceUpdateLog

if TYPE_CHECKING:
    from ...kernels.tiles import Tile


class FusedUpdate:
    """Updates of one network from the operands of its passes, of so many rows at most."""

    def __init__(self, products: TritonProducts, rows: int) -> None:
        from ...kernels import update

        self.products, self.rows, self.kernels = products, rows, update
        self.tile = self.find_tile()
        self._tables: dict[tuple[int, ...], Tensor] = {}
        self._parts = torch.empty(0)

    def find_tile(self) -> Tile:
        """The tile of weight gradients over so many rows at most, by the table of tiles."""
        products = self.products
        return products.tiles.update_tile(tuple(products.shapes), self.rows, products.dtype.itemsize, products.launch.arch)

    def tile_count(self) -> int:
        """How many tiles the weights of all layers have."""
        tile, shapes = self.tile, self.products.shapes
        return sum(-(-outputs // tile.rows) * -(-inputs // tile.columns) for outputs, inputs in shapes)

    def last_programs(self, weights: int, processes: int) -> int:
        """How many programs the launch has that ends an update of so many weights."""
        return programs(weights) if processes > 1 or self.tile.splits > 1 else self.tile_count()

    def table(self, upstream: Sequence[Tensor], x: Sequence[Tensor], flat: Tensor) -> Tensor:
        """The layers as `update_kernel` finds them: int64 [layers, FIELDS]; flat: the buffer that weights and biases are in."""
        rows, first, products, tile = [], 0, self.products, self.tile
        for index, (layer, u, a, shadow) in enumerate(zip(products.layers, upstream, x, products.weights, strict=True)):
            outputs, inputs = products.shapes[index]
            across = -(-inputs // tile.columns)
            bias = -1 if layer.bias is None else _offset(layer.bias, flat)
            pointers = u.data_ptr(), u.stride(0), a.data_ptr(), a.stride(0), shadow.data_ptr(), shadow.stride(0)
            rows.append([first, across, outputs, inputs, _offset(layer.weight, flat), bias, *pointers, 1 if index == 0 else 2])
            first += -(-outputs // tile.rows) * across
        return torch.tensor(rows, dtype=torch.int64, device=products.device)

    def use_tile(self, tile: Tile) -> None:
        """Takes another tile from now on; logs must have a place for its programs."""
        self.tile = tile
        self._tables.clear()

    def step(
        self,
        log: DeviceUpdateLog,
        optimizer: OptimizerArgs,
        upstream: Sequence[Tensor],
        x: Sequence[Tensor],
        *,
        coefficient: Tensor,
        all_rows: int,
        rows: int,
    ) -> None:
        """One optimizer step on the gradients of so many rows. coefficient [rows]: of biases; all_rows: between two kinds."""
        network, processes = log.network, log.world.size
        key = tuple(operand.data_ptr() for operand in (*upstream, *x))
        if key not in self._tables:  # made once, so that a captured run finds it
            self._tables[key] = self.table(upstream, x, network.weight)
        operands: dict[str, Any] = dict(table=self._tables[key], coefficient=coefficient, all_rows=all_rows, rows=rows)
        if processes == 1 and self.tile.splits == 1:
            self.launch(optimizer, log.close(), **operands)
            return
        gradients = network.gradient.unsqueeze(0) if processes > 1 else self._in_parts(network.weight.numel())
        location = log.close()
        self.launch(optimizer, location, gradients, **operands)
        step_(self.products.launch, optimizer, sum_(gradients, processes), location)
        self.products.refresh()

    def launch(
        self,
        optimizer: OptimizerArgs,
        location: RecordLocation,
        gradients: Tensor | None = None,
        *,
        table: Tensor,
        coefficient: Tensor,
        all_rows: int,
        rows: int,
    ) -> None:
        """Weight gradients over rows and the optimizer's step on them, or, given where they go, the gradients alone.

        gradients: [splits, weights], a part of the rows each; location: of the update's record.
        """
        import triton.language as tl

        products, tile = self.products, self.tile
        splits = 1 if gradients is None else len(gradients)
        part = -(-rows // splits // tile.depth) * tile.depth if splits > 1 else rows
        products.launch(
            self.kernels.update_kernel,
            (self.tile_count(), splits),
            **optimizer.arguments(),
            **location.arguments(),
            table=table,
            coefficient=coefficient,
            all_rows=all_rows,
            rows=rows,
            gradient=gradients,
            size=optimizer.buffers[0].numel(),
            split_rows=part,
            LAYERS=len(products.layers),
            FIELDS=self.kernels.FIELDS,
            FUSED=gradients is None,
            DTYPE=tl.bfloat16 if products.dtype == torch.bfloat16 else tl.float32,
            PRECISION=products.precision,
            ALIGNED=math.gcd(16, *(inputs for _, inputs in products.shapes)),
            BLOCK_O=tile.rows,
            BLOCK_I=tile.columns,
            BLOCK_R=tile.depth,
            warps=tile.warps,
            stages=tile.stages,
        )

    def _in_parts(self, weights: int) -> Tensor:
        """A buffer of gradients in parts, [splits, weights]; made once, so that a captured run finds it."""
        if len(self._parts) != self.tile.splits:
            self._parts = torch.zeros(self.tile.splits, weights, device=self.products.device)
        return self._parts


def _offset(part: Tensor, flat: Tensor) -> int:
    return (part.data_ptr() - flat.data_ptr()) // flat.element_size()
