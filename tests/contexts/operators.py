"""The operators that people call from their own loops, each beside plain torch, as calls of a critic on real and fake rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import losses, penalties
from fastgan.mlp import MLP

Critic = Callable[[Tensor], Tensor]
Call = Callable[[Critic, Tensor, Tensor], Tensor]

ROWS, SHAPE = 4, (2, 4, 4)


def conv_critic() -> nn.Module:
    """Smooth units and weights that rows share: what has no closed form."""
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1))


def mlp_critic() -> nn.Module:
    """A chain whose penalties have a closed form."""
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.LeakyReLU(0.2), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))


def fused_critic() -> nn.Module:
    """The same chain in fastgan's layers."""
    return MLP.from_sequential(mlp_critic())


class Operator(NamedTuple):
    """What fastgan computes, what plain torch does, and of which critic."""

    fastgan: Call
    torch: Call
    critic: Callable[[], nn.Module] = conv_critic


def plain_d(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()


def plain_average(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    r, f = critic(real), critic(fake)
    return F.softplus(f.mean() - r).mean() + F.softplus(f - r.mean()).mean()


def plain_bce(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    logits = critic(real)
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def labels(rows: Tensor) -> Tensor:
    return torch.linspace(0, 1, len(rows), dtype=rows.dtype, device=rows.device).unsqueeze(1)


def fastgan_labels(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    logits = critic(real)
    return losses.binary_cross_entropy_with_logits(logits, labels(real).to(logits.dtype))


def plain_labels(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    logits = critic(real)
    return F.binary_cross_entropy_with_logits(logits, labels(real).to(logits.dtype))


def alphas(rows: Tensor) -> Tensor:
    return torch.linspace(0.1, 0.9, len(rows), dtype=rows.dtype, device=rows.device)


def plain_gradient(critic: Critic, points: Tensor) -> Tensor:
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return gradient.flatten(1)


def plain_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    alpha = alphas(real).view(-1, 1, 1, 1)
    return 10 * (plain_gradient(critic, real + alpha * (fake - real)).norm(2, dim=1) - 1).square().mean()


def fastgan_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return penalties.gradient_penalty(critic, real, fake, alpha=alphas(real))


def fastgan_r2(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return penalties.r2_penalty(critic, fake, gamma=3.0)


def fastgan_r1(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return penalties.r1_penalty(critic, real, gamma=3.0)


def plain_r1(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return 1.5 * plain_gradient(critic, real).square().sum(1).mean()


def fastgan_dragan(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Its noise is drawn, and multiplied by 0."""
    return penalties.dragan_penalty(critic, real, weight=2.0, std_scale=0.0)


def plain_dragan(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return 2 * (plain_gradient(critic, real).norm(2, dim=1) - 1).square().mean()


def squared(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Of layers: fastgan's own or torch's, whichever the critic is made of."""
    return critic(real).square().mean()


def fastgan_rows(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """A loss for each row, whose derivatives have weights of their own."""
    return (labels(real) * losses.d_loss(critic(real), critic(fake), "hinge", reduction="none")).sum()


def plain_rows(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    return (labels(real) * (F.relu(1 - critic(real)) + F.relu(1 + critic(fake)))).sum()


def fastgan_weighted(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    weights = labels(real)
    return losses.binary_cross_entropy_with_logits(critic(real), 0.9, weights, pos_weight=weights[:1] + 2)


def plain_weighted(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    logits, weights = critic(real), labels(real)
    target = torch.full_like(logits, 0.9)
    return F.binary_cross_entropy_with_logits(logits, target, weights, pos_weight=weights[:1] + 2)


OPERATORS = {
    "d_loss": Operator(lambda c, r, f: losses.d_loss(c(r), c(f)), plain_d),
    "g_loss": Operator(lambda c, r, f: losses.g_loss(c(f)), lambda c, r, f: F.softplus(-c(f)).mean()),
    "d_loss, compared": Operator(lambda c, r, f: losses.d_loss(c(r), c(f), "relativistic-average"), plain_average),
    "d_loss, paired": Operator(
        lambda c, r, f: losses.d_loss(c(r), c(f), "relativistic"), lambda c, r, f: F.softplus(c(f) - c(r)).mean()
    ),
    "d_loss, smoothed": Operator(
        lambda c, r, f: losses.d_loss(c(r), c(f), label_smoothing=0.1),
        lambda c, r, f: (F.softplus(-c(r)) + 0.1 * c(r)).mean() + F.softplus(c(f)).mean(),
    ),
    "d_loss, rows": Operator(fastgan_rows, plain_rows),
    "d_loss, sum": Operator(
        lambda c, r, f: losses.lsgan_d_loss(c(r), c(f), reduction="sum"),
        lambda c, r, f: (c(r) - 1).square().sum() + c(f).square().sum(),
    ),
    "d_loss_with_statistics": Operator(lambda c, r, f: losses.d_loss_with_statistics(c(r), c(f))[0], plain_d),
    "GANLoss": Operator(lambda c, r, f: losses.GANLoss("lsgan")(c(r), True), lambda c, r, f: (c(r) - 1).square().mean()),
    "bce, a float": Operator(lambda c, r, f: losses.binary_cross_entropy_with_logits(c(r), 1.0), plain_bce),
    "bce, labels": Operator(fastgan_labels, plain_labels),
    "bce, weights": Operator(fastgan_weighted, plain_weighted),
    "BCEWithLogitsLoss": Operator(lambda c, r, f: losses.BCEWithLogitsLoss()(c(r), 1.0), plain_bce),
    "gradient_penalty": Operator(fastgan_penalty, plain_penalty),
    "r1_penalty": Operator(fastgan_r1, plain_r1),
    "r2_penalty": Operator(fastgan_r2, lambda c, r, f: plain_r1(c, f, r)),
    "dragan_penalty": Operator(fastgan_dragan, plain_dragan),
    "gradient_penalty, closed form": Operator(fastgan_penalty, plain_penalty, mlp_critic),
    "r1_penalty, closed form": Operator(fastgan_r1, plain_r1, fused_critic),
    "MLP": Operator(squared, squared, fused_critic),
}


def rows(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Real and fake rows."""
    generator = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(ROWS, *SHAPE, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return real, fake


def critic_of(operator: Operator, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The operator's critic, the same at every call."""
    torch.manual_seed(3)
    return operator.critic().to(dtype)


def plain(critic: nn.Module) -> nn.Module:
    """The critic in torch's own modules, on the same parameters."""
    return critic.to_sequential() if isinstance(critic, MLP) else critic


def half(rank: int) -> tuple[Tensor, Tensor]:
    """The rows of one of two processes: as many as a batch has, and others in each."""
    return rows(seed=10 + rank)


def plain_game(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """What a penalty stands beside: a loss that all of the critic's parameters take part in."""
    return critic(fake).mean() - 0.5 * critic(real).square().mean()
