"""Products of a chain by Triton, on matrices that are filled up with zeros to whole tiles (kernels/linear.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import reference, sample
from ..ops.linear import Layer
from ..ops.triton.update import OptimizerArgs

WIDEST = 2**24  # of layers: 128 rows of an operand, as many as a block of a kernel has, are counted through in 32 bits
MOST_ROWS = 2**30  # of operands: more than memory holds of the narrowest, so that kernels may add two numbers of rows
INPUT_PRECISION = {"fp32": "ieee", "tf32": "tf32", "bf16": "ieee"}


class Product(NamedTuple):
    """A product's tiles: how many, how many of them side by side, where their parts are added, and a launch's blocks."""

    tiles: int
    across: int
    workspace: tuple[Tensor, Tensor] | None
    blocks: dict[str, int]

    def grid(self, beside: int = 0) -> tuple[int, int]:
        """Of a launch with so many programs beside the product's own."""
        return self.tiles + beside, self.blocks["SPLITS"]


class TritonProducts:
    """A chain's weights in the products' precision, and launches of its products on operands [rows, width filled up].

    Operands are views of larger matrices: a product may read FILL rows past the last one.
    """

    def __init__(self, layers: Sequence[Layer], precision: str) -> None:
        from ..kernels import launch, linear, tiles, update

        if (widest := max(extent for layer in layers for extent in layer.weight.shape)) > WIDEST:
            raise ValueError(f"a layer is {widest:,} wide; kernels count up to {WIDEST:,}")
        self.layers, self.kernels, self.updates, self.tiles, self.fill = layers, linear, update, tiles, linear.FILL
        self.shapes = [tuple(layer.weight.shape) for layer in layers]
        self.device = layers[0].weight.device
        self.launch = launch.Launcher(self.device)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.precision = INPUT_PRECISION[precision]
        self.weights = [self._filled(*layer.weight.shape) for layer in layers]
        self.biases = [
            layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach() for layer in layers
        ]
        self._words: dict[tuple[int, ...], Tensor] = {}
        self._parts = torch.empty(0)
        self._workspaces: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._counter = torch.zeros((), dtype=torch.int64, device=self.device)
        self.refresh()

    def operand(self, rows: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
        """A new operand [rows, width filled up], of zeros."""
        if rows > MOST_ROWS:
            raise ValueError(f"an operand of {rows:,} rows is more than kernels count, {MOST_ROWS:,} at most")
        return self._filled(rows + self.fill, width, dtype)[:rows]

    def _filled(self, rows: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
        size = [-(-extent // self.fill) * self.fill for extent in (rows, width)]
        return torch.zeros(size, dtype=dtype or self.dtype, device=self.device)

    def refresh(self) -> None:
        """Takes over the layers' weights as they are now."""
        for own, layer in zip(self.weights, self.layers, strict=True):
            self.load(own, layer.weight.detach())

    def words(self, streams: tuple[int, ...]) -> Tensor:
        """Streams on the device, int64; made once, so that a captured run finds them."""
        if streams not in self._words:
            self._words[streams] = torch.tensor(streams, dtype=torch.int64, device=self.device)
        return self._words[streams]

    def counter(self, step: int | Tensor) -> Tensor:
        """A step's number on the device."""
        return step if isinstance(step, Tensor) else self._counter.fill_(step & reference.WORD)

    def load(self, out: Tensor, values: Tensor) -> None:
        """out = values [rows, width], rounded."""
        (rows, width), values = values.shape, values.contiguous()
        grid = (-(-rows // 16) * -(-width // 128),)
        self.launch(self.kernels.load_kernel, grid, out, out.stride(0), values, rows, width, BLOCK_M=16, BLOCK_N=128)

    def _product(self, kernel: str, rows: int, columns: int, depth: int, itemsize: int) -> Product:
        """How a launch multiplies [rows, depth] by [depth, columns]."""
        tile = self.tiles.product_tile(kernel, rows, columns, depth, itemsize, self.launch.arch)
        across = -(-columns // tile.columns)
        count = -(-rows // tile.rows) * across
        blocks = dict(BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=tile.depth, SPLITS=tile.splits)
        workspace = self._split_k_workspace(count, tile) if tile.splits > 1 else None
        return Product(count, across, workspace, blocks | dict(warps=tile.warps, stages=tile.stages))

    def _split_k_workspace(self, count: int, tile: Any) -> tuple[Tensor, Tensor]:
        """Where the parts of products of `count` tiles are added; made once, so that a captured run finds it."""
        key = count, tile.rows, tile.columns, tile.splits
        if key not in self._workspaces:
            parts = torch.empty(count * tile.splits * tile.rows * tile.columns, device=self.device)
            self._workspaces[key] = parts, torch.zeros(count, dtype=torch.int32, device=self.device)
        return self._workspaces[key]

    def parts(self, rows: int) -> int:
        """How many parts the logits of `rows` rows come in: the tiles across the last hidden layer."""
        width, depth = self.layers[-2].weight.shape
        return self._product("forward", rows, width, depth, self.dtype.itemsize).across

    def hidden(
        self,
        index: int,
        out: Tensor,
        x: Tensor,
        masks: sample.MaskCounter | None,
        head: tuple[Tensor, Tensor, int] | None = None,
    ) -> None:
        """A_l = m_l * (A_{l-1} W_l^T + b_l) of layer `index`, rows of x.

        head: for a critic's last hidden layer, where U_{L-1} goes, where the parts of logits go, and rows between two parts.
        """
        layer, rows = self.layers[index], len(x)
        width, depth = layer.weight.shape
        product = self._product("forward", rows, width, depth, x.element_size())
        drawn = masks or sample.MaskCounter(0, self._counter, (0,), 0)
        adjoint, partials, all_rows = head or (out, self.biases[index], 0)
        place = rows // len(drawn.streams), round(layer.dropout * 65536) if masks else 0
        self.launch(
            self.kernels.forward_kernel, product.grid(),
            out, out.stride(0), x, x.stride(0), self.weights[index], self.weights[index].stride(0), self.biases[index],
            rows, width, depth, product.across, product.workspace, layer.negative_slope, layer.scale if masks else 1.0,
            sample.as_int64(int(drawn.seed)), self.counter(drawn.step), self.words(drawn.streams), drawn.first_row, *place,
            self.weights[-1], adjoint, adjoint.stride(0), partials, all_rows,
            DROPOUT=masks is not None, HEAD=head is not None, PRECISION=self.precision, **product.blocks,
        )  # fmt: skip

    def output(self, out: Tensor, x: Tensor, copy: tuple[Tensor, int, int] | None) -> None:
        """The last layer's output [rows, out], fp32; copy: an operand, rows of a pass, rows between two passes in it."""
        layer, rows = self.layers[-1], len(x)
        width, depth = layer.weight.shape
        product = self._product("output", rows, width, depth, x.element_size())
        into, pass_rows, step = copy or (x, rows, rows)
        self.launch(
            self.kernels.output_kernel, product.grid(),
            out, out.stride(0), x, x.stride(0), self.weights[-1], self.weights[-1].stride(0), self.biases[-1],
            rows, width, depth, product.across, product.workspace, into, into.stride(0), pass_rows, step,
            ACTIVATION=layer.output, COPY=copy is not None, PRECISION=self.precision, **product.blocks,
        )  # fmt: skip

    def adjoint(self, index: int, out: Tensor, upstream: Tensor, activations: Tensor, loss: Any = None) -> None:
        """U_l = m_l * (U_{l+1} W_{l+1}) of hidden layer `index`. loss: loss_and_gradients's arguments, to run beside it."""
        layer, weight, rows = self.layers[index], self.weights[index + 1], len(upstream)
        depth, width = self.layers[index + 1].weight.shape
        product = self._product("adjoint", rows, width, depth, upstream.element_size())
        arguments, named = loss or (
            (out, out, out, 0, 0, out, 0, 0.0, 0.0, 0.0, 0, 0),
            dict(FORM=0, REAL=False, LOSS_BLOCK=16),
        )
        self.launch(
            self.kernels.adjoint_kernel, product.grid(loss is not None),
            out, out.stride(0), upstream, upstream.stride(0), weight, weight.stride(0), activations, activations.stride(0),
            rows, width, depth, product.across, product.workspace, layer.negative_slope, layer.scale, *arguments,
            LOSS=loss is not None, PRECISION=self.precision, **named, **product.blocks,
        )  # fmt: skip

    def input_gradient(
        self, out: Tensor, upstream: Tensor, mode: str, *, coefficient: Tensor | None = None, y: Tensor | None = None,
        x: Tensor | None = None, factor: float = 0.0, activation: str = "identity",
    ) -> None:  # fmt: skip
        """g = U_1 W_1 and what becomes of it, see kernels.linear.gradient_kernel."""
        weight, rows = self.weights[0], len(upstream)
        depth, width = self.layers[0].weight.shape
        product = self._product("gradient", rows, width, depth, upstream.element_size())
        y, x = out if y is None else y, upstream if x is None else x
        self.launch(
            self.kernels.gradient_kernel, product.grid(),
            out, out.stride(0), upstream, upstream.stride(0), weight, weight.stride(0),
            out if coefficient is None else coefficient, rows, width, depth, product.across, product.workspace,
            y, y.stride(0), x, x.stride(0), factor,
            MODE=mode, ACTIVATION=activation, PRECISION=self.precision, **product.blocks,
        )  # fmt: skip

    def tangent(
        self, index: int, out: Tensor, x: Tensor, activations: Tensor, coefficient: Tensor, all_rows: int,
        first: str = "", penalty_values: Tensor | None = None, form: tuple[float, float, bool] = (0.0, 0.0, False),
    ) -> None:  # fmt: skip
        """T_l of hidden layer `index`, see kernels.linear.tangent_kernel; form: a penalty's weight, target, one_sided."""
        layer, weight, rows = self.layers[index], self.weights[index], len(x)
        width, depth = layer.weight.shape
        product = self._product("first" if first else "tangent", rows, width, depth, x.element_size())
        self.launch(
            self.kernels.tangent_kernel, product.grid(),
            out, out.stride(0), x, x.stride(0), weight, weight.stride(0), activations, activations.stride(0),
            coefficient, all_rows, rows, width, depth, product.across, product.workspace, layer.negative_slope, layer.scale,
            coefficient if penalty_values is None else penalty_values, form[0], form[1], int(form[2]),
            FIRST=first, PRECISION=self.precision, **product.blocks,
        )  # fmt: skip

    def loss_and_gradients(self, arguments: tuple, named: dict[str, Any]) -> None:
        """kernels.loss.loss_and_gradients in a launch of its own."""
        from ..kernels import loss

        self.launch(loss.loss_and_gradients_kernel, (1,), *arguments, **named)

    def update_tile(self, rows: int) -> Any:
        """The tile of weight gradients over so many rows at most."""
        return self.tiles.update_tile(tuple(self.shapes), rows, self.dtype.itemsize, self.launch.arch)

    def update_programs(self, tile: Any) -> int:
        """How many tiles the weights of all layers have."""
        return sum(-(-outputs // tile.rows) * -(-inputs // tile.columns) for outputs, inputs in self.shapes)

    def update_table(self, tile: Any, upstream: Sequence[Tensor], x: Sequence[Tensor], flat: Tensor) -> Tensor:
        """The layers as `update_kernel` finds them: int64 [layers, FIELDS]; flat: the buffer that weights and biases are in."""
        rows, first = [], 0
        for index, (layer, u, a, shadow) in enumerate(zip(self.layers, upstream, x, self.weights, strict=True)):
            outputs, inputs = self.shapes[index]
            across = -(-inputs // tile.columns)
            bias = -1 if layer.bias is None else _offset(layer.bias, flat)
            pointers = u.data_ptr(), u.stride(0), a.data_ptr(), a.stride(0), shadow.data_ptr(), shadow.stride(0)
            rows.append([first, across, outputs, inputs, _offset(layer.weight, flat), bias, *pointers, 1 if index == 0 else 2])
            first += -(-outputs // tile.rows) * across
        return torch.tensor(rows, dtype=torch.int64, device=self.device)

    def update(
        self, optimizer: OptimizerArgs, table: Tensor, coefficient: Tensor, all_rows: int, rows: int, tile: Any, flags: int,
        location: tuple, gradients: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Weight gradients over rows and the optimizer's step on them, or, given where they go, the gradients alone.

        gradients: [splits, weights], a part of the rows each; location, flags: of the update's record (update_log.py).
        """
        import triton.language as tl

        splits = 1 if gradients is None else len(gradients)
        part = -(-rows // splits // tile.depth) * tile.depth if splits > 1 else rows
        self.launch(
            self.updates.update_kernel, (self.update_programs(tile), splits),
            optimizer.buffers, table, coefficient, all_rows, rows, *location,
            *optimizer.arguments(), gradients, optimizer.buffers[0].numel(), part,
            LAYERS=len(self.layers), FIELDS=self.updates.FIELDS, RULE=optimizer.rule, NESTEROV=optimizer.nesterov,
            FUSED=gradients is None, DTYPE=tl.bfloat16 if self.dtype == torch.bfloat16 else tl.float32,
            PRECISION=self.precision, FLAGS=flags, ALIGNED=math.gcd(16, *(inputs for _, inputs in self.shapes)),
            BLOCK_O=tile.rows, BLOCK_I=tile.columns, BLOCK_R=tile.depth, warps=tile.warps, stages=tile.stages,
        )  # fmt: skip

    def parts_of(self, weights: int, splits: int) -> Tensor:
        """A buffer of gradients in parts, [splits, weights]."""
        if len(self._parts) != splits:
            self._parts = torch.zeros(splits, weights, device=self.device)
        return self._parts


def _offset(part: Tensor, flat: Tensor) -> int:
    return (part.data_ptr() - flat.data_ptr()) // flat.element_size()
