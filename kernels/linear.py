"""linear: the products of a chain of layers, with everything that belongs to a product's tile in its epilogue.

Operands [rows, width] and weights [out, in] are row-major, filled up with zeros to whole blocks of FILL columns and rows, so
that products load without masks. The formulas are those of fastgan/chain/passes.py; the sign of an activation keeps its slope.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .launch import unravel, wait_for_predecessor
from .loss import loss_and_gradients
from .penalty import value_and_factor
from .sample import dropped

FILL = 128  # what widths, and the rows of weights, are filled up to: no block of a product is longer
SIGN = tl.constexpr(0x80000000)


@triton.jit
def reduce_split_k(total, workspace, number, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """A tile's sum over the SPLITS parts of its depth, and whether this program has it: the last one to arrive.

    workspace: the parts, fp32 [tiles, SPLITS, BLOCK_M, BLOCK_N], and how many have arrived, int32 [tiles], left at 0 as found.
    """
    parts, arrived = workspace
    offsets = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    parts += number.to(tl.int64) * (SPLITS * BLOCK_M * BLOCK_N) + offsets
    tl.store(parts + tl.program_id(1) * (BLOCK_M * BLOCK_N), total)
    tl.debug_barrier()  # what all threads wrote comes before the arrival of one of them
    last = tl.atomic_add(arrived + number, 1, sem="acq_rel") == SPLITS - 1
    if last:
        tl.store(arrived + number, 0)
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for part in tl.static_range(SPLITS):  # in their order, whoever is last: every run has the same sum
            total += tl.load(parts + part * (BLOCK_M * BLOCK_N), cache_modifier=".cg")
    return total, last


@triton.jit
def operand(x, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """Numbers as a product takes them. For tf32 to the nearest: tensor cores cut off the bits that they do not read."""
    if PRECISION == "tf32":
        bits = x.to(tl.uint32, bitcast=True)
        nearest = ((bits + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)
        return tl.where(x == x, nearest, x)
    else:
        return x.to(DTYPE)


@triton.jit
def product(
    x, x_stride, w, w_row, w_column, number, rows, columns, depth, workspace,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr, SQUARES: tl.constexpr = False,
):  # fmt: skip
    """A tile of x [rows, depth] times w, whose element (k, n) is at k * w_row + n * w_column: fp32 [BLOCK_M, BLOCK_N].

    Also the rows' squared norms [BLOCK_M], if SQUARES, and whether the sum is here: of SPLITS programs, of a part of the depth
    each, one has it.
    """
    begin = 0
    end = depth
    if SPLITS > 1:
        part = tl.cdiv(tl.cdiv(depth, BLOCK_K), SPLITS) * BLOCK_K
        begin = tl.program_id(1) * part
        end = tl.minimum(begin + part, depth)
    k = begin + tl.arange(0, BLOCK_K)
    x_at = x + rows.to(tl.int64)[:, None] * x_stride + k[None, :]
    w_at = w + k.to(tl.int64)[:, None] * w_row + columns.to(tl.int64)[None, :] * w_column
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    squares = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for _ in range(begin, end, BLOCK_K):
        values = tl.load(x_at)
        if SQUARES:
            squares += values * values
        weights = operand(tl.load(w_at), DTYPE, PRECISION)
        total = tl.dot(operand(values, DTYPE, PRECISION), weights, total, input_precision=PRECISION)
        x_at += BLOCK_K
        w_at += BLOCK_K * w_row
    if SPLITS == 1:
        return total, tl.sum(squares, 1), True
    else:
        tl.static_assert(not SQUARES, "squared norms are of a whole row")
        total, last = reduce_split_k(total, workspace, number, SPLITS, BLOCK_M, BLOCK_N)
        return total, tl.sum(squares, 1), last


@triton.jit
def encode_activation(pre, below):
    """max(pre, 0) - below * max(-pre, 0), with the sign bit set unless pre > 0."""
    negative = (below * tl.abs(pre)).to(tl.uint32, bitcast=True) | SIGN
    return tl.where(pre > 0, pre, negative.to(tl.float32, bitcast=True))


@triton.jit
def activation_slope(activations, scale, below):
    """m, read back from what `encode_activation` made: scale, scale * below, or 0 where the unit was dropped."""
    wide = activations.to(tl.float32)
    negative = wide.to(tl.int32, bitcast=True) < 0
    return tl.where(negative, scale * below, tl.where(wide == 0.0, 0.0, scale))


@triton.jit
def tile(number, tiles_n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The rows and columns of a tile."""
    rows = (number // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = (number % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    return rows, columns


@triton.jit(do_not_specialize=["seed", "step"])
def forward_kernel(
    out, out_stride, x, x_stride, w, w_stride, bias, rows, width, depth, tiles_n, workspace, below, scale,
    seed, step, streams, first_row, pass_rows, threshold, head, adjoint, adjoint_stride, partials, all_rows,
    DROPOUT: tl.constexpr, HEAD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A_l = m_l * (A_{l-1} W_l^T + b_l) of a hidden layer.

    HEAD: the next layer is the critic's last, with one output and weights `head`; then the tile's part of the logits goes to
    `partials` [tiles_n, all_rows], and U_{L-1} = m_{L-1} * head, which nothing else is needed for, to `adjoint`.
    """
    wait_for_predecessor(PDL)
    dtype: tl.constexpr = out.dtype.element_ty
    number = tl.program_id(0)
    row, column = tile(number, tiles_n, BLOCK_M, BLOCK_N)
    pre, _, last = product(
        x, x_stride, w, 1, w_stride, number, row, column, depth, workspace, dtype, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K, SPLITS
    )  # fmt: skip
    if not last:
        return
    pre += tl.load(bias + column, mask=column < width, other=0.0)[None, :]
    a = encode_activation(pre, below)
    if DROPOUT:
        stream = tl.load(streams + row // pass_rows, mask=row < rows, other=0)
        column0 = (number % tiles_n) * BLOCK_N
        gone = dropped(seed, tl.load(step), stream, first_row + row % pass_rows, column0, threshold, BLOCK_N)
        a = tl.where(gone, 0.0, a * scale)
    a = a.to(dtype)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], a, mask=inside)
    if HEAD:
        weight = tl.load(head + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
        part = tl.sum(a.to(tl.float32) * weight, 1)
        tl.store(partials + (number % tiles_n).to(tl.int64) * all_rows + row, part, mask=row < rows)
        u = (activation_slope(a, scale, below) * weight).to(dtype)
        tl.store(adjoint + row.to(tl.int64)[:, None] * adjoint_stride + column[None, :], u, mask=inside)


@triton.jit
def output_kernel(
    out, out_stride, x, x_stride, w, w_stride, bias, rows, width, depth, tiles_n, workspace,
    copy, copy_stride, pass_rows, copy_rows,
    ACTIVATION: tl.constexpr, COPY: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The last layer's output in fp32; COPY: also as an operand, the rows of pass p at row p * copy_rows."""
    wait_for_predecessor(PDL)
    dtype: tl.constexpr = x.dtype.element_ty
    number = tl.program_id(0)
    row, column = tile(number, tiles_n, BLOCK_M, BLOCK_N)
    y, _, last = product(
        x, x_stride, w, 1, w_stride, number, row, column, depth, workspace, dtype, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K, SPLITS
    )  # fmt: skip
    if not last:
        return
    y += tl.load(bias + column, mask=column < width, other=0.0)[None, :]
    if ACTIVATION == "tanh":
        e = tl.exp(-2.0 * tl.abs(y))
        t = (1.0 - e) / (1.0 + e)
        y = tl.where(y < 0.0, -t, t)
    elif ACTIVATION == "sigmoid":
        y = 1.0 / (1.0 + tl.exp(-y))
    inside = (row < rows)[:, None] & (column < width)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], y, mask=inside)
    if COPY:
        to = (row // pass_rows).to(tl.int64) * copy_rows + row % pass_rows
        tl.store(copy + to[:, None] * copy_stride + column[None, :], y.to(dtype), mask=inside)


@triton.jit
def adjoint_kernel(
    out, out_stride, upstream, upstream_stride, w, w_stride, activations, activations_stride, rows, width, depth, tiles_n,
    workspace, below, scale, loss,
    FORM: tl.constexpr, REAL: tl.constexpr, LOSS: tl.constexpr, LOSS_BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """U_l = m_l * (U_{l+1} W_{l+1}). LOSS: program 0 evaluates the logits' loss meanwhile (loss.loss_and_gradients)."""
    wait_for_predecessor(PDL)
    if LOSS:  # noqa: SIM102  (Triton decides this one when it compiles)
        if tl.program_id(0) == 0:
            if tl.program_id(1) == 0:
                loss_and_gradients(loss, FORM, REAL, LOSS_BLOCK)
            return
    dtype: tl.constexpr = out.dtype.element_ty
    number = tl.program_id(0) - (1 if LOSS else 0)
    row, column = tile(number, tiles_n, BLOCK_M, BLOCK_N)
    u, _, last = product(
        upstream, upstream_stride, w, w_stride, 1, number, row, column, depth, workspace, dtype, PRECISION,
        BLOCK_M, BLOCK_N, BLOCK_K, SPLITS,
    )  # fmt: skip
    if not last:
        return
    inside = (row < rows)[:, None] & (column < width)[None, :]
    a = tl.load(activations + row.to(tl.int64)[:, None] * activations_stride + column[None, :], mask=inside, other=0.0)
    u = (u * activation_slope(a, scale, below)).to(dtype)
    tl.store(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], u, mask=inside)


@triton.jit
def gradient_kernel(
    out, out_stride, upstream, upstream_stride, w, w_stride, coefficient, rows, width, depth, tiles_n, workspace,
    y, y_stride, x, x_stride, factor,
    MODE: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """g = U_1 W_1, and what becomes of it.

    "plain": g in fp32. "points": also as the operand x, whose coefficient will be the row's factor. "square": also the
    operand x turned into s x + factor g. "generator": c g act'(y), the adjoint of a generator that made y, as an operand.
    """
    wait_for_predecessor(PDL)
    dtype: tl.constexpr = upstream.dtype.element_ty
    number = tl.program_id(0)
    row, column = tile(number, tiles_n, BLOCK_M, BLOCK_N)
    g, _, last = product(
        upstream, upstream_stride, w, w_stride, 1, number, row, column, depth, workspace, dtype, PRECISION,
        BLOCK_M, BLOCK_N, BLOCK_K, SPLITS,
    )  # fmt: skip
    if not last:
        return
    inside = (row < rows)[:, None] & (column < width)[None, :]
    out_at = out + row.to(tl.int64)[:, None] * out_stride + column[None, :]
    if MODE == "generator":
        made = tl.load(y + row.to(tl.int64)[:, None] * y_stride + column[None, :], mask=inside, other=0.0)
        if ACTIVATION == "tanh":
            g *= 1.0 - made * made
        elif ACTIVATION == "sigmoid":
            g *= made * (1.0 - made)
        g *= tl.load(coefficient + row, mask=row < rows, other=0.0)[:, None]
    tl.store(out_at, g.to(out.dtype.element_ty), mask=inside)
    if MODE == "points":
        tl.store(x + row.to(tl.int64)[:, None] * x_stride + column[None, :], g.to(dtype), mask=inside)
    elif MODE == "square":
        x_at = x + row.to(tl.int64)[:, None] * x_stride + column[None, :]
        s = tl.load(coefficient + row, mask=row < rows, other=0.0)[:, None]
        combined = s * tl.load(x_at, mask=inside, other=0.0).to(tl.float32) + factor * g
        tl.store(x_at, combined.to(dtype), mask=inside)


@triton.jit
def tangent_kernel(
    out, out_stride, x, x_stride, w, w_stride, activations, activations_stride, coefficient, all_rows, rows, width, depth,
    tiles_n, workspace, below, scale, penalty_values, weight, target, one_sided,
    FIRST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """T_l = m_l * (T_{l-1} W_l^T), and A_l becomes c * A_l + T_l, what a weight gradient reads; coefficient: [3, all_rows].

    FIRST names what x is: "norm" and "square" input gradients g in fp32, a penalty's derivative being a factor of the row times
    g; "tangent" that derivative itself, in fp32; "" the tangent before. The first two leave each row's value, "norm" its factor
    as well.
    """
    wait_for_predecessor(PDL)
    dtype: tl.constexpr = out.dtype.element_ty
    number = tl.program_id(0)
    row, column = tile(number, tiles_n, BLOCK_M, BLOCK_N)
    t, squares, last = product(
        x, x_stride, w, 1, w_stride, number, row, column, depth, workspace, dtype, PRECISION,
        BLOCK_M, BLOCK_N, BLOCK_K, SPLITS, FIRST != "",
    )  # fmt: skip
    if not last:
        return
    if FIRST == "norm" or FIRST == "square":
        value, factor = value_and_factor(squares, weight, target, one_sided, FIRST == "square")
        t *= factor[:, None]
        if number % tiles_n == 0:
            tl.store(penalty_values + row, value, mask=row < rows)
            if FIRST == "norm":
                tl.store(coefficient + all_rows + row, factor, mask=row < rows)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    a_at = activations + row.to(tl.int64)[:, None] * activations_stride + column[None, :]
    a = tl.load(a_at, mask=inside, other=0.0)
    t *= activation_slope(a, scale, below)
    tl.store(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], t.to(dtype), mask=inside)
    c = tl.load(coefficient + row, mask=row < rows, other=0.0)[:, None]
    tl.store(a_at, (c * a.to(tl.float32) + t).to(dtype), mask=inside)


@triton.jit
def load_kernel(
    out, out_stride, values, rows, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rows [rows, width] as an operand, or a weight's shadow: rounded, in a matrix that is filled up with zeros."""
    wait_for_predecessor(PDL)
    row0, across = unravel(tl.program_id(0), rows, BLOCK_M)
    row, column = row0 + tl.arange(0, BLOCK_M), across * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    value = tl.load(values + row.to(tl.int64)[:, None] * width + column[None, :], mask=inside)
    tl.store(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], value.to(out.dtype.element_ty), mask=inside)
