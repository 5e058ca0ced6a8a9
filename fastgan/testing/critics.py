"""Critics whose input gradient is known exactly, and the rows to ask them at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Score = Callable[[Tensor], Tensor]

# no row comes near them, so every unit of the piecewise linear critic has a known slope
BIASES = (100.0, -100.0, 100.0, -100.0)
SLOPES = (1.0, 0.2, 1.0, 0.2)


def _plain(x: Tensor) -> Tensor:
    """The numbers of a tensor that torch.func may have wrapped: of a vmap, all rows at once."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.detach().clone()


class Recorder(nn.Module):
    """A critic [B, ...] -> [B, 1] that keeps the points it was asked at."""

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score
        self.asked: list[tuple[Tensor, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append((_plain(x), x.requires_grad))
        return self.score(x)

    def points(self, like: Tensor) -> Tensor | None:
        """Where the gradient was taken last, in one call or row by row, as rows like those given; None if nowhere."""
        asked = [x for x, differentiated in self.asked if differentiated] or [x for x, _ in self.asked]
        together = [asked[-1], torch.cat([x.flatten() for x in asked])] if asked else []
        return next((x.reshape(like.shape) for x in together if x.numel() == like.numel()), None)


def quadratic(x: Tensor) -> Tensor:
    """D(x) = |x|^2 / 2, whose gradient is x itself."""
    return 0.5 * x.flatten(1).square().sum(1, keepdim=True)


def linear(weight: Tensor) -> Score:
    """D(x) = <weight, x>, whose gradient is the weight everywhere; of rows in any shape of as many numbers."""
    return lambda x: (x.reshape(-1, *weight.shape) * weight).flatten(1).sum(1, keepdim=True)


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same for every dtype."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def direction(shape: tuple[int, ...], norm: float, dtype: torch.dtype) -> Tensor:
    """One sample's worth of numbers, of that norm."""
    weight = normal(*shape[1:], dtype=torch.float64)
    return (norm * weight / weight.square().sum().sqrt()).to(dtype)


def rows(shape: tuple[int, ...], unit: float, dtype: torch.dtype, seed: int) -> Tensor:
    """Rows [B, ...] whose norms go from 0.3 to 2 times the unit."""
    x = normal(*shape, dtype=torch.float64, seed=seed).flatten(1)
    norms = torch.linspace(0.3, 2.0, shape[0], dtype=torch.float64)
    return (unit * norms[:, None] * x / x.square().sum(1, keepdim=True).sqrt()).reshape(shape).to(dtype)


class PiecewiseLinear:
    """D(x) = v leaky_relu(U x + b), an nn.Sequential with parameters; each unit is far from its kink."""

    def __init__(self, shape: tuple[int, ...], norm: float, dtype: torch.dtype) -> None:
        features = math.prod(shape[1:])
        self.first, self.last = nn.Linear(features, 4, dtype=dtype), nn.Linear(4, 1, dtype=dtype)
        self.critic = nn.Sequential(nn.Flatten(), self.first, nn.LeakyReLU(0.2), self.last)
        self.weights: list[Tensor] = [self.last.weight, self.first.weight]
        with torch.no_grad():
            self.first.weight.copy_(normal(4, features, dtype=dtype, seed=1) / features)
            self.first.bias.copy_(torch.tensor(BIASES))
            self.last.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 1.5]]))
            self.last.weight.mul_(norm / self.gradient(shape)[0].square().sum().sqrt())

    def gradient(self, shape: tuple[int, ...]) -> Tensor:
        """The input gradient [B, ...], U^T (slopes v) in every row; differentiable by the weights."""
        slopes = torch.tensor(SLOPES, dtype=self.last.weight.dtype)
        return ((slopes * self.last.weight) @ self.first.weight).expand(shape[0], -1).reshape(shape)


def moderate(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Sequential:
    """A critic with parameters, whose logits lie between -1 and 1 for rows of norm 1, where no loss is flat."""
    features = math.prod(shape[1:])
    first, last = nn.Linear(features, 8, dtype=dtype), nn.Linear(8, 1, dtype=dtype)
    with torch.no_grad():
        first.weight.copy_(normal(8, features, dtype=dtype, seed=1) / features**0.5)
        last.weight.copy_(normal(1, 8, dtype=dtype, seed=2) / 8)
        first.bias.zero_()
        last.bias.zero_()
    return nn.Sequential(nn.Flatten(), first, nn.LeakyReLU(0.2), last)


def state_of(critic: nn.Module) -> dict[str, Any]:
    """What a call of anything leaves as it was: training modes, requires_grad and weights, by their names."""
    modes = {f"{name or 'critic'}.training": module.training for name, module in critic.named_modules()}
    wanted = {f"{name}.requires_grad": parameter.requires_grad for name, parameter in critic.named_parameters()}
    return modes | wanted | {name: parameter.detach().tolist() for name, parameter in critic.named_parameters()}


def changes_of(critic: nn.Module, before: dict[str, Any]) -> list[str]:
    """The names of what is no more as it was."""
    return [name for name, value in state_of(critic).items() if value != before[name]]
