"""The objectives in closed form, and the wrong formulas that losses are known to have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .faults import Mistake

Terms = Callable[..., list[Tensor]]

RELATIVISTIC = ("relativistic", "relativistic-average")
SMOOTHED = ("minimax", "nonsaturating", "lsgan")
SIGMOID, SMOOTHED_UNASKED = "sigmoid applied to the logits", "label smoothing not asked for"


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) for any x."""
    return torch.logaddexp(x, torch.zeros_like(x))


def cross_entropy(x: Tensor, label: float) -> Tensor:
    """Of sigmoid(x) with the label: -label log(sigmoid(x)) - (1 - label) log(1 - sigmoid(x))."""
    return softplus(-x) + (1.0 - label) * x


@dataclass(frozen=True)
class Formula:
    """sign * factor * the sum of reduce(term), of logits in the order of the loss's arguments."""

    terms: Terms
    factor: float = 1.0
    sign: float = 1.0
    order: int = 1  # -1: the sides exchanged
    before: Callable[[Tensor], Tensor] = torch.clone
    reduce: Callable[[Tensor], Tensor] = torch.mean

    def __call__(self, *logits: Tensor) -> Tensor:
        terms = self.terms(*[self.before(x) for x in logits[:: self.order]])
        return self.sign * self.factor * torch.stack([self.reduce(term) for term in terms]).sum()


def d_terms(kind: str, real_label: float = 1.0, fake_label: float = 0.0, scale: float = 1.0) -> Terms:
    """The discriminator's loss of logits (real, fake), term by term."""
    logistic: Terms = lambda r, f: [cross_entropy(r, real_label), cross_entropy(f, fake_label)]  # noqa: E731
    return {
        "minimax": logistic,
        "nonsaturating": logistic,
        "lsgan": lambda r, f: [scale * (r - real_label).square(), scale * (f - fake_label).square()],
        "wgan": lambda r, f: [-r, f],
        "hinge": lambda r, f: [F.relu(1.0 - r), F.relu(1.0 + f)],
        "relativistic": lambda r, f: [softplus(f - r)],
        "relativistic-average": lambda r, f: [softplus(f.mean() - r), softplus(f - r.mean())],
    }[kind]


def g_terms(kind: str, scale: float = 1.0) -> Terms:
    """The generator's loss of logits (fake), or (fake, real) where the kind compares them, term by term."""
    return {
        "minimax": lambda f, *_: [-softplus(f)],
        "nonsaturating": lambda f, *_: [softplus(-f)],
        "lsgan": lambda f, *_: [scale * (f - 1.0).square()],
        "wgan": lambda f, *_: [-f],
        "hinge": lambda f, *_: [-f],
        "relativistic": lambda f, r: [softplus(r - f)],
        "relativistic-average": lambda f, r: [softplus(r.mean() - f), softplus(r - f.mean())],
    }[kind]


def g_terms_of_the_fake_label(kind: str, scale: float) -> Terms | None:
    """The loss of a generator that pulls its logits to the fake label; None where that is another mistake."""
    table: dict[str, Terms] = {
        "minimax": lambda f: [-softplus(-f)],
        "nonsaturating": lambda f: [softplus(f)],
        "lsgan": lambda f: [scale * f.square()],
    }
    return table.get(kind)


MISTAKES = (
    Mistake("halved", {"factor": 0.5}),
    Mistake("doubled", {"factor": 2.0}),
    Mistake("summed over rows instead of averaged", {"reduce": torch.sum}),
    Mistake("sign flipped", {"sign": -1.0}),
    Mistake(SIGMOID, {"before": torch.sigmoid}),
)
EXCHANGED = Mistake("sides exchanged", {"order": -1})


def _smoothing_mistakes(terms: Callable[..., Terms], smoothing: float) -> list[Mistake]:
    """For terms(real_label=, fake_label=) and the label smoothing that was asked for."""
    if not smoothing:
        labels = {0.1: "0.9", 0.25: "0.75", 0.2: "0.8"}
        return [Mistake(SMOOTHED_UNASKED, {"terms": terms(1.0 - e)}, f"a real label of {shown}") for e, shown in labels.items()]
    both, half = terms(1.0 - smoothing, smoothing), terms(1.0 - smoothing / 2, smoothing / 2)
    return [
        Mistake("label smoothing forgotten", {"terms": terms()}),
        Mistake("label smoothing on both sides", {"terms": both}, f"a fake label of {smoothing:g}"),
        Mistake("label smoothing on both sides", {"terms": half}, f"labels moved by {smoothing / 2:g} each"),
    ]


def _another_kind(kind: str, candidates: dict[str, Terms]) -> list[Mistake]:
    return [Mistake("loss of another kind", {"terms": terms}, other) for other, terms in candidates.items() if other != kind]


def d_objective(kind: str, smoothing: float, scale: float) -> tuple[Formula, tuple[Mistake, ...]]:
    """The discriminator's formula, and what is known to be computed instead of it."""
    terms = partial(d_terms, kind, scale=scale)
    probabilities = Mistake(SIGMOID, {"before": torch.sigmoid, "terms": d_terms("wgan")}, "mean D(fake) - mean D(real)")
    mistakes = [*MISTAKES, EXCHANGED, probabilities]
    mistakes += _smoothing_mistakes(terms, smoothing) if kind in SMOOTHED else []
    kinds = ("nonsaturating", "lsgan", "wgan", "hinge", *RELATIVISTIC)
    return Formula(terms(1.0 - smoothing)), (*mistakes, *_another_kind(kind, {other: d_terms(other) for other in kinds}))


def g_objective(kind: str, scale: float) -> tuple[Formula, tuple[Mistake, ...]]:
    """The generator's formula, and what is known to be computed instead of it."""
    probabilities = Mistake(SIGMOID, {"before": torch.sigmoid, "terms": g_terms("wgan")}, "-mean D(fake)")
    mistakes = [*MISTAKES, probabilities]
    if kind in RELATIVISTIC:
        mistakes.append(EXCHANGED)
    elif (terms := g_terms_of_the_fake_label(kind, scale)) is not None:
        mistakes.append(Mistake("sides exchanged", {"terms": terms}))
    swaps = {
        "nonsaturating": ("saturating loss in place of the non-saturating one", "minimax"),
        "minimax": ("non-saturating loss in place of the saturating one", "nonsaturating"),
    }
    if kind in swaps:
        name, other = swaps[kind]
        mistakes.append(Mistake(name, {"terms": g_terms(other)}))
    kinds = ("minimax", "nonsaturating", "lsgan", "wgan", *(RELATIVISTIC if kind in RELATIVISTIC else ()))
    return Formula(g_terms(kind, scale)), (*mistakes, *_another_kind(kind, {other: g_terms(other) for other in kinds}))
