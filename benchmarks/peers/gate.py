"""Correctness before time: whoever is timed plays the same game, or is refused.

Two checks. Without dropout, from the same weights and on the same draws, the first losses equal those of a plain fp64 loop:
they stand before and after updates of both networks, so gradients, the penalty's second derivatives and Adam are checked too.
With dropout, after some steps on a few digits, the D loss lies where eager torch's does.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import PIXELS, Z_DIM, Batch, Candidate, Setup, networks
from benchmarks.peers.eager import Eager, gradient_penalty

BATCH = 64
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 2e-2}  # of a loss, relative to the largest of the first losses
UPDATES = 3
STEPS = {"standard": 200, "wgan-gp": 30}
SET = 256  # digits that the second check is played on


class Wrong(AssertionError):
    """A candidate does not play the game that it is timed on."""


class Reference:
    """The game in fp64, one line for each line of its definition, without dropout."""

    def __init__(self, setup: Setup) -> None:
        self.work = setup.work
        g_layers, d_layers = setup.weights
        self.generator, self.discriminator = (
            networks.generator(g_layers).double(),
            networks.discriminator(d_layers, 0.0).double(),
        )
        options: dict[str, Any] = dict(lr=setup.work.lr, betas=setup.work.betas, foreach=False)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), **options)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), **options)

    def update_discriminator(self, batch: Batch) -> float:
        real, latents, alpha = (tensor.double() for tensor in batch)
        fake = self.generator(latents).detach()
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        if self.work.penalty:
            penalty = gradient_penalty(self.discriminator, real + alpha * (fake - real))
            loss = fake_logits.mean() - real_logits.mean() + self.work.penalty * penalty
        else:
            loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        return self._descend(loss, self.d_optimizer)

    def update_generator(self, latents: Tensor) -> float:
        logits = self.discriminator(self.generator(latents.double()))
        return self._descend(-logits.mean() if self.work.penalty else F.softplus(-logits).mean(), self.g_optimizer)

    @staticmethod
    def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def first_losses(self, batches: list[Batch]) -> list[float]:
        losses = [self.update_discriminator(batch) for batch in batches[:-1]]
        return losses + [self.update_generator(batches[-1].latents) for _ in range(2)]


def _batches(setup: Setup) -> list[Batch]:
    random = torch.Generator().manual_seed(1)
    real = setup.images[:BATCH].cpu().float() / 127.5 - 1.0
    batch = Batch(real, torch.randn(BATCH, Z_DIM, generator=random), torch.rand(BATCH, 1, generator=random))
    assert real.shape == (BATCH, PIXELS)
    # the same rows each time, so that a later loss says what the updates before it did
    return [batch] * (UPDATES + 1)


def _compare(name: str, setup: Setup, losses: list[float], exact: list[float]) -> float:
    scale = max(map(abs, exact))
    error = max(abs(loss - right) for loss, right in zip(losses, exact, strict=True)) / scale
    if not error <= TOLERANCE[setup.precision]:
        raise Wrong(f"{name}: first losses {losses}, in fp64 {exact}")
    return error


def check_first_losses(candidate: Candidate, setup: Setup) -> float:
    """The largest error of the first losses, relative to the largest loss; Wrong where it is too large."""
    setup = replace(setup, dropout=0.0)
    player = candidate.load()(setup)
    if hasattr(player, "drawn"):
        return _check_own_draws(candidate, setup, player)
    batches = _batches(setup)
    return _compare(candidate.name, setup, player.first_losses(batches), Reference(setup).first_losses(batches))


def _check_own_draws(candidate: Candidate, setup: Setup, player: Any) -> float:
    """A player that draws by itself: the losses of its first steps against the reference on the draws that it says it took."""
    reference, losses, exact = Reference(setup), [], []
    # few updates: free runs of two correct programs drift apart
    for step in range(1 + -(-UPDATES // setup.work.d_steps)):
        batches, latents = player.drawn(step)
        exact += [[reference.update_discriminator(batch) for batch in batches][-1], reference.update_generator(latents)]
        losses += player.losses()
    return _compare(candidate.name, setup, losses, exact)


def check_band(candidate: Candidate, setup: Setup, steps: int) -> tuple[float, float]:
    """The mean D loss of the last third of some steps, and eager's; Wrong where they are far apart."""
    torch.manual_seed(0)
    setup = replace(setup, images=setup.images[:SET])
    mine, eagers = (_play(player, steps) for player in (candidate.load()(setup), Eager(replace(setup, precision="fp32"))))
    middle, spread = statistics.mean(eagers), statistics.stdev(eagers)
    found = statistics.mean(mine)
    if not abs(found - middle) <= 3.0 * spread + 0.1 * abs(middle):
        raise Wrong(f"{candidate.name}: D loss {found:.4f} after {steps} steps, eager's {middle:.4f} (spread {spread:.4f})")
    return found, middle


def _play(player: Any, steps: int) -> list[float]:
    losses = [float(player.play(1)) for _ in range(steps)]
    if not all(map(math.isfinite, losses)):
        raise Wrong(f"{type(player).__name__}: a D loss is not finite")
    return losses[-steps // 3 :]


def check(candidate: Candidate, name: str, setup: Setup) -> str:
    """Both checks for one work, at batches of 64; a line that says what was found. The article's loop is another game."""
    if candidate.name == "article":
        losses = _play(candidate.load()(setup), 10)
        return f"another game, D loss {losses[-1]:.3f}"
    error = check_first_losses(candidate, setup)
    found, eagers = check_band(candidate, setup, STEPS[name])
    return f"first losses within {error:.1e}, D loss {found:.3f} (eager {eagers:.3f})"
