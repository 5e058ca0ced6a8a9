"""Two multilayer perceptrons, torch.optim.Adam and a loop of one's own; the losses are fastgan's.

python examples/mlp_gan.py --steps 3000 --out runs/mlp
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from fastgan import data, losses
from fastgan.mlp import MLP

LATENT, SIDE = 64, 28


class Generator(nn.Module):
    """Latents [B, LATENT] -> images [B, 1, SIDE, SIDE] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Linear(LATENT, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Linear(256, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, SIDE * SIDE),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z).view(-1, 1, SIDE, SIDE)


class Discriminator(nn.Module):
    """Images [B, 1, SIDE, SIDE] -> logits [B, 1]."""

    def __init__(self) -> None:
        super().__init__()
        # no Sigmoid at the end: the losses take logits
        self.main = MLP((SIDE * SIDE, 512, 256, 1), activation="leaky_relu", dropout=0.3)

    def forward(self, images: Tensor) -> Tensor:
        return self.main(images.flatten(1))


def train(options: argparse.Namespace, device: torch.device) -> tuple[Generator, dict[str, float]]:
    """Plays the game; the generator and what was last logged."""
    images = data.load("digits").images.to(device).float() / 127.5 - 1
    generator, discriminator = Generator().to(device), Discriminator().to(device)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    metrics: dict[str, float] = {}

    for step in range(1, options.steps + 1):
        real = images[torch.randint(len(images), (options.batch,), device=device)]
        fake = generator(torch.randn(options.batch, LATENT, device=device))

        d_loss, statistics = losses.d_loss_with_statistics(discriminator(real), discriminator(fake.detach()))
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        g_loss = losses.g_loss(discriminator(fake))
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()

        if step % options.log_every == 0 or step == options.steps:
            # the statistics are tensors until here: only a step that logs waits for the device
            metrics = {"d_loss": d_loss.item(), "g_loss": g_loss.item(), **statistics.numbers()}
            print(f"step {step:6d}  " + "  ".join(f"{name} {value:+.3f}" for name, value in metrics.items()))
    return generator, metrics


@torch.no_grad()
def save_samples(generator: Generator, folder: Path, device: torch.device) -> None:
    """An 8 by 8 grid of samples, in folder/samples.png."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = generator.eval()(torch.randn(64, LATENT, device=device))
    save_image(samples, folder / "samples.png", nrow=8, normalize=True, value_range=(-1, 1))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """The command line; what was last logged."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--out", type=Path, help="folder for a grid of samples")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if options.device == "auto" else options.device)
    generator, metrics = train(options, device)
    if options.out:
        save_samples(generator, options.out, device)
    return metrics


if __name__ == "__main__":
    main()
