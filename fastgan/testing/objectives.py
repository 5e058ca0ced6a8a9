"""The objectives in closed form, and the wrong formulas and the conventions that losses are known to have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from .faults import Mistake
from .remedies import BCE_EXCHANGED, DETACHED_MEAN, NO_FAKE_SLOPE, NO_REAL_SLOPE

Terms = Callable[..., list[Tensor]]
Sides = Callable[..., list[tuple[Tensor, float]]]  # logits -> what a cross entropy takes of each side, and its label

AVERAGE = "relativistic-average"
PAIRED = ("relativistic",)
RELATIVISTIC = ("relativistic", AVERAGE)
SMOOTHED = ("minimax", "nonsaturating", "lsgan")
SIGMOID, SMOOTHED_UNASKED = "sigmoid applied to the logits", "label smoothing not asked for"
OTHER_MARGINS = (0.0, 0.5, 2.0)  # of the hinge loss
USUAL_LABELS = (0.9, 0.75, 0.8, 0.7)  # of smoothed real logits
CLAMPED = 100.0  # the largest value of nn.BCELoss


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) for any x."""
    return torch.logaddexp(x, torch.zeros_like(x))


def cross_entropy(x: Tensor, label: float | Tensor) -> Tensor:
    """Of sigmoid(x) with the label: -label log(sigmoid(x)) - (1 - label) log(1 - sigmoid(x))."""
    return softplus(-x) + (1.0 - label) * x


def _cross_entropy_exchanged(x: Tensor, label: float) -> Tensor:
    """The label taken for the logit, and the logit for the label."""
    return cross_entropy(torch.full_like(x, label), x)


def _of_probabilities_exchanged(x: Tensor, label: float) -> Tensor:
    """nn.BCELoss of the label with sigmoid(x) as its label."""
    p, logs = torch.sigmoid(x), x.new_tensor([label, 1.0 - label]).log().clamp(min=-CLAMPED)
    return -p * logs[0] - (1.0 - p) * logs[1]


def mean_of_rows(x: Tensor) -> Tensor:
    """The mean over the rows alone: of a map, one for each place."""
    return x.mean(0, keepdim=True)


def mean_of_maps(x: Tensor) -> Tensor:
    """Each row's mean, as its one logit."""
    return x.flatten(1).mean(1) if x.dim() > 1 else x


@dataclass(frozen=True)
class Formula:
    """sign * factor * the sum of weight * reduce(term), of logits in the order of the loss's arguments."""

    terms: Terms
    averages: bool = False  # whether each side is taken relative to the other's mean
    factor: float = 1.0
    weights: tuple[float, ...] = (1.0, 1.0)  # of the terms
    sign: float = 1.0
    order: int = 1  # -1: the sides exchanged
    before: Callable[[Tensor], Tensor] = torch.clone
    mean: Callable[[Tensor], Tensor] = torch.mean  # of the other side
    constant_means: tuple[bool, ...] = (False, False)  # of the sides, in their order: detached, with the same value
    constant_sides: tuple[bool, ...] = (False, False)
    reduce: Callable[[Tensor], Tensor] = torch.mean

    def __call__(self, *logits: Tensor) -> Tensor:
        held = [x.detach() if constant else x for x, constant in zip(logits, self.constant_sides, strict=False)]
        sides = [self.before(x) for x in held[:: self.order]]
        if self.averages:
            means = [self.mean(x.detach() if constant else x) for x, constant in zip(sides, self.constant_means, strict=True)]
            sides = [x - mean for x, mean in zip(sides, reversed(means), strict=True)]
        terms = [weight * self.reduce(term) for term, weight in zip(self.terms(*sides), self.weights, strict=False)]
        return self.sign * self.factor * torch.stack(terms).sum()


