"""Where a penalty takes the critic's gradient, read from the points it asked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .critics import normal, rows
from .faults import Fault, Mistake, explain, fault
from .layouts import Layout, Shape
from .remedies import ALPHA_PER_ELEMENT, AT_FAKE, AT_REAL, AT_WRONG_POINTS, ONE_ALPHA

Ask = Callable[[Tensor, Tensor], Tensor]  # real, fake -> the points
Distribution = Callable[[Tensor], Tensor]  # a cumulative distribution function

NEAR = 1e-4  # alphas and noise are quotients, of fp32 numbers perhaps
FEATURES = 16  # of a sample that are looked at


def uniform(low: float, high: float) -> Distribution:
    """Of numbers uniform in [low, high]."""
    return lambda x: ((x - low) / (high - low)).clamp(0.0, 1.0)


UNIT = uniform(0.0, 1.0)


def is_drawn_from(x: Tensor, distribution: Distribution, independent: int) -> bool:
    """Kolmogorov and Smirnov's test at a level of 1e-9, so it does not fail by chance."""
    ordered = distribution(x.flatten().double()).sort().values
    steps = (torch.arange(x.numel(), dtype=torch.float64) + 0.5) / x.numel()
    return bool((ordered - steps).abs().max() < math.sqrt(math.log(2e9) / (2 * independent)))


def _spread(x: Tensor, dim: int) -> float:
    """The largest difference between numbers along a dimension; without that dimension, 0."""
    return (x.amax(dim) - x.amin(dim)).max().item()


def _some(x: Tensor) -> Tensor:
    """Rows [B, ...] as [B, F] with no more features than are looked at."""
    x = x.flatten(1)
    return x[:, :: math.ceil(x.shape[1] / FEATURES)]


def _few(x: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in x.flatten()[:4].tolist()) + ", ..."


