"""Manual optimization in the manner of Lightning, without it: a game that says what a step is, a runner that runs steps.

python examples/manual_optimization.py --steps 2000 --out runs/manual
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from fastgan import data, losses, penalties
from fastgan.mlp import MLP

LATENT, CLASSES, PIXELS = 64, 10, 28 * 28


class Generator(nn.Module):
    """Latents [B, LATENT] and labels [B] -> flat images [B, PIXELS] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, LATENT)
        hidden = nn.Linear(2 * LATENT, 512), nn.BatchNorm1d(512), nn.ReLU()
        self.main = nn.Sequential(*hidden, nn.Linear(512, PIXELS), nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.main(torch.cat((z, self.embed(labels)), dim=1))


class Critic(nn.Module):
    """Flat images [B, PIXELS] and labels [B] -> logits [B, 1]: features, and a linear head for each label."""

    def __init__(self) -> None:
        super().__init__()
        self.features = MLP((PIXELS, 512, 256), activation="leaky_relu", output="relu")
        self.heads = nn.Embedding(CLASSES, 256)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return (self.heads(labels) * self.features(images)).sum(dim=1, keepdim=True)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step along the loss's gradient by the optimizer's own parameters."""
    # loss.backward() in the generator's turn would also fill the critic's .grad, which is why loops toggle requires_grad or
    # place zero_grad() with care; asking for the gradients of one network alone needs neither, and computes no others
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()


class ConditionalGAN(nn.Module):
    """The networks, their optimizers and what is done with a batch: no device, no loop, no log."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = Generator(), Critic()
        self.loss = losses.GANLoss("nonsaturating")

    def configure_optimizers(self) -> None:
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.0, 0.99))
        self.d_optimizer = torch.optim.Adam(self.critic.parameters(), lr=2e-4, betas=(0.0, 0.99))

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        real, labels = batch
        fake = self.generator(torch.randn(len(real), LATENT, device=real.device), labels)
        d_loss = self.loss.d(self.critic(real, labels), self.critic(fake.detach(), labels))
        # a penalty takes any function of the images, so the labels are bound here; every fourth step, times four
        penalty = 4 * penalties.r1_penalty(lambda x: self.critic(x, labels), real, gamma=0.1) if step % 4 == 0 else 0.0
        descend(self.d_optimizer, d_loss + penalty)
        g_loss = self.loss.g(self.critic(fake, labels))
        descend(self.g_optimizer, g_loss)
        return {"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}


def run(game: ConditionalGAN, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """The runner: it owns the device, the loop and the log; what was last logged."""
    digits, metrics = data.load("digits").to(device), {}
    images = digits.images.flatten(1).float() / 127.5 - 1
    game.to(device).configure_optimizers()
    for step in range(1, options.steps + 1):
        rows = torch.randint(digits.size, (options.batch,), device=device)
        values = game.training_step((images[rows], digits.labels[rows]), step)
        if step % options.log_every == 0 or step == options.steps:
            metrics = {name: value.item() for name, value in values.items()}
            print(f"step {step:6d}  " + "  ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    return metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    """The command line; what was last logged."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("--steps", 2000), ("--batch", 64), ("--log-every", 100)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--out", type=Path, help="folder for a grid of samples")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if options.device == "auto" else options.device)
    game = ConditionalGAN()
    metrics = run(game, options, device)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        labels = torch.arange(CLASSES, device=device).repeat(8)  # a column for each digit
        with torch.no_grad():
            samples = game.generator.eval()(torch.randn(len(labels), LATENT, device=device), labels).view(-1, 1, 28, 28)
        save_image(samples, options.out / "samples.png", nrow=CLASSES, normalize=True, value_range=(-1, 1))
    return metrics


if __name__ == "__main__":
    main()
