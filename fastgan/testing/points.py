"""Where a penalty takes the critic's gradient, read from the points it asked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .critics import normal, rows
from .faults import Fault, Mistake, explain, fault

Ask = Callable[[Tensor, Tensor], Tensor]  # real, fake -> the points
Distribution = Callable[[Tensor], Tensor]  # a cumulative distribution function

NEAR = 1e-4  # alphas and noise are quotients, of fp32 numbers perhaps
MANY = (1024, 1, 2, 3)


def uniform(low: float, high: float) -> Distribution:
    """Of numbers uniform in [low, high]."""
    return lambda x: ((x - low) / (high - low)).clamp(0.0, 1.0)


def is_drawn_from(x: Tensor, distribution: Distribution, independent: int) -> bool:
    """Kolmogorov and Smirnov's test at a level of 1e-9, so it does not fail by chance."""
    ordered = distribution(x.flatten().double()).sort().values
    steps = (torch.arange(x.numel(), dtype=torch.float64) + 0.5) / x.numel()
    return bool((ordered - steps).abs().max() < math.sqrt(math.log(2e9) / (2 * independent)))


def _is_constant(x: Tensor) -> bool:
    return bool(x.max() - x.min() < NEAR)


def _pair(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Real and fake rows that differ by 1 to 2 in every element, apart from each sample's first, where they agree."""
    drawn = torch.rand((2, rows, *MANY[1:]), generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    real, fake = drawn[0], drawn[0] + 1.0 + drawn[1]
    fake.flatten(1)[:, 0] = real.flatten(1)[:, 0]
    return real, fake


def between(ask: Ask, dtype: torch.dtype) -> Iterator[Fault]:
    """Whether points are real + alpha (fake - real) with one uniform alpha per sample."""
    real, fake = _pair(MANY[0], dtype)
    points = ask(real, fake).flatten(1)
    off = (points - real.flatten(1))[:, 0].abs().max().item()
    if off > NEAR:
        shown = f"expected {real.flatten()[0]:.3g} where real and fake agree, asked up to {off:.3g} away"
        yield fault("taken off the line between real and fake", shown)
        return
    alphas = _alphas(points, real, fake)
    for name, alpha in (("taken at the real rows", 0.0), ("taken at the fake rows", 1.0)):
        if (alphas - alpha).abs().max() < NEAR:
            yield fault(name, f"expected alphas in [0, 1], got {alpha:g} in every row")
            return
    yield from _drawn(alphas, ask, dtype)


def _alphas(points: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    real, fake = real.flatten(1), fake.flatten(1)
    return ((points.flatten(1) - real) / (fake - real))[:, 1:]


def _drawn(alphas: Tensor, ask: Ask, dtype: torch.dtype) -> Iterator[Fault]:
    drawn, independent = alphas, len(alphas)
    if (alphas.max(1).values - alphas.min(1).values).max() > NEAR:
        independent = min(independent, alphas.round(decimals=4).unique().numel())  # all rows may share them
        yield fault("one alpha per element", f"expected one alpha per sample, got {_few(alphas[0])} in the first")
    elif _is_constant(alphas):
        pair = _pair(4, dtype)
        drawn, independent = torch.stack([_alphas(ask(*pair), *pair)[0, 0] for _ in range(100)]), 100
        if not _is_constant(drawn):
            yield fault("one alpha for the whole batch", f"expected one alpha per sample, got {_few(alphas[:, 0])} in the rows")
    if drawn.min() < -NEAR or drawn.max() > 1 + NEAR or not is_drawn_from(drawn, UNIT, independent):
        shown = f"got alphas from {drawn.min():.3g} to {drawn.max():.3g} with mean {drawn.mean():.3g}"
        yield fault("alpha not uniform in [0, 1]", f"expected a mean of 0.5, {shown}")


def _few(x: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in x.flatten()[:4].tolist()) + ", ..."


def at_rows(ask: Ask, dtype: torch.dtype) -> Iterator[Fault]:
    """Whether points are the given rows."""
    given = rows((5, 2, 3, 4), 1.0, dtype, seed=3)
    off = (ask(given, given) - given).abs().max().item()
    if not off < NEAR:
        yield fault("taken at the wrong points", f"expected the given rows, asked up to {off:.3g} away from them")


UNIT = uniform(0.0, 1.0)


@dataclass(frozen=True)
class Noise:
    """DRAGAN's points: real + scale * spread(real) * numbers of a distribution."""

    scale: float
    spread: Callable[[Tensor], Tensor] = torch.std
    distribution: Distribution = UNIT

    def made(self, points: Tensor, real: Tensor) -> bool:
        drawn = (points - real) / (self.scale * self.spread(real))
        return is_drawn_from(drawn, self.distribution, len(real))


def _std_of_samples(x: Tensor) -> Tensor:
    return x.flatten(1).std(1).reshape(-1, *[1] * (x.dim() - 1))


NOISE_MISTAKES = (
    Mistake("noise normal instead of uniform", {"distribution": torch.special.ndtr}),
    Mistake("noise centred on the real rows", {"distribution": uniform(-0.5, 0.5)}),
    Mistake("noise centred on the real rows", {"distribution": uniform(-1.0, 1.0)}),
    Mistake("std of each feature instead of the whole batch", {"spread": lambda x: x.std(0, keepdim=True)}),
    Mistake("std of each sample instead of the whole batch", {"spread": _std_of_samples}),
    Mistake("std ignored", {"spread": torch.ones_like}),
    Mistake("std_scale ignored", {"scale": 1.0}),
)


def around_real(ask: Ask, dtype: torch.dtype, std_scale: float) -> Iterator[Fault]:
    """Whether points are real + std_scale * std(real) * u, with u uniform in [0, 1) in every element."""
    real = 5.0 * normal(*MANY, dtype=dtype, seed=4) + 3.0
    real.flatten(1)[:, ::2] *= 0.1  # features and samples of different spread
    real[::2] *= 0.2
    points = ask(real, real)
    noise = (points - real) / (std_scale * real.std())
    if noise.abs().max() < NEAR:
        yield fault("taken at the real rows", "expected noise around them, asked at the rows themselves")
        return
    if (noise.flatten(1).max(1).values - noise.flatten(1).min(1).values).max() < NEAR:
        yield fault("one noise value per sample", f"expected one per element, got {_few(noise[0])} in the first sample")
        return
    found = explain(Noise(std_scale), NOISE_MISTAKES, lambda noise: noise.made(points, real))
    names = [mistake.name for mistake in found[1]] if found else ["noise not uniform in [0, 1)"]
    shown = f"got noise / (std_scale * std) from {noise.min():.3g} to {noise.max():.3g} with mean {noise.mean():.3g}"
    for name in names:
        yield fault(name, f"expected 0 to 1 with mean 0.5, {shown}")