def d_terms(kind: str, real_label: float = 1.0, fake_label: float = 0.0, scale: float = 1.0) -> Terms:
    """The discriminator's loss of logits (real, fake), term by term."""
    logistic: Terms = lambda r, f: [cross_entropy(r, real_label), cross_entropy(f, fake_label)]  # noqa: E731
    return {
        "minimax": logistic,
        "nonsaturating": logistic,
        "lsgan": lambda r, f: [scale * (r - real_label).square(), scale * (f - fake_label).square()],
        "wgan": lambda r, f: [-r, f],
        "hinge": _hinge(),
        "relativistic": lambda r, f: [softplus(f - r)],
        AVERAGE: logistic,
    }[kind]


def g_terms(kind: str, scale: float = 1.0, label: float = 1.0) -> Terms:
    """The generator's loss of logits (fake), or (fake, real) where the kind compares them, term by term."""
    return {
        "minimax": lambda f, *_: [-softplus(f)],
        "nonsaturating": lambda f, *_: [cross_entropy(f, label)],
        "lsgan": lambda f, *_: [scale * (f - label).square()],
        "wgan": lambda f, *_: [-f],
        "hinge": lambda f, *_: [-f],
        "relativistic": lambda f, r: [softplus(r - f)],
        AVERAGE: lambda f, r: [softplus(-f), softplus(r)],
    }[kind]


MISTAKES = (
    Mistake("halved", {"factor": 0.5}),
    Mistake("doubled", {"factor": 2.0}),
    Mistake("summed over rows instead of averaged", {"reduce": torch.sum}),
    Mistake("sign flipped", {"sign": -1.0}),
    Mistake(SIGMOID, {"before": torch.sigmoid}),
    Mistake("tanh applied to the logits", {"before": torch.tanh}),
    Mistake("each map averaged before the loss", {"before": mean_of_maps}),
)
EXCHANGED = Mistake("sides exchanged", {"order": -1})
OVER_ROWS = Mistake("means over the rows of maps", {"mean": mean_of_rows})


def _of_sides(*sides: str) -> list[Mistake]:
    """Terms of other weights, of the sides in the order of the terms."""
    others = {"halved": 0.5, "left out": 0.0}
    return [
        Mistake(f"{side} side {what}", {"weights": tuple(weight if x == side else 1.0 for x in sides)})
        for what, weight in others.items()
        for side in sides
    ]


def _of_the_mean(kind: str) -> Mistake:
    return Mistake("relu of a mean" if kind == "hinge" else "loss of a mean", {"before": torch.mean})


def _smoothing_mistakes(terms: Callable[..., Terms], smoothing: float) -> list[Mistake]:
    """For terms(real_label=, fake_label=) and the label smoothing that was asked for."""
    if not smoothing:
        labels = [(real, fake) for real in USUAL_LABELS for fake in (0.0, 1.0 - real)]
        return [Mistake(SMOOTHED_UNASKED, {"terms": terms(*both)}, "labels of {:g} and {:g}".format(*both)) for both in labels]
    both, half = terms(1.0 - smoothing, smoothing), terms(1.0 - smoothing / 2, smoothing / 2)
    return [
        Mistake("label smoothing forgotten", {"terms": terms()}),
        Mistake("label smoothing on both sides", {"terms": both}, f"a fake label of {smoothing:g}"),
        Mistake("label smoothing on both sides", {"terms": half}, f"labels moved by {smoothing / 2:g} each"),
    ]


def _another_kind(kind: str, candidates: dict[str, Terms]) -> list[Mistake]:
    return [
        Mistake("loss of another kind", {"terms": terms, "averages": other == AVERAGE}, other)
        for other, terms in candidates.items()
        if other != kind
    ]


