"""What every fastgan operator means, in plain torch.

This is the only definition. The C++ and Triton implementations are compared with it, and it runs wherever nothing faster
exists. Written to be read: no fusion, nothing in place but what an operator is documented to update. By the five stems.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# --- sample: (seed, step) -> random numbers, batches, interpolates ---------------------------------

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
FEISTEL_ROUNDS = 6
WORD = 0xFFFFFFFF


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int | Tensor) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), int64 tensors of 32-bit words.

    counter: four broadcastable ones; seed: the 64-bit key, an int or a 0-d int64 tensor. Returns four.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(PHILOX_ROUNDS):
        # int64 products wrap modulo 2^64, which keeps all 64 bits of the unsigned product
        p0, p1 = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) & WORD) ^ c1 ^ k0, ((p0 >> 32) & WORD) ^ c3 ^ k1
        c1, c3 = p1 & WORD, p0 & WORD
        k0, k1 = (k0 + PHILOX_WEYL[0]) & WORD, (k1 + PHILOX_WEYL[1]) & WORD
    return [c0, c1, c2, c3]


def random_words(rows: int, blocks: int, *, seed, step, stream: int, first_row=0, device=None) -> Tensor:
    """The 32-bit words of counters (block, row, step, stream): int64 [rows, blocks, 4].

    Rows are global: a process that holds rows 64..127 of a batch passes first_row=64.
    """
    block = torch.arange(blocks, device=device)  # [blocks]
    row = (first_row + torch.arange(rows, device=device)).unsqueeze(1)  # [rows, 1]
    moment, word = (x if isinstance(x, Tensor) else torch.full((), x, device=device) for x in (step, stream))
    return torch.stack(philox4x32((block, row, moment & WORD, word), seed), dim=-1)


def uniforms(rows: int, columns: int, *, dtype=torch.float32, **counter) -> Tensor:
    """Uniform numbers k / 2^24 in [0, 1), [rows, columns]; four columns to a Philox block."""
    words = random_words(rows, -(-columns // 4), **counter).flatten(1)[:, :columns]
    return (words >> 8).to(dtype) * 2.0**-24


def normals(rows: int, columns: int, *, dtype=torch.float32, **counter) -> Tensor:
    """Standard normals by Box and Muller, [rows, columns]; words (0, 1) and (2, 3) of a block make two each.

    radius = sqrt(-2 ln((w + 1/2) / 2^24)), angle = 2 pi w' / 2^24 on 24-bit w, w'; |normal| <= 5.9.
    """
    words = (random_words(rows, -(-columns // 4), **counter) >> 8).to(dtype)
    radius = torch.sqrt(-2.0 * torch.log((words[..., 0::2] + 0.5) * 2.0**-24))
    angle = words[..., 1::2] * (2.0 * math.pi * 2.0**-24)
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)  # [rows, blocks, 2, 2]
    return pairs.flatten(1)[:, :columns]


def dropout_scale(rows: int, columns: int, probability: float, *, dtype=torch.float32, **counter) -> Tensor:
    """Dropout as a factor, [rows, columns]: 0 with the given probability, else 1 / (1 - probability).

    Eight columns to a Philox block, read as eight little-endian 16-bit numbers; a column is dropped
    where its number is below round(probability * 2^16).
    """
    words = random_words(rows, -(-columns // 8), **counter)
    halves = torch.stack((words & 0xFFFF, words >> 16), dim=-1).flatten(1)[:, :columns]
    keep = halves >= round(probability * 65536)
    return keep.to(dtype) * (1.0 / (1.0 - probability))


def _mix(value: Tensor) -> Tensor:
    """The 32-bit finalizer of MurmurHash3: every input bit reaches every output bit."""
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & WORD
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & WORD
    return value ^ (value >> 16)


def permute(index: Tensor, epoch: Tensor, size: int, *, seed: int | Tensor, stream: int) -> Tensor:
    """Position `index` of epoch `epoch` in a keyed permutation of [0, size), elementwise; nothing is stored.

    A Feistel network over the smallest power of two that holds `size`, its halves differing by at most
    one bit, walked until the value falls below `size` (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002). Round keys: the first six words of Philox counters (block, epoch, 0, stream).
    """
    bits = max(6, (size - 1).bit_length())  # with halves of one or two bits, tiny sets would be shuffled with a bias
    low_bits = bits // 2
    zero = torch.zeros_like(epoch)
    counters = [philox4x32((zero + block, epoch & WORD, zero, zero + stream), seed) for block in range(2)]
    keys = counters[0] + counters[1]

    def shuffle(value: Tensor) -> Tensor:
        widths = (bits - low_bits, low_bits)
        high, low = value >> low_bits, value & ((1 << low_bits) - 1)
        for number in range(FEISTEL_ROUNDS):
            mask = (1 << widths[0]) - 1
            high, low, widths = low, (high ^ _mix(low ^ keys[number])) & mask, widths[::-1]
        return (high << low_bits) | low

    value = shuffle(index)
    while bool((outside := value >= size).any()):
        value = torch.where(outside, shuffle(value), value)
    return value


def batch_indices(rows: int, size: int, position: int | Tensor, *, seed, stream: int, device=None) -> Tensor:
    """Which samples of a data set of `size` stand at `position`, position + 1, ... of its endless stream: int64 [rows]."""
    place = position + torch.arange(rows, device=device)
    return permute(place % size, place // size, size, seed=seed, stream=stream)


def gather_rows(images: Tensor, indices: Tensor, *, dtype=torch.float32, out: Tensor | None = None) -> Tensor:
    """Rows of a data set as a batch in [-1, 1], [B, features]: uint8 by (x / 255 - 0.5) / 0.5, floats as they are."""
    rows = images.flatten(1).index_select(0, indices)
    batch = rows.to(dtype) * (2.0 / 255.0) - 1.0 if rows.dtype == torch.uint8 else rows.to(dtype)
    return batch if out is None else out.copy_(batch)


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """real + alpha (fake - real), one alpha per sample: real, fake [B, ...], alpha [B]."""
    return real + alpha.reshape(-1, *[1] * (real.dim() - 1)) * (fake - real)


# --- linear: x -> act(x W^T + b) with dropout; its siblings adjoint and tangent ---------------------

SATURATING = ("tanh", "sigmoid")


def activate(x: Tensor, activation: str, negative_slope: float = 0.2) -> Tensor:
    """The activations an MLP layer may end in: identity, relu, leaky_relu, tanh, sigmoid."""
    if activation == "leaky_relu":
        return F.leaky_relu(x, negative_slope)
    return x if activation == "identity" else getattr(torch, activation)(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, activation="identity", negative_slope=0.2, scale=None) -> Tensor:
    """scale * act(x W^T + b): x [..., in], weight [out, in], bias [out], dropout scale [..., out] or None.

    tanh and sigmoid give fp32 or wider: in bf16 they round to 1 beyond 3 or 6, and their slope to 0.
    """
    # a tanh or a sigmoid before this layer gives fp32, which half-precision weights do not take
    narrow = x.dtype == torch.float32 and weight.dtype in (torch.float16, torch.bfloat16)
    product = F.linear(x.to(weight.dtype) if narrow else x, weight, bias)
    y = activate(wide(product) if activation in SATURATING else product, activation, negative_slope)
    # the scale is fp32 even where y is bf16: 1 / (1 - p) rounded to bf16 would be off by 0.1 %
    return y if scale is None else (y * scale).to(y.dtype)


def fold(pre: Tensor, negative_slope: float, scale: Tensor | None = None) -> Tensor:
    """A = scale * leaky(pre), its slope kept in its sign: -0 where the unit passes the negative slope, +0 where it is dropped.

    negative_slope: 1 for the identity, 0 for ReLU; scale: a dropout factor like pre, or None.
    """
    a = torch.where(pre > 0, pre, -(negative_slope * pre.abs()))
    return a if scale is None else torch.where(scale > 0, a * scale, 0.0).to(pre.dtype)


def slope(activations: Tensor, negative_slope: float, scale: float = 1.0) -> Tensor:
    """m = dA / d pre-activation, read back from what `fold` made: scale, negative_slope * scale, or 0 where A is +0.

    At a pre-activation of 0 ReLU has slope 0 and LeakyReLU its negative slope, as in torch's own backward.
    """
    below = activations.signbit()
    kept = torch.full_like(activations, scale).masked_fill(below, negative_slope * scale)
    return kept.masked_fill((activations == 0) & ~below, 0.0)


def output_slope(y: Tensor, activation: str) -> Tensor:
    """d act / d pre-activation of a network's last layer, from its output y: identity, tanh or sigmoid."""
    if activation == "tanh":
        return 1.0 - y * y
    return y * (1.0 - y) if activation == "sigmoid" else torch.ones_like(y)