def _pair(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Real and fake rows that differ by 1 to 2 in every element, apart from each sample's first, where they agree.

    Samples of one number differ in it.
    """
    drawn = torch.rand((2, *shape), generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    real, fake = drawn[0], drawn[0] + 1.0 + drawn[1]
    if math.prod(shape[1:]) > 1:
        fake.flatten(1)[:, 0] = real.flatten(1)[:, 0]
    return real, fake


def _alphas(points: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The part of the way from real to fake, [B, F]."""
    alphas = ((points - real) / (fake - real)).flatten(1)
    return _some(alphas[:, 1:] if alphas.shape[1] > 1 else alphas)


def between(ask: Ask, layout: Layout) -> Iterator[Fault]:
    """Whether points are real + alpha (fake - real) with one uniform alpha per sample."""
    real, fake = _pair(layout.many, layout.dtype)
    asked = [ask(real, fake) for _ in range(layout.calls)]
    off = max((points - real).flatten(1)[:, 0].abs().max().item() for points in asked)
    if off > NEAR and real[0].numel() > 1:
        shown = f"expected {real.flatten()[0]:.3g} where real and fake agree, asked up to {off:.3g} away"
        yield fault("taken off the line between real and fake", shown)
        return
    alphas = torch.stack([_alphas(points, real, fake) for points in asked])
    for name, alpha in ((AT_REAL, 0.0), (AT_FAKE, 1.0)):
        if (alphas - alpha).abs().max() < NEAR:
            yield fault(name, f"expected alphas in [0, 1], got {alpha:g} in every row")
            return
    yield from _drawn(alphas, ask, layout)


def _drawn(alphas: Tensor, ask: Ask, layout: Layout) -> Iterator[Fault]:
    """Whether alphas [calls, B, F] are one for each sample, and uniform."""
    drawn, independent = alphas, alphas.shape[0] * alphas.shape[1]
    if _spread(alphas, dim=2) > NEAR:
        independent = min(independent, alphas.round(decimals=4).unique().numel())  # all rows may share them
        yield fault(ALPHA_PER_ELEMENT, f"expected one alpha per sample, got {_few(alphas[0, 0])} in the first")
    elif _spread(alphas, dim=1) < NEAR and layout.few > 1:
        pair = _pair((layout.few, *layout.many[1:]), layout.dtype)
        drawn, independent = torch.stack([_alphas(ask(*pair), *pair)[0, 0] for _ in range(100)]), 100
        if _spread(drawn, dim=0) > NEAR:
            yield fault(ONE_ALPHA, f"expected one alpha per sample, got {_few(alphas[0, :, 0])} in the rows")
    if drawn.min() < -NEAR or drawn.max() > 1 + NEAR or not is_drawn_from(drawn, UNIT, independent):
        shown = f"got alphas from {drawn.min():.3g} to {drawn.max():.3g} with mean {drawn.mean():.3g}"
        yield fault("alpha not uniform in [0, 1]", f"expected a mean of 0.5, {shown}")


def at_rows(ask: Ask, layout: Layout) -> Iterator[Fault]:
    """Whether points are the given rows."""
    given = rows(layout.typical, 1.0, layout.dtype, seed=3)
    off = (ask(given, given) - given).abs().max().item()
    if not off < NEAR:
        yield fault(AT_WRONG_POINTS, f"expected the given rows, asked up to {off:.3g} away from them")


def _no_step(noise: Distribution, x: Tensor) -> Tensor:
    return noise(x)


def _uniform_step(noise: Distribution, x: Tensor) -> Tensor:
    """The distribution of noise times an alpha uniform in [0, 1]."""
    return torch.stack([noise(x / alpha) for alpha in (torch.arange(100.0) + 0.5) / 100.0]).mean(0)


def _moves_rows(noise: Tensor) -> bool:
    """Whether elements of a row are large together, as one alpha for each row makes them; so for rows of one number."""
    if noise.shape[1] < 2:
        return True
    halves = torch.stack([noise[:, ::2].abs().mean(1), noise[:, 1::2].abs().mean(1)])
    return bool(torch.corrcoef(halves)[0, 1] > 0.2)


def _std_of_samples(x: Tensor) -> Tensor:
    """nan for samples of one number, without torch's warning."""
    deviations = x.flatten(1) - x.flatten(1).mean(1, keepdim=True)
    return (deviations.square().sum(1) / (x[0].numel() - 1)).sqrt().reshape(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True)
class Noise:
    """DRAGAN's points: real + alpha * scale * spread(real) * numbers of a distribution; without an alpha, or a uniform one."""

    scale: float
    spread: Callable[[Tensor], Tensor] = torch.std
    distribution: Distribution = UNIT
    step: Callable[[Distribution, Tensor], Tensor] = _no_step
    step_of_rows: bool = True

    def made(self, asked: list[Tensor], real: Tensor) -> bool:
        drawn = torch.cat([self._drawn(points, real) for points in asked])
        if not is_drawn_from(drawn, lambda x: self.step(self.distribution, x), len(drawn)):
            return False
        return self.step is _no_step or _moves_rows(drawn) == self.step_of_rows

    def _drawn(self, points: Tensor, real: Tensor) -> Tensor:
        return _some((points - real) / (self.scale * self.spread(real)))


NOISE_MISTAKES = (
    Mistake("noise normal instead of uniform", {"distribution": torch.special.ndtr}),
    Mistake("noise centred on the real rows", {"distribution": uniform(-0.5, 0.5)}),
    Mistake("noise centred on the real rows", {"distribution": uniform(-1.0, 1.0)}),
    Mistake("std of each feature instead of the whole batch", {"spread": lambda x: x.std(0, keepdim=True)}),
    Mistake("std of each sample instead of the whole batch", {"spread": _std_of_samples}),
    Mistake("std ignored", {"spread": torch.ones_like}),
    Mistake("std_scale ignored", {"scale": 1.0}),
)
STEP_MISTAKES = (*NOISE_MISTAKES, Mistake(ALPHA_PER_ELEMENT, {"step_of_rows": False}))


def around_real(ask: Ask, layout: Layout, std_scale: float) -> Iterator[Fault]:
    """Whether points are real + std_scale * std(real) * u, with u uniform in [0, 1) in every element, or on the way there.

    Kodali et al. add the noise in their text, and in their code take a uniform step for each row towards the noisy row.
    """
    real = 5.0 * normal(*layout.many, dtype=layout.dtype, seed=4) + 3.0
    real.flatten(1)[:, ::2] *= 0.1  # features and samples of different spread
    real[::2] *= 0.2
    asked = [ask(real, real) for _ in range(layout.calls)]
    noise = torch.stack([_some((points - real) / (std_scale * real.std())) for points in asked])
    if noise.abs().max() < NEAR:
        yield fault(AT_REAL, "expected noise around them, asked at the rows themselves")
        return
    if noise.shape[2] > 1 and _spread(noise, dim=2) < NEAR:
        yield fault("one noise value per sample", f"expected one per element, got {_few(noise[0, 0])} in the first sample")
        return
    shown = f"got noise / (std_scale * std) from {noise.min():.3g} to {noise.max():.3g} with mean {noise.mean():.3g}"
    if _steps_together(ask, real[: max(layout.few, 32)]):
        yield fault(ONE_ALPHA, f"expected one alpha per sample, {shown}")
        return
    for name in _noise_mistakes(Noise(std_scale), lambda form: form.made(asked, real)):
        yield fault(name, f"expected 0 to 1 with mean 0.5, {shown}")


def _noise_mistakes(right: Noise, fits: Callable[[Noise], bool]) -> list[str]:
    """Those of the form that fits with fewer of them, noise or a step towards it."""
    forms = ((right, NOISE_MISTAKES), (replace(right, step=_uniform_step), STEP_MISTAKES))
    explained = [explain(form, mistakes, fits) for form, mistakes in forms]
    found = [[mistake.name for mistake in form[1]] for form in explained if form]
    return min(found, key=len, default=["noise not uniform in [0, 1)"])


def _steps_together(ask: Ask, real: Tensor) -> bool:
    """Whether the noise of many rows is large or small together, from call to call."""
    if len(real) < 8:
        return False
    largest = torch.stack([(ask(real, real) - real).abs().max() for _ in range(32)])
    return bool(largest.min() < 0.25 * largest.max())