def _arguments_exchanged(sides: Sides, count: int, sign: float = 1.0) -> list[Mistake]:
    """Of binary cross entropy of so many sides, with logits and of a sigmoid, given (target, prediction) for all or for one."""
    forms = {
        "binary_cross_entropy_with_logits(target, logits)": _cross_entropy_exchanged,
        "binary_cross_entropy(target, probabilities)": _of_probabilities_exchanged,
    }
    chosen = [tuple(range(count)), *((side,) for side in range(count) if count > 1)]

    def terms(exchange: Callable[[Tensor, float], Tensor], which: tuple[int, ...]) -> Terms:
        return lambda *logits: [
            exchange(x, label) if side in which else cross_entropy(x, label) for side, (x, label) in enumerate(sides(*logits))
        ]

    return [
        Mistake(BCE_EXCHANGED, {"terms": terms(exchange, which), "sign": sign}, shown)
        for which in chosen
        for shown, exchange in forms.items()
    ]


def _average_in_place_of_pairs(terms: Terms) -> list[Mistake]:
    """The relativistic average loss as its codebases write it: halved, with means over the rows."""
    name, changes = "means of the other side where pairs were asked", {"terms": terms, "averages": True}
    half, over_rows = {"factor": 0.5}, {"mean": mean_of_rows}
    return [Mistake(name, changes | more, AVERAGE) for more in ({}, half, over_rows, half | over_rows)]


def _margin_mistakes() -> list[Mistake]:
    """Of the hinge loss."""
    margins = [
        Mistake("margin other than 1", {"terms": _hinge(margin=margin)}, f"a margin of {margin:g}") for margin in OTHER_MARGINS
    ]
    flipped = [((-1.0, 1.0), "real"), ((1.0, -1.0), "fake")]
    return margins + [Mistake(f"sign of the {side} logits flipped", {"terms": _hinge(signs=signs)}) for signs, side in flipped]


def _hinge(margin: float = 1.0, signs: tuple[float, float] = (1.0, 1.0)) -> Terms:
    return lambda r, f: [F.relu(margin - signs[0] * r), F.relu(margin + signs[1] * f)]


def _d_conventions(kind: str, real_label: float, scale: float) -> list[Mistake]:
    if kind == "lsgan":
        return [Mistake("targets 1, -1, 0 of the LSGAN paper", {"terms": d_terms(kind, real_label, -1.0, scale)})]
    if kind == "wgan":
        drifting: Terms = lambda r, f: [1e-3 * r.square() - r, f]  # noqa: E731
        return [Mistake("drift term on the real logits", {"terms": drifting}, "0.001 mean r^2 beside it")]
    return [OVER_ROWS] if kind == AVERAGE else []


def d_objective(kind: str, smoothing: float, scale: float) -> tuple[Formula, tuple[Mistake, ...]]:
    """The discriminator's formula, and what is known to be computed instead of it."""
    terms = partial(d_terms, kind, scale=scale)
    mistakes = [*_d_conventions(kind, 1.0 - smoothing, scale), *MISTAKES, EXCHANGED, _of_the_mean(kind)]
    mistakes += [] if kind == "relativistic" else _of_sides("real", "fake")
    mistakes += _margin_mistakes() if kind == "hinge" else []
    mistakes += _smoothing_mistakes(terms, smoothing) if kind in SMOOTHED else []
    mistakes.append(Mistake(SIGMOID, {"before": torch.sigmoid, "terms": d_terms("wgan")}, "mean D(fake) - mean D(real)"))
    if kind in ("minimax", "nonsaturating", AVERAGE):
        mistakes += _arguments_exchanged(lambda r, f: [(r, 1.0 - smoothing), (f, 0.0)], 2)
    if kind == "relativistic":
        mistakes += [*_arguments_exchanged(lambda r, f: [(r - f, 1.0)], 1), *_average_in_place_of_pairs(d_terms(AVERAGE))]
    kinds = ("nonsaturating", "lsgan", "wgan", "hinge", "relativistic", *((AVERAGE,) if kind != "relativistic" else ()))
    mistakes += _another_kind(kind, {other: d_terms(other) for other in kinds})
    return Formula(terms(1.0 - smoothing), averages=kind == AVERAGE), tuple(mistakes)


