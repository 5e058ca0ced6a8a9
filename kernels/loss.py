"""loss: a logit's loss and its gradient, and one program that evaluates all logits of an update.

The program runs beside the tiles of an adjoint product, which do not wait for it: adjoints start from one for every row, and
dLoss/dlogit enters a weight gradient as the row's coefficient. csrc/logit_loss.h explains the forms.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .launch import wait_for_predecessor
from .record import FINITE_CHECK, VALUE


@triton.jit
def softplus_of_minus(magnitude):
    """log(1 + exp(-x)) for x >= 0, exact where exp(-x) is tiny."""
    e = tl.exp(-magnitude)
    u = 1.0 + e
    return tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def bce_value(x, target):
    """target softplus(-x) + (1 - target) softplus(x)."""
    slope = tl.where(x > 0, 1.0 - target, target)
    # not 0 * inf: an infinite logit on its right side has no loss
    return softplus_of_minus(tl.abs(x)) + tl.where(slope == 0.0, 0.0, slope * tl.abs(x))


@triton.jit
def bce_gradient(x, target):
    """(1 - target) sigmoid(x) - target sigmoid(-x), without cancellation where it is small."""
    e = tl.exp(-tl.abs(x))
    up, down = 1.0 - target, target
    return tl.where(x > 0, up - down * e, up * e - down) / (1.0 + e)


@triton.jit
def logit_loss(x, target, FORM: tl.constexpr):
    """A logit's loss, and its gradient dLoss/dlogit."""
    if FORM == "square":
        return (x - target) * (x - target), 2.0 * (x - target)
    elif FORM == "hinge":
        sign = 1.0 - 2.0 * target
        loss = 1.0 + sign * x
        return tl.where(loss <= 0.0, 0.0, loss), tl.where(loss <= 0.0, 0.0, sign + 0.0 * x)
    elif FORM == "linear":
        sign = 1.0 - 2.0 * target
        return sign * x, sign + 0.0 * x
    else:
        tl.static_assert(FORM == "bce" or FORM == "average", "unknown form")
        return bce_value(x, target), bce_gradient(x, target)


@triton.jit
def logits_of(partials, parts, all_rows, row, inside, bias):
    """A critic's logits at rows [R], summed from the parts that the tiles of its last hidden layer left."""
    total = tl.load(bias) + tl.zeros(row.shape, tl.float32)
    for part in range(parts):
        total += tl.load(partials + tl.cast(part, tl.int64) * all_rows + row, mask=inside, other=0.0)
    return total


@triton.jit
def side_sum(partials, parts, all_rows, bias, first, rows, shift, target, WHAT: tl.constexpr, BLOCK: tl.constexpr):
    """The sum over one side's rows of their logits, or of the gradients that bce of the shifted logits has."""
    total = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, rows, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        inside = row < rows
        x = logits_of(partials, parts, all_rows, first + row, inside, bias)
        total += tl.where(inside, x if WHAT == "logits" else bce_gradient(x - shift, target), 0.0)
    return tl.sum(total, 0)


@triton.jit
def write_gradient(coefficient, all_rows, row, inside, gradient, penalized):
    """A row's dLoss/dlogit as the coefficient of its biases and, unless a tangent takes its activations over, of these."""
    tl.store(coefficient + row, gradient, mask=inside)
    activations = tl.where(penalized != 0, 1.0, gradient)
    tl.store(coefficient + all_rows + row, activations, mask=inside)
    tl.store(coefficient + all_rows + all_rows + row, activations, mask=inside)


@triton.jit
def loss_and_gradients(loss, FORM: tl.constexpr, REAL: tl.constexpr, BLOCK: tl.constexpr):
    """The objective of all logits: its value and the mean logits go into the record, the gradients to `coefficient`.

    loss: the arguments below. Real rows, if there are any (REAL), come first, then fake ones; rows: of each. coefficient:
    [3, all_rows].
    """
    (
        record,
        coefficient,
        partials,
        parts,
        all_rows,
        bias,
        rows,
        fake_target,
        real_target,
        scale,
        real_penalized,
        fake_penalized,
    ) = loss
    fake_first = rows if REAL else 0
    weight = scale / rows
    real_shift, fake_shift, real_offset, fake_offset = 0.0, 0.0, 0.0, 0.0
    if FORM == "average":
        # the other side's mean logit shifts every logit, and carries its gradients back through the mean
        fake_shift = side_sum(partials, parts, all_rows, bias, 0, rows, 0.0, 0.0, "logits", BLOCK) / rows
        real_shift = side_sum(partials, parts, all_rows, bias, fake_first, rows, 0.0, 0.0, "logits", BLOCK) / rows
        fake_offset = -weight / rows * side_sum(
            partials, parts, all_rows, bias, 0, rows, real_shift, real_target, "gradients", BLOCK
        )  # fmt: skip
        real_offset = -weight / rows * side_sum(
            partials, parts, all_rows, bias, fake_first, rows, fake_shift, fake_target, "gradients", BLOCK
        )  # fmt: skip
    value = tl.zeros((BLOCK,), tl.float32)
    real_total = tl.zeros((BLOCK,), tl.float32)
    fake_total = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, rows, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        inside = row < rows
        f = logits_of(partials, parts, all_rows, fake_first + row, inside, bias)
        fake_total += tl.where(inside, f, 0.0)
        if REAL:
            r = logits_of(partials, parts, all_rows, row, inside, bias)
            real_total += tl.where(inside, r, 0.0)
        if FORM == "paired":
            terms, gradient = logit_loss(f - r, fake_target, "bce")
            write_gradient(coefficient, all_rows, row, inside, -weight * gradient, real_penalized)
        else:
            terms, gradient = logit_loss(f - fake_shift, fake_target, FORM)
            if REAL:
                real_terms, real_gradient = logit_loss(r - real_shift, real_target, FORM)
                terms += real_terms
                write_gradient(coefficient, all_rows, row, inside, weight * real_gradient + real_offset, real_penalized)
        write_gradient(coefficient, all_rows, fake_first + row, inside, weight * gradient + fake_offset, fake_penalized)
        value += tl.where(inside, terms, 0.0)
    tl.store(record + VALUE, weight * tl.sum(value, 0))
    tl.store(record + FINITE_CHECK, tl.sum(real_total, 0) / rows)
    tl.store(record + FINITE_CHECK + 1, tl.sum(fake_total, 0) / rows)


@triton.jit
def loss_and_gradients_kernel(
    loss, FORM: tl.constexpr, REAL: tl.constexpr, LOSS_BLOCK: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """`loss_and_gradients` as a launch of its own, for a critic of one hidden layer."""
    wait_for_predecessor(PDL)
    loss_and_gradients(loss, FORM, REAL, LOSS_BLOCK)
