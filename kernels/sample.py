"""sample: Philox latents, dropout numbers, batches gathered from a data set and interpolates, each a function of (seed, step).

A random number's counter is (block, row, step, stream), its key the seed; ops/reference/sample.py defines all of them. The step
is read from the device, so that a captured launch draws new numbers at each replay.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .launch import unravel, wait_for_predecessor

TURN = tl.constexpr(2.0 * 3.141592653589793 * 2.0**-24)
UNIT = tl.constexpr(2.0**-24)
KEY_STRIDE = tl.constexpr(0x9E3779B97F4A7C15 - 2**64)  # between keys, see reference.key_of


@triton.jit
def words(seed, step, stream, row, block):
    """Philox4x32-10's four words of counters (block, row, step, stream); row and block broadcast to the result's shape."""
    zero = row * 0 + block * 0
    return tl.philox(
        seed + (step >> 32) * KEY_STRIDE,
        (zero + block).to(tl.uint32),
        (zero + row).to(tl.uint32),
        (zero + step).to(tl.uint32),
        (zero + stream).to(tl.uint32),
    )


@triton.jit
def interleave4(a, b, c, d):
    """[R, Q] four times -> [R, 4 Q], the columns a0 b0 c0 d0 a1 ..."""
    pairs = tl.join(tl.join(a, c), tl.join(b, d))  # [R, Q, 2, 2]
    return tl.reshape(pairs, (a.shape[0], 4 * a.shape[1]))


@triton.jit
def interleave8(a, b, c, d):
    """The low and high halves of four words, in their order: [R, Q] -> [R, 8 Q]."""
    each = tl.join(tl.join(a, c), tl.join(b, d))  # [R, Q, 2, 2]
    halves = tl.join(each & 0xFFFF, each >> 16)
    return tl.reshape(halves, (a.shape[0], 8 * a.shape[1]))


@triton.jit
def dropped(seed, step, stream, row, column0, threshold, COLUMNS: tl.constexpr):
    """Whether the units of columns column0 ... of rows are dropped: stream, row [R] -> [R, COLUMNS]; 8 divides COLUMNS."""
    block = column0 // 8 + tl.arange(0, COLUMNS // 8)
    a, b, c, d = words(seed, step, stream[:, None], row[:, None], block[None, :])
    return interleave8(a, b, c, d) < tl.full((), threshold, tl.int32).to(tl.uint32)


@triton.jit
def minus_two_log(w):
    """-2 ln u of u = (w + 1/2) / 2^24 = m 2^e, m within a factor sqrt(2) of 1 and ln m = 2 atanh((m - 1) / (m + 1))."""
    bits = ((w.to(tl.float32) + 0.5) * UNIT).to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - exponent * (1 << 23)).to(tl.float32, bitcast=True) - 1.0
    s, e = f / (2.0 + f), exponent.to(tl.float32)
    y = s * s
    tail = y * (0.33333208152 + y * (0.200107632806 + y * (0.140009064463 + y * 0.140059799263)))
    return -2.0 * (e * 0.693359375 + (2.0 * s + (2.0 * s * tail + e * -2.12194440e-4)))


@triton.jit
def cos_sin(w):
    """cos and sin of 2 pi w / 2^24 for 24-bit words. The quarter turns are taken off exactly: no argument is ever large."""
    quarter = (w + (1 << 21)) >> 22
    x = (w.to(tl.int32) - (quarter.to(tl.int32) << 22)).to(tl.float32) * TURN  # in [-pi / 4, pi / 4]
    y = x * x
    sine = x + x * y * (-0.1666665460591 + y * (0.008332160526753 + y * -0.0001951525063818))
    cosine = 1.0 + y * (-0.5 + y * (0.04166664567657 + y * (-0.001388731593559 + y * 2.443311988776e-5)))
    swapped = (quarter & 1) == 1
    c, s = tl.where(swapped, sine, cosine), tl.where(swapped, cosine, sine)
    return tl.where(((quarter + 1) & 2) == 2, -c, c), tl.where((quarter & 2) == 2, -s, s)


@triton.jit
def normal_tile(seed, step, stream, row, block):
    """Standard normals by Box and Muller: stream, row [R], block [Q] -> [R, 4 Q]."""
    a, b, c, d = words(seed, step, stream[:, None], row[:, None], block[None, :])
    # not the hardware's logarithm: near 1 it would lose all digits of a small radius
    radius0, radius1 = tl.sqrt(minus_two_log(a >> 8)), tl.sqrt(minus_two_log(c >> 8))
    cosine0, sine0 = cos_sin(b >> 8)
    cosine1, sine1 = cos_sin(d >> 8)
    return interleave4(radius0 * cosine0, radius0 * sine0, radius1 * cosine1, radius1 * sine1)


@triton.jit
def uniform_tile(seed, step, stream, row, block):
    """Uniform numbers in [0, 1): stream, row [R], block [Q] -> [R, 4 Q]."""
    a, b, c, d = words(seed, step, stream[:, None], row[:, None], block[None, :])
    return interleave4(a >> 8, b >> 8, c >> 8, d >> 8).to(tl.float32) * UNIT


@triton.jit
def mix(value):
    """The 32-bit finalizer of MurmurHash3."""
    value = (value ^ (value >> 16)) * 0x85EBCA6B
    value = (value ^ (value >> 13)) * 0xC2B2AE35
    return value ^ (value >> 16)


@triton.jit
def shuffle(value, k0, k1, k2, k3, k4, k5, LOW: tl.constexpr, HIGH: tl.constexpr):
    """A Feistel network on LOW + HIGH bits, elementwise on uint32."""
    high, low = value >> LOW, value & ((1 << LOW) - 1)
    # an even number of rounds, in pairs: the halves' widths change places with each
    high, low = low, (high ^ mix(low ^ k0)) & ((1 << HIGH) - 1)
    high, low = low, (high ^ mix(low ^ k1)) & ((1 << LOW) - 1)
    high, low = low, (high ^ mix(low ^ k2)) & ((1 << HIGH) - 1)
    high, low = low, (high ^ mix(low ^ k3)) & ((1 << LOW) - 1)
    high, low = low, (high ^ mix(low ^ k4)) & ((1 << HIGH) - 1)
    high, low = low, (high ^ mix(low ^ k5)) & ((1 << LOW) - 1)
    return (high << LOW) | low


@triton.jit
def permuted(positions, size, seed, stream, LOW: tl.constexpr, HIGH: tl.constexpr):
    """Which samples of a data set stand at positions of its endless stream: int64 [R] -> uint32 [R]."""
    epochs = positions // size
    epoch, later = epochs.to(tl.uint32), (epochs >> 32).to(tl.uint32)
    zero = epoch * 0
    word = zero + tl.full((), stream, tl.int32).to(tl.uint32)
    k0, k1, k2, k3 = tl.philox(seed, zero, epoch, later, word)
    k4, k5, _, _ = tl.philox(seed, zero + 1, epoch, later, word)
    limit = tl.full((), size, tl.int64).to(tl.uint32)  # a size of 1 is a constant of the compiler's, which has no `to`
    value = shuffle((positions % size).to(tl.uint32), k0, k1, k2, k3, k4, k5, LOW, HIGH)
    outside = value >= limit
    while tl.max(outside.to(tl.int32), 0) > 0:
        value = tl.where(outside, shuffle(value, k0, k1, k2, k3, k4, k5, LOW, HIGH), value)
        outside = value >= limit
    return value


@triton.jit(do_not_specialize=["seed", "step"])
def numbers_kernel(
    out, out_stride, rows, columns, seed, step, streams, first_row, pass_rows, threshold, scale,
    KIND: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Numbers [rows, columns] of stacked passes of pass_rows rows, a stream for each: normals, uniforms or dropout scales."""
    wait_for_predecessor(PDL)
    row0, across = unravel(tl.program_id(0), rows, BLOCK_R)
    column0 = across * BLOCK_C
    row, column = row0 + tl.arange(0, BLOCK_R), column0 + tl.arange(0, BLOCK_C)
    stream = tl.load(streams + row // pass_rows, mask=row < rows, other=0)
    counted, step_index = first_row + row % pass_rows, tl.load(step)
    if KIND == "normals":
        made = normal_tile(seed, step_index, stream, counted, column0 // 4 + tl.arange(0, BLOCK_C // 4))
    elif KIND == "uniforms":
        made = uniform_tile(seed, step_index, stream, counted, column0 // 4 + tl.arange(0, BLOCK_C // 4))
    else:
        made = tl.where(dropped(seed, step_index, stream, counted, column0, threshold, BLOCK_C), 0.0, scale)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    out_at = out + row.to(tl.int64)[:, None] * out_stride + column[None, :]
    tl.store(out_at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def scaled(pixels):
    """(x / 255 - 0.5) / 0.5 of uint8 pixels, in fp32; floats as they are."""
    wide = pixels.to(tl.float32)
    return wide * (2.0 / 255.0) - 1.0 if pixels.dtype == tl.uint8 else wide


@triton.jit(do_not_specialize=["seed", "position", "step"])
def indices_kernel(
    out, rows, size, position, step, per_step, seed, batch_stream,
    LOW: tl.constexpr, HIGH: tl.constexpr, BLOCK_R: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The samples at position + step * per_step ... of the endless stream: int64 [rows]."""
    wait_for_predecessor(PDL)
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    positions = position + tl.load(step) * per_step + row
    tl.store(out + row, permuted(positions, size, seed, batch_stream, LOW, HIGH).to(tl.int64), mask=row < rows)


@triton.jit
def gather_kernel(
    out, images, indices, rows, features,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rows of a data set, scaled: [rows, features]."""
    wait_for_predecessor(PDL)
    row0, across = unravel(tl.program_id(0), rows, BLOCK_R)
    row, column = row0 + tl.arange(0, BLOCK_R), across * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (row < rows)[:, None] & (column < features)[None, :]
    sample = tl.load(indices + row, mask=row < rows, other=0).to(tl.int64)
    values = scaled(tl.load(images + sample[:, None] * features + column[None, :], mask=inside))
    out_at = out + row.to(tl.int64)[:, None] * features + column[None, :]
    tl.store(out_at, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def interpolate_kernel(
    out, real, fake, alpha, rows, features,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """real + alpha (fake - real), one alpha a row."""
    wait_for_predecessor(PDL)
    row0, across = unravel(tl.program_id(0), rows, BLOCK_R)
    row, column = row0 + tl.arange(0, BLOCK_R), across * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (row < rows)[:, None] & (column < features)[None, :]
    offsets = row.to(tl.int64)[:, None] * features + column[None, :]
    r, f = tl.load(real + offsets, mask=inside), tl.load(fake + offsets, mask=inside)
    a = tl.load(alpha + row, mask=row < rows, other=0.0)
    tl.store(out + offsets, r + a[:, None] * (f - r), mask=inside)


@triton.jit(do_not_specialize=["seed", "step"])
def batch_kernel(
    out, out_stride, update_rows, images, rows, features, size, step, d_steps, all_rows, first_row, seed, batch_stream,
    LOW: tl.constexpr, HIGH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The real rows of a step's updates, of update d at row d * update_rows; one more than d_steps shows the last again."""
    wait_for_predecessor(PDL)
    row0, rest = unravel(tl.program_id(0), rows, BLOCK_R)
    column0, update = unravel(rest, features, BLOCK_C)
    row, column = row0 + tl.arange(0, BLOCK_R), column0 + tl.arange(0, BLOCK_C)
    position = (tl.load(step) * d_steps + tl.minimum(update, d_steps - 1)) * all_rows + first_row
    sample = permuted(position + row, size, seed, batch_stream, LOW, HIGH).to(tl.int64)
    inside = (row < rows)[:, None] & (column < features)[None, :]
    values = scaled(tl.load(images + sample[:, None] * features + column[None, :], mask=inside))
    to = (update.to(tl.int64) * update_rows + row)[:, None] * out_stride + column[None, :]
    tl.store(out + to, values.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "first_update", "step"])
def points_kernel(
    out, out_stride, update_rows, images, fake, rows, features, size, first_update, step, d_steps, all_rows, first_row, seed,
    batch_stream, alpha_stream,
    LOW: tl.constexpr, HIGH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rows between the real and the fake ones of D updates, one alpha a row; fake: fp32 [d_steps, rows, features]."""
    wait_for_predecessor(PDL)
    row0, rest = unravel(tl.program_id(0), rows, BLOCK_R)
    column0, later = unravel(rest, features, BLOCK_C)
    row, column = row0 + tl.arange(0, BLOCK_R), column0 + tl.arange(0, BLOCK_C)
    update, step_index = first_update + later, tl.load(step)
    position = (step_index * d_steps + update) * all_rows + first_row + row
    sample = permuted(position, size, seed, batch_stream, LOW, HIGH).to(tl.int64)
    inside = (row < rows)[:, None] & (column < features)[None, :]
    r = scaled(tl.load(images + sample[:, None] * features + column[None, :], mask=inside))
    f = tl.load(fake + (update.to(tl.int64) * rows + row)[:, None] * features + column[None, :], mask=inside)
    word = tl.full((BLOCK_R,), alpha_stream, tl.int64) + (update << 16)
    alpha, _, _, _ = words(seed, step_index, word, first_row + row, tl.zeros((BLOCK_R,), tl.int32))
    a = ((alpha >> 8).to(tl.float32) * UNIT)[:, None]
    to = (update.to(tl.int64) * update_rows + row)[:, None] * out_stride + column[None, :]
    tl.store(out + to, (r + a * (f - r)).to(out.dtype.element_ty), mask=inside)