def _g_conventions(kind: str, scale: float) -> list[Mistake]:
    if kind == "lsgan":
        return [Mistake("targets 1, -1, 0 of the LSGAN paper", {"terms": g_terms(kind, scale, label=0.0)})]
    if kind == "hinge":
        return [Mistake("relu(1 - f) for the generator", {"terms": lambda f: [F.relu(1.0 - f)]})]
    return [OVER_ROWS] if kind == AVERAGE else []


def _g_sides_exchanged(kind: str) -> list[Mistake]:
    """The loss of a generator that pulls its logits to the fake label, where that is no other mistake."""
    if kind in RELATIVISTIC:
        return [EXCHANGED]
    table: dict[str, Terms] = {"minimax": lambda f: [-softplus(-f)], "nonsaturating": lambda f: [softplus(f)]}
    return [Mistake(EXCHANGED.name, {"terms": table[kind]})] if kind in table else []


def _g_mistakes_of_logistic(kind: str) -> list[Mistake]:
    swaps = {
        "nonsaturating": ("saturating loss in place of the non-saturating one", "minimax"),
        "minimax": ("non-saturating loss in place of the saturating one", "nonsaturating"),
    }
    if kind not in swaps:
        return []
    name, other = swaps[kind]
    return [Mistake(name, {"terms": g_terms(other)})]


def _g_arguments_exchanged(kind: str) -> list[Mistake]:
    sides: dict[str, tuple[Sides, int]] = {
        "nonsaturating": (lambda f: [(f, 1.0)], 1),
        "minimax": (lambda f: [(f, 0.0)], 1),
        "relativistic": (lambda f, r: [(f - r, 1.0)], 1),
        AVERAGE: (lambda f, r: [(f, 1.0), (r, 0.0)], 2),
    }
    return _arguments_exchanged(*sides[kind], sign=-1.0 if kind == "minimax" else 1.0) if kind in sides else []


def g_objective(kind: str, scale: float) -> tuple[Formula, tuple[Mistake, ...]]:
    """The generator's formula, and what is known to be computed instead of it."""
    mistakes = [*_g_conventions(kind, scale), *MISTAKES, _of_the_mean(kind), *_g_sides_exchanged(kind)]
    mistakes += _of_sides("fake", "real") if kind == AVERAGE else []
    mistakes += [*_g_mistakes_of_logistic(kind), *_g_arguments_exchanged(kind)]
    mistakes += _average_in_place_of_pairs(g_terms(AVERAGE)) if kind == "relativistic" else []
    if kind in ("nonsaturating", "lsgan"):
        for label in USUAL_LABELS:
            mistakes.append(Mistake(SMOOTHED_UNASKED, {"terms": g_terms(kind, scale, label)}, f"a label of {label}"))
    mistakes.append(Mistake(SIGMOID, {"before": torch.sigmoid, "terms": g_terms("wgan")}, "-mean D(fake)"))
    kinds = ("minimax", "nonsaturating", "lsgan", "wgan", *(PAIRED if kind == AVERAGE else ()))
    mistakes += _another_kind(kind, {other: g_terms(other) for other in kinds})
    return Formula(g_terms(kind, scale), averages=kind == AVERAGE), tuple(mistakes)


def slope_mistakes(formula: Formula, names: tuple[str, ...], differentiated: int) -> tuple[Mistake, ...]:
    """What detached logits leave of a formula's slopes, at the same value; `names` are the sides, the first with slopes."""
    mistakes = []
    if formula.averages:
        constants = [((True, False), names[0]), ((False, True), names[1]), ((True, True), "real and the fake")]
        for constant, which in constants:
            mistakes.append(Mistake(DETACHED_MEAN, {"constant_means": constant}, f"a constant mean of the {which} logits"))
    if differentiated > 1:
        for side, name in {"real": NO_REAL_SLOPE, "fake": NO_FAKE_SLOPE}.items():
            mistakes.append(Mistake(name, {"constant_sides": tuple(side == x for x in names)}))
    return tuple(mistakes)
