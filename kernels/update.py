"""update: weight gradients -> optimizer -> weights, their shadow in the products' precision, their moving average.

The records (`record.py`) of several updates are the rows of an update log; `flush_kernel` counts them once they are all done.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .launch import wait_for_predecessor
from .linear import operand
from .record import FINITE_CHECK, PENALTY_VALUES, SKIPPED, VALUE

MOST_FLAGS = tl.constexpr(1024)  # of earlier updates that a program reads at a time
LARGEST = tl.constexpr((2.0 - 2.0**-23) * 2.0**126)  # of new weights: half of fp32's largest number, see reference.in_range
FIELDS = 13  # of a layer in `update_kernel`'s table


@triton.jit
def is_finite(x):
    """Whether numbers are neither infinite nor nan."""
    return tl.abs(x) < float("inf")


@triton.jit
def one_minus_power(log, t):
    """1 - beta^t from log(beta), with fp32's full precision where beta^t is near 1."""
    y = log * t
    series = 1.0 + y / 2 * (1.0 + y / 3 * (1.0 + y / 4 * (1.0 + y / 5 * (1.0 + y / 6 * (1.0 + y / 7)))))
    return tl.where(y > -0.25, -y * series, 1.0 - tl.exp(y))


@triton.jit
def optimizer_step(w, g, s0, s1, s2, rate, t, numbers, RULE: tl.constexpr, NESTEROV: tl.constexpr):
    """torch.optim's formulas: new weights and states. t: which update this is, from 1.

    RULE, numbers: a variant of a formula and what it unpacks, as `fastgan.ops.triton.update` has them.
    """
    if RULE == "adam":
        weight_decay, beta1, rest1, beta2, rest2, eps, log_beta1, log_beta2 = numbers
        g += weight_decay * w
        mean = beta1 * s0 + rest1 * g
        square = beta2 * s1 + rest2 * g * g
        root = tl.sqrt(square) / tl.sqrt(one_minus_power(log_beta2, t)) + eps
        return w - rate / one_minus_power(log_beta1, t) * (mean / root), mean, square, s2
    elif RULE == "sgd":
        return w - rate * (g + numbers[0] * w), s0, s1, s2
    elif RULE == "sgd-momentum":
        weight_decay, momentum, undamped = numbers
        g += weight_decay * w
        velocity = tl.where(t == 1, g, momentum * s0 + undamped * g)
        direction = g + momentum * velocity if NESTEROV else velocity
        return w - rate * direction, velocity, s1, s2
    else:
        CENTERED: tl.constexpr = RULE == "rmsprop-centered" or RULE == "rmsprop-centered-momentum"
        MOMENTUM: tl.constexpr = RULE == "rmsprop-momentum" or RULE == "rmsprop-centered-momentum"
        tl.static_assert(CENTERED or MOMENTUM or RULE == "rmsprop", "unknown rule")
        weight_decay, alpha, rest, eps, momentum = numbers
        g += weight_decay * w
        square = alpha * s0 + rest * g * g
        spread, last = square, s1
        if CENTERED and MOMENTUM:
            s2 = alpha * s2 + rest * g
            spread = square - s2 * s2
        elif CENTERED:
            last = alpha * s1 + rest * g
            spread = square - last * last
        direction = g / (tl.sqrt(spread) + eps)
        if MOMENTUM:
            direction += momentum * s1
            last = direction
        return w - rate * direction, square, last, s2


@triton.jit
def load_if(pointer, base, offsets, inside):
    """A buffer's numbers, or zeros where there is no such buffer; 32-bit offsets from a base take half the registers."""
    if pointer is None:
        return tl.zeros(offsets.shape, tl.float32)
    else:
        return tl.load(pointer + base + offsets, mask=inside, other=0.0)


@triton.jit
def store_if(pointer, base, offsets, values, inside):
    """Writes a buffer's numbers, if there is such a buffer."""
    if pointer is not None:
        tl.store(pointer + base + offsets, values, mask=inside)


@triton.jit
def load_all(buffers, base, offsets, inside):
    """What stands at offsets of all buffers: weights, three states, the moving average (EMA)."""
    w, s0 = load_if(buffers[0], base, offsets, inside), load_if(buffers[1], base, offsets, inside)
    s1, s2 = load_if(buffers[2], base, offsets, inside), load_if(buffers[3], base, offsets, inside)
    return w, s0, s1, s2, load_if(buffers[4], base, offsets, inside)