def adjoint(upstream: Tensor, weight: Tensor, m: Tensor | None = None) -> Tensor:
    """U_l = m_l * (U_{l+1} W_{l+1}): upstream [B, out], weight [out, in], m [B, in]; without m, dD/dx."""
    product = upstream @ weight
    return product if m is None else product * m


def tangent(push: Tensor, weight: Tensor, m: Tensor) -> Tensor:
    """T_l = m_l * (T_{l-1} W_l^T), a forward pass without bias: push [B, in], weight [out, in], m [B, out]."""
    return (push @ weight.t()) * m


# --- loss: real and fake logits -> the objective's value and its slope per logit --------------------

KINDS = ("minimax", "nonsaturating", "lsgan", "wgan", "hinge", "relativistic", "relativistic-average")
PAIRED_KINDS = ("relativistic",)  # row i of real belongs to row i of fake
RELATIVISTIC_KINDS = ("relativistic", "relativistic-average")  # the generator's loss needs real logits
SMOOTHED_KINDS = ("minimax", "nonsaturating", "lsgan")  # one-sided label smoothing is defined


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) for any x. F.softplus returns x above 20, which costs 2e-9: too much in fp64."""
    return -F.logsigmoid(-x)


def real_term(r: Tensor, kind: str, label_smoothing: float = 0.0, scale: float = 1.0) -> Tensor:
    """What the discriminator pays for each real logit; defined for the kinds that do not compare real with fake."""
    if kind in ("minimax", "nonsaturating"):
        # binary cross-entropy with target 1 - e: softplus(-r) + e r
        return softplus(-r) + label_smoothing * r if label_smoothing else softplus(-r)
    if kind == "lsgan":
        return scale * (r - (1.0 - label_smoothing)).square()
    return -r if kind == "wgan" else F.relu(1.0 - r)


def fake_term(f: Tensor, kind: str, scale: float = 1.0) -> Tensor:
    """What the discriminator pays for each fake logit; defined for the kinds that do not compare real with fake."""
    if kind in ("minimax", "nonsaturating"):
        return softplus(f)
    if kind == "lsgan":
        return scale * f.square()
    return f if kind == "wgan" else F.relu(1.0 + f)


def d_terms(real: Tensor, fake: Tensor, kind: str, label_smoothing: float = 0.0, scale: float = 1.0) -> list[Tensor]:
    """The discriminator's objective as per-logit terms; its value is the sum of their means."""
    if kind == "relativistic":
        return [softplus(fake - real)]
    if kind == "relativistic-average":
        return [softplus(fake.mean() - real), softplus(fake - real.mean())]
    return [real_term(real, kind, label_smoothing, scale), fake_term(fake, kind, scale)]


