"""Products of a chain by Triton, on matrices that are filled up with zeros to whole tiles (kernels/linear.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..ops import backend, reference
from ..ops.linear import Layer
from ..ops.penalty import PenaltyForm
from ..ops.sample import MaskCounter

if TYPE_CHECKING:
    from ..kernels.tiles import Tile

WIDEST = 2**24  # of layers: 128 rows of an operand, as many as a block of a kernel has, are counted through in 32 bits
MOST_ROWS = 2**30  # of operands: more than memory holds of the narrowest, so that kernels may add two numbers of rows
INPUT_PRECISION = {"fp32": "ieee", "tf32": "tf32", "bf16": "ieee"}
NO_LOSS = dict(loss=None, FORM="", REAL=False, LOSS_BLOCK=16)


class Product(NamedTuple):
    """A product's tiles: how many, how many of them side by side, where their parts are added, and a launch's blocks."""

    tiles: int
    across: int
    workspace: tuple[Tensor, Tensor] | None
    blocks: dict[str, int]

    def grid(self, beside: int = 0) -> tuple[int, int]:
        """Of a launch with so many programs beside the product's own."""
        return self.tiles + beside, self.blocks["SPLITS"]

    def arguments(self, width: int, depth: int) -> dict[str, Any]:
        """What a launch takes of the product of [rows, depth] by [depth, width]."""
        return dict(width=width, depth=depth, tiles_n=self.across, workspace=self.workspace) | self.blocks


class LossArgs(NamedTuple):
    """An objective as a launch evaluates it, see kernels.loss.loss_and_gradients."""

    record: Tensor
    coefficient: Tensor
    partials: Tensor
    parts: int
    all_rows: int
    bias: Tensor
    rows: int
    fake_target: float
    real_target: float
    scale: float
    real_penalized: int
    fake_penalized: int
    form: str  # of ops.objective.Terms
    real: bool
    block: int

    def arguments(self) -> dict[str, Any]:
        """What the launch takes: the numbers as one argument, and what its code depends on."""
        return dict(loss=tuple(self[:12]), FORM=self.form, REAL=self.real, LOSS_BLOCK=self.block)


class Tiles(Protocol):
    """Who chooses tiles: kernels.tiles, or a tool that tries others."""

    def product_tile(self, kernel: str, rows: int, columns: int, depth: int, itemsize: int, arch: int) -> Tile:
        """Of the product of [rows, depth] by [depth, columns]."""

    def update_tile(self, shapes: tuple[tuple[int, ...], ...], rows: int, itemsize: int, arch: int) -> Tile:
        """Of the weight gradients of layers [outputs, inputs] over so many rows."""