@triton.jit
def apply_update(
    buffers, old, base, offsets, inside, g, rate, t, skipped, numbers, clip, ema_decay,
    RULE: tl.constexpr, NESTEROV: tl.constexpr,
):  # fmt: skip
    """Steps the weights at offsets, from what stands there; a weight whose gradient is not finite keeps its value and states.

    One whose new value is beyond LARGEST keeps its value. Returns the new weights, squared gradients, and which weights were
    left alone for one or the other.
    """
    w, s0, s1, s2, ema = old
    finite = is_finite(g)
    clean = tl.where(finite & inside, g, 0.0)
    new, n0, n1, n2 = optimizer_step(w, clean, s0, s1, s2, rate, t, numbers, RULE, NESTEROV)
    # not by minima, which would make a number of nan
    new = tl.where((clip > 0.0) & (new > clip), clip, new)
    new = tl.where((clip > 0.0) & (new < -clip), -clip, new)
    applied, fits = finite & (skipped == 0), tl.abs(new) <= LARGEST
    new = tl.where(applied & fits, new, w)
    store_if(buffers[0], base, offsets, new, inside)
    # masks that differ from weight to weight would make every store a narrow one
    store_if(buffers[1], base, offsets, tl.where(applied, n0, s0), inside)
    store_if(buffers[2], base, offsets, tl.where(applied, n1, s1), inside)
    store_if(buffers[3], base, offsets, tl.where(applied, n2, s2), inside)
    store_if(buffers[4], base, offsets, tl.where(skipped == 0, new + ema_decay * (ema - new), ema), inside)
    taken = finite & (fits | (skipped != 0))
    return new, clean * clean, tl.where(taken | (inside == 0), 0.0, 1.0)


@triton.jit
def is_skipped(record, finite_checks, BLOCK: tl.constexpr):
    """Whether any of an update's mean logits and penalties is not finite: 0 or 1."""
    not_finite = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, finite_checks, BLOCK):
        offsets = begin + tl.arange(0, BLOCK)
        finite_check = tl.load(record + FINITE_CHECK + offsets, mask=offsets < finite_checks, other=0.0)
        not_finite |= tl.where(is_finite(finite_check), 0, 1)
    return tl.max(not_finite, 0)


@triton.jit
def skipped_of(update_log, record_size, earlier, index):
    """Which of the updates `earlier` than number `index` were skipped: 0 or 1."""
    return tl.load(update_log + earlier.to(tl.int64) * record_size + SKIPPED, mask=earlier < index, other=0.0)


@triton.jit
def number_of_update(count, update_log, record_size, index, FLAGS: tl.constexpr):
    """Which update this one is, from 1, not counting those skipped: index updates since `count` was flushed.

    FLAGS: a power of two, more than any index; above MOST_FLAGS they are read in blocks of so many.
    """
    if FLAGS <= MOST_FLAGS:
        skipped = skipped_of(update_log, record_size, tl.arange(0, FLAGS), index)
    else:
        skipped = tl.zeros((MOST_FLAGS,), tl.float32)
        for begin in range(0, index, MOST_FLAGS):
            skipped += skipped_of(update_log, record_size, begin + tl.arange(0, MOST_FLAGS), index)
    return (tl.load(count) + index + 1).to(tl.float32) - tl.sum(skipped, 0)


