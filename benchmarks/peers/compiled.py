"""torch.compile of whole updates: torch.func takes the gradients inside the compiled graph, the penalty's inner one as well."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value

from benchmarks.peers import Batch, Setup
from benchmarks.peers.eager import Eager

Weights = dict[str, Tensor]
EPSILON = 1e-8


class Adam:
    """torch.optim.Adam's formula over a network's weights, in place, written for the compiler to fuse."""

    def __init__(self, weights: Weights, lr: float, betas: tuple[float, float]) -> None:
        self.weights, self.lr, self.betas = weights, lr, betas
        self.means = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.count = torch.zeros((), device=next(iter(weights.values())).device)

    def step(self, gradients: Weights) -> None:
        beta1, beta2 = self.betas
        self.count += 1
        size, scale = self.lr / (1.0 - beta1**self.count), 1.0 / (1.0 - beta2**self.count)
        for name, gradient in gradients.items():
            mean, square = self.means[name], self.squares[name]
            mean.lerp_(gradient, 1.0 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
            self.weights[name].sub_(size * mean / ((square * scale).sqrt() + EPSILON))


def _weights(network: nn.Module) -> Weights:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


class Compiled(Eager):
    """Eager's game as two compiled updates; Adam is in their graphs where that is faster than torch's fused one after them."""

    mode: str | None = None  # of torch.compile

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.g_adam = Adam(_weights(self.generator), self.work.lr, self.work.betas)
        self.d_adam = Adam(_weights(self.discriminator), self.work.lr, self.work.betas)
        self.adam_inside = not (setup.work.penalty and setup.precision == "fp32")
        self.compiled_d, self.compiled_g = self._compile(self._update_d), self._compile(self._update_g)

    def _compile(self, update: Callable) -> Callable:
        return torch.compile(update, mode=self.mode)

    def update_discriminator(self, batch: Batch) -> Tensor:
        loss, gradients = self.compiled_d(self.g_adam, self.d_adam, *batch)
        return self._finish(loss, gradients, self.discriminator, self.d_optimizer)

    def update_generator(self, latents: Tensor) -> Tensor:
        loss, gradients = self.compiled_g(self.g_adam, self.d_adam, latents)
        return self._finish(loss, gradients, self.generator, self.g_optimizer)

    def _finish(self, loss: Tensor, gradients: Weights, network: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        if gradients:
            for name, parameter in network.named_parameters():
                parameter.grad = gradients[name]
            optimizer.step()
        return loss

    def _update_d(self, g: Adam, d: Adam, real: Tensor, latents: Tensor, alpha: Tensor) -> tuple[Tensor, Weights]:
        with self.arithmetic():
            fake = functional_call(self.generator, g.weights, latents).float()

        def loss(weights: Weights) -> Tensor:
            with self.arithmetic():
                real_logits, fake_logits = self._critic_logits(weights, torch.cat((real, fake))).chunk(2)
                if not self.work.penalty:
                    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
                # torch.compile refuses autograd's double backward, and takes torch.func's
                gradient = grad(lambda rows: self._critic_logits(weights, rows).sum())(torch.lerp(real, fake, alpha))
                penalty = (gradient.float().norm(dim=1) - 1.0).square().mean()
                return fake_logits.mean() - real_logits.mean() + self.work.penalty * penalty

        gradients, value = grad_and_value(loss)(d.weights)
        return value, self._apply(d, gradients)

    def _update_g(self, g: Adam, d: Adam, latents: Tensor) -> tuple[Tensor, Weights]:
        def loss(weights: Weights) -> Tensor:
            with self.arithmetic():
                logits = self._critic_logits(d.weights, functional_call(self.generator, weights, latents))
            return -logits.mean() if self.work.penalty else F.softplus(-logits).mean()

        gradients, value = grad_and_value(loss)(g.weights)
        return value, self._apply(g, gradients)

    def _apply(self, adam: Adam, gradients: Weights) -> Weights:
        """The gradients that are left to be applied."""
        if not self.adam_inside:
            return gradients
        adam.step(gradients)
        return {}

    def _critic_logits(self, weights: Weights, rows: Tensor) -> Tensor:
        return functional_call(self.discriminator, weights, rows).float()
