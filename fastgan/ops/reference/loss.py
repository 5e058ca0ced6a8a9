"""loss in plain torch: real and fake logits -> the objective's value and its gradient per logit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import wide

ALIASES = {  # of each kind, as papers and libraries have them
    "minimax": ("mm", "saturating"),
    "nonsaturating": ("ns", "nsgan", "non-saturating", "modified", "vanilla", "gan", "logistic", "dcgan", "standard"),
    "lsgan": ("ls", "least-squares", "least-square", "mse"),
    "wgan": ("w", "wasserstein"),
    "hinge": ("wasserstein-hinge", "geometric"),
    "relativistic": ("rpgan", "rsgan", "relativistic-paired"),
    "relativistic-average": ("ragan",),
}
KINDS = tuple(ALIASES)
PAIRED_KINDS = ("relativistic",)  # row i of real belongs to row i of fake
RELATIVISTIC_KINDS = ("relativistic", "relativistic-average")  # the generator's loss needs real logits
SMOOTHED_KINDS = ("minimax", "nonsaturating", "lsgan")  # a label means something, and so does smoothing it
# a probability enters only as the logit before the sigmoid that made it
LOGIT_KINDS = ("minimax", "nonsaturating", "relativistic")


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) for any x. F.softplus returns x above 20: right in fp32, and 2e-9 off, which is too much, in fp64."""
    return -F.logsigmoid(-x) if x.dtype == torch.float64 else F.softplus(x)


def real_term(r: Tensor, kind: str, label_smoothing: float = 0.0, scale: float = 1.0) -> Tensor:
    """The discriminator's loss of each real logit; defined for the kinds that do not compare real with fake."""
    if kind in ("minimax", "nonsaturating"):
        # binary cross-entropy with target 1 - e: softplus(-r) + e r
        return softplus(-r) + label_smoothing * r if label_smoothing else softplus(-r)
    if kind == "lsgan":
        return scale * (r - (1.0 - label_smoothing)).square()
    if kind == "wgan":
        return -r
    if kind == "hinge":
        return F.relu(1.0 - r)
    raise ValueError(f"{kind} has no loss of real logits alone")


def fake_term(f: Tensor, kind: str, scale: float = 1.0) -> Tensor:
    """The discriminator's loss of each fake logit; defined for the kinds that do not compare real with fake."""
    if kind in ("minimax", "nonsaturating"):
        return softplus(f)
    if kind == "lsgan":
        return scale * f.square()
    if kind == "wgan":
        return f
    if kind == "hinge":
        return F.relu(1.0 + f)
    raise ValueError(f"{kind} has no loss of fake logits alone")


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
    if kind not in RELATIVISTIC_KINDS:
        raise ValueError(f"{kind} has no generator's loss")
    assert real is not None, f"{kind} compares fake with real logits"
    if kind == "relativistic":
        return [softplus(real - fake)]
    return [softplus(real.mean() - fake), softplus(real - fake.mean())]


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


def side_loss(logits, kind: str, is_real: bool, label_smoothing=0.0, scale=1.0, reduction="mean") -> Tensor:
    """The discriminator's loss of one side alone; defined for the kinds that do not compare real with fake."""
    x = wide(logits)
    return reduce_terms([real_term(x, kind, label_smoothing, scale) if is_real else fake_term(x, kind, scale)], reduction)


def statistics(real: Tensor | None, fake: Tensor) -> Tensor:
    """What people log of a critic: mean real and fake logits, and the means of their signs, [4]; 0 for real without real."""
    sides = [torch.zeros_like(fake) if real is None else wide(real), wide(fake)]
    return torch.stack([side.mean() for side in sides] + [side.sign().mean() for side in sides])


def wide_labels(labels: Tensor, x: Tensor) -> Tensor:
    """Labels in the logits' dtype or a wider one, so that 1 - labels is not rounded to their own."""
    return labels.to(torch.promote_types(labels.dtype, x.dtype))


def bce_with_logits(x: Tensor, target: Tensor | float, *, reduction="mean") -> Tensor:
    """softplus(x) - target x, elementwise, then reduced; a float target needs no tensor of labels."""
    x = wide(x)
    labels = wide_labels(target, x) if isinstance(target, Tensor) else target
    return reduce_terms([softplus(-x) + (1.0 - labels) * x], reduction)