@triton.jit(do_not_specialize=["index", "finite_checks"])
def update_kernel(
    buffers, table, coefficient, all_rows, rows, update_log, record_size, index, finite_checks,
    statistics_at, lr, count, numbers, clip, ema_decay, gradient, size, split_rows,
    LAYERS: tl.constexpr, FIELDS: tl.constexpr, RULE: tl.constexpr, NESTEROV: tl.constexpr, FUSED: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, FLAGS: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_R: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Weight and bias gradients of all layers, dW_l = U_l^T (c * X_l), db_l = U_l^T c, and the optimizer's step on them.

    A tile's gradient stays in registers (FUSED), or goes to `gradient` [splits, size], a part of the rows each.
    """
    tile = tl.program_id(0)
    layer = 0
    for later in tl.static_range(1, LAYERS):
        layer += tl.where(tile >= tl.load(table + later * FIELDS), 1, 0)
    entry = table + layer * FIELDS
    local, tiles_i = (tile - tl.load(entry)).to(tl.int32), tl.load(entry + 1).to(tl.int32)
    outputs = tl.load(entry + 2).to(tl.int32)
    inputs = tl.multiple_of(tl.load(entry + 3).to(tl.int32), ALIGNED)
    weight_at, bias_at = tl.load(entry + 4), tl.load(entry + 5)
    u = tl.load(entry + 6).to(tl.pointer_type(DTYPE))
    x = tl.load(entry + 8).to(tl.pointer_type(DTYPE))
    u_stride, x_stride = tl.multiple_of(tl.load(entry + 7), 128), tl.multiple_of(tl.load(entry + 9), 128)
    c = coefficient + tl.load(entry + 12) * all_rows
    first = local % tiles_i == 0
    output0, input0 = (local // tiles_i) * BLOCK_O, (local % tiles_i) * BLOCK_I
    output, input_ = output0 + tl.arange(0, BLOCK_O), input0 + tl.arange(0, BLOCK_I)
    inside = (output < outputs)[:, None] & (input_ < inputs)[None, :]
    # from the tile's first row on: from the layer's they could pass 32 bits
    offsets = tl.arange(0, BLOCK_O)[:, None] * inputs + input_[None, :]
    weight_at = tl.multiple_of(weight_at, ALIGNED) + output0.to(tl.int64) * inputs
    if FUSED:
        # written long before the launch that this one may overlap
        old = load_all(buffers, weight_at, offsets, inside)
    wait_for_predecessor(PDL)
    begin = tl.program_id(1) * split_rows
    row = begin + tl.arange(0, BLOCK_R)
    u, x = tl.multiple_of(u, 16) + begin * u_stride, tl.multiple_of(x, 16) + begin * x_stride
    u_at = tl.arange(0, BLOCK_R)[:, None] * u_stride.to(tl.int32) + output[None, :]
    x_at = tl.arange(0, BLOCK_R)[:, None] * x_stride.to(tl.int32) + input_[None, :]
    g = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    bias_parts = tl.zeros((BLOCK_R, BLOCK_O), tl.float32)
    end = tl.minimum(begin + split_rows, rows)
    for _ in range(begin, end, BLOCK_R):
        there = row < end
        upstream = tl.load(u + u_at, mask=there[:, None], other=0.0)
        activations = tl.load(x + x_at, mask=there[:, None], other=0.0).to(tl.float32)
        weighed = activations * tl.load(c + row, mask=there, other=0.0)[:, None]
        adjoints = operand(tl.trans(upstream), DTYPE, PRECISION)
        g = tl.dot(adjoints, operand(weighed, DTYPE, PRECISION), g, input_precision=PRECISION)
        if first:
            s = tl.load(coefficient + row, mask=there, other=0.0)
            bias_parts += upstream.to(tl.float32) * s[:, None]
        row += BLOCK_R
        u += BLOCK_R * u_stride
        x += BLOCK_R * x_stride
    bias_gradient = tl.sum(bias_parts, 0)
    bias_inside = (output < outputs) & first & (bias_at >= 0)
    if FUSED:
        record = update_log + tl.cast(index, tl.int64) * record_size
        skipped = is_skipped(record, finite_checks, 128)
        t = number_of_update(count, update_log, record_size, index, FLAGS)
        rate = tl.load(lr).to(tl.float32)
        new, squares, not_finite = apply_update(
            buffers, old, weight_at, offsets, inside, g, rate, t, skipped, numbers, clip, ema_decay, RULE, NESTEROV
        )  # fmt: skip
        shadow = tl.multiple_of(tl.load(entry + 10).to(tl.pointer_type(DTYPE)), 16)
        shadow_stride = tl.multiple_of(tl.load(entry + 11), 128)
        tl.store(shadow + output[:, None] * shadow_stride + input_[None, :], new.to(DTYPE), mask=inside)
        squares_sum, not_finite_sum = tl.sum(squares), tl.sum(not_finite)
        if first:
            old_bias = load_all(buffers, bias_at, output, bias_inside)
            new_bias, bias_squares, bias_not_finite = apply_update(  # noqa: RUF059
                buffers, old_bias, bias_at, output, bias_inside, bias_gradient, rate, t, skipped, numbers, clip, ema_decay,
                RULE, NESTEROV,
            )  # fmt: skip
            squares_sum += tl.sum(bias_squares, 0)
            not_finite_sum += tl.sum(bias_not_finite, 0)
        statistics = record + statistics_at + tile
        tl.store(statistics, squares_sum)
        tl.store(statistics + tl.num_programs(0), not_finite_sum)
        if tile == 0:
            tl.store(record + SKIPPED, skipped.to(tl.float32))
    else:
        split = gradient + tl.program_id(1).to(tl.int64) * size
        tl.store(split + weight_at + offsets, g, mask=inside)
        tl.store(split + bias_at + output, bias_gradient, mask=bias_inside)


@triton.jit(do_not_specialize=["index", "finite_checks"])
def flat_kernel(
    buffers, gradient, splits, size, update_log, record_size, index, finite_checks, statistics_at, lr, count,
    numbers, clip, ema_decay,
    RULE: tl.constexpr, NESTEROV: tl.constexpr, FLAGS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The optimizer's step alone, over flat buffers [size], on the sum of gradients [splits, size] in their order."""
    base, offsets = tl.program_id(0).to(tl.int64) * BLOCK, tl.arange(0, BLOCK)
    inside = offsets < tl.minimum(size - base, BLOCK).to(tl.int32)
    old = load_all(buffers, base, offsets, inside)
    wait_for_predecessor(PDL)
    g = tl.zeros((BLOCK,), tl.float32)
    for split in range(splits):
        g += tl.load(gradient + tl.cast(split, tl.int64) * size + base + offsets, mask=inside, other=0.0)
    record = update_log + tl.cast(index, tl.int64) * record_size
    skipped = is_skipped(record, finite_checks, 128)
    t = number_of_update(count, update_log, record_size, index, FLAGS)
    rate = tl.load(lr).to(tl.float32)
    new, squares, not_finite = apply_update(  # noqa: RUF059
        buffers, old, base, offsets, inside, g, rate, t, skipped, numbers, clip, ema_decay, RULE, NESTEROV
    )  # fmt: skip
    statistics = record + statistics_at + tl.program_id(0)
    tl.store(statistics, tl.sum(squares, 0))
    tl.store(statistics + tl.num_programs(0), tl.sum(not_finite, 0))
    if tl.program_id(0) == 0:
        tl.store(record + SKIPPED, skipped.to(tl.float32))


@triton.jit
def flush_kernel(
    update_log, record_size, updates, finite_checks, statistics_at, programs, count, skips, results,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Counts updates that were not skipped, and what was left alone; a program for each update.

    results, fp32 [6]: of the last update its value, mean real and fake logit, penalty, sum of squared gradients, and how many
    weights were left alone.
    """
    wait_for_predecessor(PDL)
    update = tl.program_id(0)
    record = update_log + update.to(tl.int64) * record_size
    squares = tl.zeros((BLOCK,), tl.float32)
    counts = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, programs, BLOCK):
        offsets = begin + tl.arange(0, BLOCK)
        statistics = record + statistics_at + offsets
        squares += tl.load(statistics, mask=offsets < programs, other=0.0)
        counts += tl.load(statistics + programs, mask=offsets < programs, other=0.0)
    skipped, not_finite = tl.load(record + SKIPPED).to(tl.int64), tl.sum(counts, 0)
    tl.atomic_add(count, 1 - skipped)
    tl.atomic_add(skips, skipped + not_finite.to(tl.int64))
    if update == updates - 1:
        penalty = tl.zeros((BLOCK,), tl.float32)
        for begin in range(PENALTY_VALUES - FINITE_CHECK, finite_checks, BLOCK):
            offsets = begin + tl.arange(0, BLOCK)
            penalty += tl.load(record + FINITE_CHECK + offsets, mask=offsets < finite_checks, other=0.0)
        tl.store(results, tl.load(record + VALUE))
        tl.store(results + 1, tl.load(record + FINITE_CHECK))
        tl.store(results + 2, tl.load(record + FINITE_CHECK + 1))
        tl.store(results + 3, tl.sum(penalty, 0))
        tl.store(results + 4, tl.sum(squares, 0))
        tl.store(results + 5, not_finite)