class TritonProducts:
    """A chain's weights in the products' precision, and launches of its products on operands [rows, width filled up].

    Operands are views of larger matrices: a product may read FILL rows past the last one.
    """

    def __init__(self, layers: Sequence[Layer], precision: str, tiles: Tiles | None = None) -> None:
        from ..kernels import linear
        from ..kernels import tiles as measured

        if (widest := max(extent for layer in layers for extent in layer.weight.shape)) > WIDEST:
            raise ValueError(f"a layer is {widest:,} wide; kernels count up to {WIDEST:,}")
        self.layers, self.kernels, self.fill = layers, linear, linear.FILL
        self.tiles: Tiles = tiles or measured
        self.shapes = [tuple(layer.weight.shape) for layer in layers]
        self.device = layers[0].weight.device
        self.launch = backend.new_launcher(self.device)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.precision = INPUT_PRECISION[precision]
        self.weights = [self._filled(*layer.weight.shape) for layer in layers]
        self.biases = [
            layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach() for layer in layers
        ]
        self._words: dict[tuple[int, ...], Tensor] = {}
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
        return step if isinstance(step, Tensor) else self._counter.fill_(step)

    def load(self, out: Tensor, values: Tensor) -> None:
        """out = values [rows, width], rounded."""
        (rows, width), values = values.shape, values.contiguous()
        grid, blocks = (-(-rows // 16) * -(-width // 128),), dict(BLOCK_M=16, BLOCK_N=128)
        self.launch(self.kernels.load_kernel, grid, **_matrix("out", out), values=values, rows=rows, width=width, **blocks)

    def _product(self, kernel: str, rows: int, columns: int, depth: int, itemsize: int) -> Product:
        """How a launch multiplies [rows, depth] by [depth, columns]."""
        tile = self.tiles.product_tile(kernel, rows, columns, depth, itemsize, self.launch.arch)
        across = -(-columns // tile.columns)
        count = -(-rows // tile.rows) * across
        blocks = dict(BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=tile.depth, SPLITS=tile.splits)
        workspace = self._split_k_workspace(count, tile) if tile.splits > 1 else None
        return Product(count, across, workspace, blocks | dict(warps=tile.warps, stages=tile.stages))

    def _split_k_workspace(self, count: int, tile: Tile) -> tuple[Tensor, Tensor]:
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
        self, index: int, out: Tensor, x: Tensor, masks: MaskCounter | None, head: tuple[Tensor, Tensor, int] | None = None
    ) -> None:
        """A_l = m_l * (A_{l-1} W_l^T + b_l) of layer `index`, rows of x.

        head: for a critic's last hidden layer, where U_{L-1} goes, where the parts of logits go, and rows between two parts.
        """
        layer, rows = self.layers[index], len(x)
        width, depth = layer.weight.shape
        product = self._product("forward", rows, width, depth, x.element_size())
        self.launch(
            self.kernels.forward_kernel,
            product.grid(),
            **_matrix("out", out),
            **_matrix("x", x),
            **_matrix("w", self.weights[index]),
            bias=self.biases[index],
            rows=rows,
            **product.arguments(width, depth),
            below=layer.negative_slope,
            **self._mask_arguments(layer, rows, masks),
            **self._head_arguments(head),
            PRECISION=self.precision,
        )

    def _mask_arguments(self, layer: Layer, rows: int, masks: MaskCounter | None) -> dict[str, Any]:
        """What a forward launch takes of dropout."""
        if masks is None:
            names = ("seed", "step", "streams", "first_row", "pass_rows", "threshold")
            return dict.fromkeys(names) | dict(scale=1.0, DROPOUT=False)
        counter = dict(
            seed=reference.as_int64(int(masks.seed)), step=self.counter(masks.step), streams=self.words(masks.streams)
        )
        extents = dict(first_row=masks.first_row, pass_rows=rows // len(masks.streams))
        return counter | extents | dict(threshold=round(layer.dropout * 65536), scale=layer.scale, DROPOUT=True)

    def _head_arguments(self, head: tuple[Tensor, Tensor, int] | None) -> dict[str, Any]:
        """What a forward launch takes of the critic's last layer."""
        if head is None:
            return dict.fromkeys(("head", "adjoint", "adjoint_stride", "partials", "all_rows")) | dict(HEAD=False)
        adjoint, partials, all_rows = head
        return dict(head=self.weights[-1], **_matrix("adjoint", adjoint), partials=partials, all_rows=all_rows, HEAD=True)

    def output(self, out: Tensor, x: Tensor, copy: tuple[Tensor, int, int] | None) -> None:
        """The last layer's output [rows, out], fp32; copy: an operand, rows of a pass, rows between two passes in it."""
        layer, rows = self.layers[-1], len(x)
        width, depth = layer.weight.shape
        product = self._product("output", rows, width, depth, x.element_size())
        into, pass_rows, copy_rows = copy or (None, None, None)
        self.launch(
            self.kernels.output_kernel,
            product.grid(),
            **_matrix("out", out),
            **_matrix("x", x),
            **_matrix("w", self.weights[-1]),
            bias=self.biases[-1],
            rows=rows,
            **product.arguments(width, depth),
            **_matrix("copy", into),
            pass_rows=pass_rows,
            copy_rows=copy_rows,
            ACTIVATION=layer.output,
            COPY=copy is not None,
            PRECISION=self.precision,
        )

    def adjoint(self, index: int, out: Tensor, upstream: Tensor, activations: Tensor, loss: LossArgs | None = None) -> None:
        """U_l = m_l * (U_{l+1} W_{l+1}) of hidden layer `index`. loss: a loss to evaluate beside it."""
        layer, weight, rows = self.layers[index], self.weights[index + 1], len(upstream)
        depth, width = self.layers[index + 1].weight.shape
        product = self._product("adjoint", rows, width, depth, upstream.element_size())
        self.launch(
            self.kernels.adjoint_kernel,
            product.grid(beside=int(loss is not None)),
            **_matrix("out", out),
            **_matrix("upstream", upstream),
            **_matrix("w", weight),
            **_matrix("activations", activations),
            rows=rows,
            **product.arguments(width, depth),
            below=layer.negative_slope,
            scale=layer.scale,
            **(loss.arguments() if loss else NO_LOSS),
            LOSS=loss is not None,
            PRECISION=self.precision,
        )

    def input_gradient(
        self,
        out: Tensor,
        upstream: Tensor,
        mode: str,
        *,
        coefficient: Tensor | None = None,
        y: Tensor | None = None,
        x: Tensor | None = None,
        factor: float = 0.0,
        activation: str = "identity",
    ) -> None:
        """g = U_1 W_1 and what becomes of it, see kernels.linear.gradient_kernel."""
        rows = len(upstream)
        depth, width = self.layers[0].weight.shape
        product = self._product("gradient", rows, width, depth, upstream.element_size())
        self.launch(
            self.kernels.gradient_kernel,
            product.grid(),
            **_matrix("out", out),
            **_matrix("upstream", upstream),
            **_matrix("w", self.weights[0]),
            coefficient=coefficient,
            rows=rows,
            **product.arguments(width, depth),
            **_matrix("y", y),
            **_matrix("x", x),
            factor=factor,
            MODE=mode,
            ACTIVATION=activation,
            PRECISION=self.precision,
        )

    def tangent(
        self,
        index: int,
        out: Tensor,
        x: Tensor,
        activations: Tensor,
        *,
        coefficient: Tensor,
        all_rows: int,
        first: str = "",
        penalty_values: Tensor | None = None,
        form: PenaltyForm | None = None,
    ) -> None:
        """T_l of hidden layer `index`, see kernels.linear.tangent_kernel; form: of the penalty whose gradient x is."""
        layer, rows = self.layers[index], len(x)
        width, depth = layer.weight.shape
        product = self._product("first" if first else "tangent", rows, width, depth, x.element_size())
        self.launch(
            self.kernels.tangent_kernel,
            product.grid(),
            **_matrix("out", out),
            **_matrix("x", x),
            **_matrix("w", self.weights[index]),
            **_matrix("activations", activations),
            coefficient=coefficient,
            all_rows=all_rows,
            rows=rows,
            **product.arguments(width, depth),
            below=layer.negative_slope,
            scale=layer.scale,
            penalty_values=penalty_values,
            weight=form.weight if form else None,
            target=form.target if form else None,
            one_sided=int(form.one_sided) if form else None,
            FIRST=first,
            PRECISION=self.precision,
        )

    def loss_and_gradients(self, loss: LossArgs) -> None:
        """kernels.loss.loss_and_gradients in a launch of its own."""
        from ..kernels import loss as kernels

        self.launch(kernels.loss_and_gradients_kernel, (1,), **loss.arguments())


def _matrix(name: str, matrix: Tensor | None) -> dict[str, Any]:
    """A matrix and its row stride as a launch takes them; None for none."""
    return {name: matrix, f"{name}_stride": None if matrix is None else matrix.stride(0)}
