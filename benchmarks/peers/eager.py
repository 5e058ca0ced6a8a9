"""Eager torch as it should be written: resident data, no wasted gradients, fused Adam, real and fake rows in one pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import Z_DIM, Batch, Setup, networks


class Eager:
    """One process's game in eager torch, in fp32, with tf32 products, or under bf16 autocast."""

    def __init__(self, setup: Setup) -> None:
        self.work, self.batch, self.images = setup.work, setup.batch, setup.images
        self.device, self.precision = setup.images.device, setup.precision
        g_layers, d_layers = setup.weights
        self.generator = networks.generator(g_layers).to(self.device)
        self.discriminator = networks.discriminator(d_layers, setup.dropout).to(self.device)
        self.g_optimizer, self.d_optimizer = self._adam(self.generator), self._adam(self.discriminator)

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        options: dict[str, Any] = dict(fused=True, capturable=self.device.type == "cuda")
        return torch.optim.Adam(network.parameters(), lr=self.work.lr, betas=self.work.betas, **options)

    def _choose_products(self) -> None:
        """fp32 products in tf32, where asked for: a setting of the process, which another player may have changed."""
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")

    def play(self, steps: int) -> Tensor:
        self._choose_products()
        for _ in range(steps):
            loss = self.step()
        return loss

    def step(self) -> Tensor:
        for _ in range(self.work.d_steps):
            loss = self.update_discriminator(self.draw())
        self.update_generator(self.latents())
        return loss

    def first_losses(self, batches: list[Batch]) -> list[float]:
        self._choose_products()
        batches = [Batch(*(tensor.to(self.device) for tensor in batch)) for batch in batches]
        losses = [self.update_discriminator(batch) for batch in batches[:-1]]
        return [float(loss) for loss in losses + [self.update_generator(batches[-1].latents) for _ in range(2)]]

    def latents(self) -> Tensor:
        return torch.randn(self.batch, Z_DIM, device=self.device)

    def draw(self) -> Batch:
        rows = torch.randint(len(self.images), (self.batch,), device=self.device)
        real = self.images[rows].float().div_(127.5).sub_(1.0)
        alpha = torch.rand(self.batch, 1, device=self.device) if self.work.penalty else real[:, :1]
        return Batch(real, self.latents(), alpha)

    def arithmetic(self) -> contextlib.AbstractContextManager:
        """Matrix products in the precision asked for."""
        bf16 = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

    def update_discriminator(self, batch: Batch) -> Tensor:
        with self.arithmetic():
            with torch.no_grad():
                fake = self.generator(batch.latents).float()
            loss = self.d_loss(batch.real, fake, batch.alpha)
        return self._descend(loss, self.discriminator, self.d_optimizer)

    def update_generator(self, latents: Tensor) -> Tensor:
        with self.arithmetic():
            loss = self.g_loss(latents)
        return self._descend(loss, self.generator, self.g_optimizer)

    @staticmethod
    def _descend(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        parameters = list(network.parameters())
        # only this network's gradients: backward() would make the other's as well
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        return loss.detach()

    def d_loss(self, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        """Real and fake rows pass together, the penalty's points by themselves."""
        real_logits, fake_logits = self.discriminator(torch.cat((real, fake))).float().chunk(2)
        if not self.work.penalty:
            return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        penalty = gradient_penalty(self.discriminator, torch.lerp(real, fake, alpha))
        return fake_logits.mean() - real_logits.mean() + self.work.penalty * penalty

    def g_loss(self, latents: Tensor) -> Tensor:
        logits = self.discriminator(self.generator(latents)).float()
        return -logits.mean() if self.work.penalty else F.softplus(-logits).mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """mean (|grad D(x)| - 1)^2 over rows of points [B, 784], by double backward."""
    points = points.requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return (gradient.float().norm(dim=1) - 1.0).square().mean()
