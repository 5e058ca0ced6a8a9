"""Other ways to play the article's game, each as fast as its tools allow, behind one protocol.

A peer is a class that takes a `Setup` and is then a `Player`. Peers of torch, which import nothing but torch, load at once; one
whose library is missing raises ImportError when its module is asked for.
"""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Z_DIM, PIXELS = 100, 784
GENERATOR, DISCRIMINATOR = (Z_DIM, 256, 512, 1024, PIXELS), (PIXELS, 1024, 512, 256, 1)
SLOPE = 0.2

Layers = list[tuple[Tensor, Tensor]]  # (weight [out, in], bias [out]) of each layer


class Work(NamedTuple):
    """What one step does: d_steps discriminator updates, each on its own rows, then a generator update with fresh latents."""

    d_steps: int
    lr: float
    betas: tuple[float, float]
    penalty: float  # the gradient penalty's weight on a Wasserstein loss; 0 is the nonsaturating loss without penalty


WORKS = {"standard": Work(1, 2e-4, (0.5, 0.999), 0.0), "wgan-gp": Work(5, 1e-4, (0.5, 0.9), 10.0)}


def weights_of(sizes: tuple[int, ...]) -> list[int]:
    """How many weights each layer has."""
    return [inputs * outputs for inputs, outputs in itertools.pairwise(sizes)]


def flops(work: Work, batch: int) -> float:
    """Floating-point operations of the products that a step in closed form has: what all players are measured by."""
    g, d = weights_of(GENERATOR), weights_of(DISCRIMINATOR)
    adjoint = sum(d[1:-1])  # the last layer's has one row for all samples
    points = sum(d) + adjoint + d[0] + sum(d[:-1]) + sum(d) if work.penalty else 0  # there, with input gradient and tangents
    update_d = sum(g) + 2 * (sum(d) + adjoint + sum(d)) + points
    update_g = sum(g) + sum(d) + adjoint + d[0] + sum(g[1:]) + sum(g)
    return 2.0 * batch * (work.d_steps * update_d + update_g)


class Batch(NamedTuple):
    """What one update is played on: real rows [B, 784] in [-1, 1], latents [B, 100], interpolation weights [B, 1]."""

    real: Any  # a tensor, or another library's array
    latents: Any
    alpha: Any


@dataclass(frozen=True)
class Setup:
    """What a player is made from. images: uint8 [N, 784]; precision: of matrix products, fp32, tf32 or bf16."""

    work: Work
    batch: int
    images: Tensor
    precision: str = "fp32"
    dropout: float = 0.3
    seed: int = 0

    @cached_property
    def weights(self) -> tuple[Layers, Layers]:
        """Initial weights of the generator and the discriminator, the same for every player (He et al.), biases 0."""
        random = torch.Generator().manual_seed(self.seed)
        return tuple(
            [
                (torch.randn(rows, columns, generator=random) * math.sqrt(2.0 / columns), torch.zeros(rows))
                for columns, rows in itertools.pairwise(sizes)
            ]
            for sizes in (GENERATOR, DISCRIMINATOR)
        )  # type: ignore[return-value]


class Player(Protocol):
    """The article's networks as one library builds them."""

    def play(self, steps: int) -> Any:
        """Plays whole steps on draws of its own; returns the last D loss, a 0-d array that may still be under way."""

    def first_losses(self, batches: list[Batch]) -> list[float]:
        """The losses of a D update on each batch but the last, then of a G update and of another on the last one's latents."""


class Candidate(NamedTuple):
    """A peer's name in tables, where it is written, and what it plays."""

    name: str
    place: str  # module:class
    precision: str = "fp32"
    works: tuple[str, ...] = tuple(WORKS)

    @property
    def compiles(self) -> bool:
        """Whether a library's compiler takes most of a minute before its first step."""
        return self.place in COMPILED

    def load(self) -> type:
        """Its class; ImportError where its library is missing."""
        module, name = self.place.split(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)


COMPILED = (
    "compiled:Compiled",
    "graphed:GraphedCompiled",
    "graphed:GraphedAutotuned",
    "jax_jit:Jax",
    "jax_jit:JaxRbg",
)
# on a CPU, in the order of tables
CPU_CANDIDATES = (
    Candidate("article", "article:Article", works=("standard",)),
    Candidate("eager", "eager:Eager"),
    Candidate("eager bf16", "eager:Eager", "bf16"),
    Candidate("compile", "compiled:Compiled"),
    Candidate("compile bf16", "compiled:Compiled", "bf16"),
    Candidate("jax", "jax_jit:Jax"),
    Candidate("jax bf16", "jax_jit:Jax", "bf16"),
    Candidate("fastgan bf16", "trainer:Auto", "bf16"),
    Candidate("fastgan fp32", "trainer:Auto", "fp32"),
    Candidate("fastgan autograd", "trainer:Autograd", "bf16"),
)
# on a GPU, the ones that matter most first: where time is short, the last are left out
CUDA_CANDIDATES = (
    Candidate("fastgan bf16", "trainer:Auto", "bf16"),
    Candidate("compile graph bf16", "graphed:GraphedCompiled", "bf16"),
    Candidate("jax bf16", "jax_jit:Jax", "bf16"),
    Candidate("graph bf16", "graphed:GraphedEager", "bf16"),
    Candidate("eager bf16", "eager:Eager", "bf16"),
    Candidate("fastgan tf32", "trainer:Auto", "tf32"),
    Candidate("compile graph tf32", "graphed:GraphedCompiled", "tf32"),
    Candidate("graph tf32", "graphed:GraphedEager", "tf32"),
    Candidate("article", "article:Article", works=("standard",)),
    Candidate("eager tf32", "eager:Eager", "tf32"),
    Candidate("fastgan autograd", "trainer:Autograd", "bf16"),
    Candidate("compile bf16", "compiled:Compiled", "bf16"),
    Candidate("jax rbg bf16", "jax_jit:JaxRbg", "bf16"),
    Candidate("jax tf32", "jax_jit:Jax", "tf32"),
    Candidate("fastgan fp32", "trainer:Auto", "fp32"),
    Candidate("graph", "graphed:GraphedEager"),
    Candidate("eager", "eager:Eager"),
    Candidate("compile graph", "graphed:GraphedCompiled"),
    Candidate("compile", "compiled:Compiled"),
    Candidate("jax", "jax_jit:Jax"),
)
# minutes of compilation: timed where they are asked for by name
SLOW_CANDIDATES = (Candidate("autotuned graph bf16", "graphed:GraphedAutotuned", "bf16"),)


def candidates(device: str) -> tuple[Candidate, ...]:
    """Who is compared on a device type."""
    return CUDA_CANDIDATES if device == "cuda" else CPU_CANDIDATES


def named(name: str, device: str) -> Candidate:
    """The candidate of a name; ValueError where there is none."""
    known = {candidate.name: candidate for candidate in candidates(device) + SLOW_CANDIDATES}
    if name not in known:
        raise ValueError(f"there is no candidate {name!r} on this device; choose of {', '.join(known)}")
    return known[name]