def g_terms(fake: Tensor, real: Tensor | None, kind: str, scale: float = 1.0) -> list[Tensor]:
    """The generator's objective as per-logit terms; its value is the sum of their means."""
    if kind == "minimax":
        return [-softplus(fake)]
    if kind == "nonsaturating":
        return [softplus(-fake)]
    if kind == "lsgan":
        return [scale * (fake - 1.0).square()]
    if kind in ("wgan", "hinge"):
        return [-fake]
    assert real is not None, f"{kind} compares fake with real logits"
    if kind == "relativistic":
        return [softplus(real - fake)]
    return [softplus(real.mean() - fake), softplus(real - fake.mean())]


def wide(x: Tensor) -> Tensor:
    """At least fp32: losses and penalties are never computed in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def reduce_terms(terms: list[Tensor], reduction: str) -> Tensor:
    """mean: the sum of the terms' means; sum: of their sums; none: the terms added elementwise."""
    if reduction == "none":
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]
    parts = [term.mean() if reduction == "mean" else term.sum() for term in terms]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def d_loss(real, fake, *, kind: str, label_smoothing=0.0, scale=1.0, reduction="mean") -> Tensor:
    """The discriminator's loss in fp32 or wider: real, fake [rows, ...] logits -> 0-d, or [rows, ...] for "none"."""
    return reduce_terms(d_terms(wide(real), wide(fake), kind, label_smoothing, scale), reduction)


def g_loss(fake, real=None, *, kind: str, scale=1.0, reduction="mean") -> Tensor:
    """The generator's loss in fp32 or wider; real logits matter to the relativistic kinds only."""
    return reduce_terms(g_terms(wide(fake), None if real is None else wide(real), kind, scale), reduction)


def bce_with_logits(x: Tensor, target: Tensor | float, *, reduction="mean") -> Tensor:
    """softplus(x) - target x, elementwise, then reduced; a float target needs no tensor of labels."""
    x = wide(x)
    return reduce_terms([softplus(-x) + (1.0 - target) * x], reduction)


# --- penalty: input gradients -> row norms, the penalty's value, the direction it pushes -------------


def row_norms(gradient: Tensor) -> Tensor:
    """Euclidean norm of each sample over all its other dimensions, [B]; its gradient at 0 is 0, not nan."""
    return torch.linalg.vector_norm(wide(gradient).flatten(1), dim=1)


def norm_penalty(gradient: Tensor, *, weight: float, target=1.0, one_sided=False) -> Tensor:
    """weight * mean (|g| - target)^2, over rows with |g| > target alone when one-sided (Gulrajani et al. 2017)."""
    excess = row_norms(gradient) - target
    return weight * (F.relu(excess) if one_sided else excess).square().mean()


def norm_push(gradient: Tensor, *, weight: float, target=1.0, one_sided=False) -> Tensor:
    """d norm_penalty / d gradient = (2 weight / B) (|g| - target) g / |g|, zero where g is: like gradient."""
    norms = row_norms(gradient)
    excess = F.relu(norms - target) if one_sided else norms - target
    factor = torch.where(norms > 0, 2.0 * weight / gradient.shape[0] * excess / norms, 0.0)
    return gradient * factor.reshape(-1, *[1] * (gradient.dim() - 1))


def square_penalty(gradient: Tensor, *, gamma: float) -> Tensor:
    """gamma / 2 * mean |g|^2 (R1 on real rows, R2 on fake ones; Mescheder et al. 2018)."""
    return 0.5 * gamma * wide(gradient).flatten(1).square().sum(1).mean()


def square_push(gradient: Tensor, *, gamma: float) -> Tensor:
    """d square_penalty / d gradient = gamma / B * g."""
    return gradient * (gamma / gradient.shape[0])


# --- update: weight gradient -> optimizer -> weight, its average --------------------------------------


def sgd(w, g, state: list[Tensor], lr, *, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, count) -> list[Tensor]:
    """torch.optim.SGD's formula: returns the new weight and the new state, [velocity] when momentum > 0."""
    if weight_decay:
        g = g + weight_decay * w
    if not momentum:
        return [w - lr * g]
    velocity = torch.where(count == 1, g, momentum * state[0] + (1.0 - dampening) * g)
    return [w - lr * (g + momentum * velocity if nesterov else velocity), velocity]


def rmsprop(w, g, state, lr, *, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, count) -> list[Tensor]:
    """torch.optim.RMSprop's formula; state: [square average, velocity if momentum, gradient average if centered]."""
    del count
    if weight_decay:
        g = g + weight_decay * w
    square = alpha * state[0] + (1.0 - alpha) * g * g
    new, spread = [square], square
    if centered:
        mean = alpha * state[-1] + (1.0 - alpha) * g
        spread = square - mean * mean
    direction = g / (spread.sqrt() + eps)
    if momentum:
        direction = momentum * state[1] + direction
        new.append(direction)
    return [w - lr * direction, *new, *([mean] if centered else [])]


def adam(w, g, state, lr, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, count) -> list[Tensor]:
    """torch.optim.Adam's formula (Kingma and Ba 2015); state: [mean, square average].

    count: updates so far, this one included, in fp64: 1 - beta^count loses four digits in fp32 at the first steps.
    """
    if weight_decay:
        g = g + weight_decay * w
    mean = torch.lerp(state[0], g, 1.0 - betas[0])
    square = betas[1] * state[1] + (1.0 - betas[1]) * g * g
    step_size = lr / (1.0 - betas[0] ** count)
    denominator = square.sqrt() / (1.0 - betas[1] ** count).sqrt() + eps
    return [w - step_size * (mean / denominator), mean, square]


RULES: dict[str, Callable[..., list[Tensor]]] = {"sgd": sgd, "rmsprop": rmsprop, "adam": adam}


def is_withheld(withhold: Tensor) -> Tensor:
    """Whether any element of the last dimension is true or, of floating-point numbers, not finite: bool, without it."""
    return ~withhold.isfinite().all(-1) if withhold.is_floating_point() else withhold.any(-1)


def update_(
    weight: Tensor,
    gradient: Tensor,
    state: list[Tensor],
    lr: Tensor,
    count: Tensor,
    withhold: Tensor,
    *,
    rule: str,
    options: dict,
    clip: float = 0.0,
    average: Tensor | None = None,
    decay: float = 0.0,
) -> Tensor:
    """One optimizer step over a flat network, in place: weight, state, count and average are updated.

    weight, gradient, every state and average: [P]; lr: 0-d; count: 0-d, updates done.
    Where withhold, 0-d or [n], `is_withheld` nothing changes, the count included. A weight whose gradient is not finite
    keeps its value and its state. clip > 0 bounds new weights; average: decay * average + (1 - decay) * weight.
    Returns [sum of the finite gradients' squares, number of non-finite ones], in weight's dtype.
    """
    withhold = is_withheld(withhold)
    finite = gradient.isfinite()
    take = finite & ~withhold
    clean = torch.where(finite, gradient, 0.0)
    count += (~withhold).to(count.dtype)
    new_weight, *new_state = RULES[rule](weight, clean, state, lr, count=count.double().clamp(min=1), **options)
    if clip:
        new_weight = new_weight.clamp(-clip, clip)
    for old, new in zip([weight, *state], [new_weight, *new_state], strict=True):
        old.copy_(torch.where(take, new, old))
    if average is not None:
        average.copy_(torch.where(withhold, average, torch.lerp(weight, average, decay)))
    return torch.stack((clean.square().sum(), (~finite).sum().to(weight.dtype)))
