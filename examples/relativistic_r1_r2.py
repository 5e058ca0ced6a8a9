"""R3GAN's game in a loop of one's own: the relativistic loss with R1 and R2, and an average of the generator's weights.

python examples/relativistic_r1_r2.py --steps 2000 --out runs/relativistic
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import save_image

from fastgan import data, losses, penalties
from fastgan.mlp import MLP

LATENT, SIDE = 64, 28


def build_generator() -> nn.Module:
    """Latents [B, LATENT] -> flat images [B, SIDE * SIDE] in [-1, 1]."""
    return MLP((LATENT, 256, 512, SIDE * SIDE), activation="leaky_relu", output="tanh")


def build_critic() -> nn.Module:
    """Flat images [B, SIDE * SIDE] -> logits [B, 1]; a chain of Linear layers, so that penalties need no double backward."""
    return nn.Sequential(
        nn.Linear(SIDE * SIDE, 512),
        nn.LeakyReLU(0.2),
        nn.Linear(512, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 1),
    )


def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor, gamma: float) -> dict[str, Tensor]:
    """The parts of the critic's loss; the relativistic one compares the i-th real with the i-th fake sample."""
    return {
        "d_loss": losses.relativistic_d_loss(critic(real), critic(fake)),
        "r1": penalties.r1_penalty(critic, real, gamma=gamma),
        "r2": penalties.r2_penalty(critic, fake, gamma=gamma),
    }


def generator_loss(critic: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """The same comparison from the other side: the generator's loss needs the real logits too."""
    return {"g_loss": losses.relativistic_g_loss(critic(fake), real=critic(real))}


def descend(optimizer: torch.optim.Optimizer, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """One step along the sum of a loss's parts; the parts without their graph."""
    optimizer.zero_grad()
    torch.stack(list(parts.values())).sum().backward()
    optimizer.step()
    return {name: part.detach() for name, part in parts.items()}


def train(options: argparse.Namespace, device: torch.device) -> tuple[nn.Module, dict[str, float]]:
    """Plays the game; the averaged generator and what was last logged."""
    images = data.load("digits").images.flatten(1).to(device).float() / 127.5 - 1
    generator, critic = build_generator().to(device), build_critic().to(device)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(options.ema))
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=options.lr, betas=(0.0, 0.99))
    d_optimizer = torch.optim.Adam(critic.parameters(), lr=options.lr, betas=(0.0, 0.99))
    metrics: dict[str, float] = {}

    for step in range(1, options.steps + 1):
        real = images[torch.randint(len(images), (options.batch,), device=device)]
        fake = generator(torch.randn(options.batch, LATENT, device=device))
        values = descend(d_optimizer, critic_loss(critic, real, fake.detach(), options.gamma))
        values |= descend(g_optimizer, generator_loss(critic, real, fake))
        average.update_parameters(generator)

        if step % options.log_every == 0 or step == options.steps:
            metrics = {name: value.item() for name, value in values.items()}
            print(f"step {step:6d}  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return average, metrics


@torch.no_grad()
def save_samples(generator: nn.Module, folder: Path, device: torch.device) -> None:
    """An 8 by 8 grid of samples, in folder/samples.png."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = generator(torch.randn(64, LATENT, device=device)).view(-1, 1, SIDE, SIDE)
    save_image(samples, folder / "samples.png", nrow=8, normalize=True, value_range=(-1, 1))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """The command line; what was last logged."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--gamma", type=float, default=0.5, help="the weight of R1 and of R2")
    parser.add_argument("--ema", type=float, default=0.995, help="the decay of the generator's average")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--out", type=Path, help="folder for a grid of samples")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if options.device == "auto" else options.device)
    average, metrics = train(options, device)
    if options.out:
        save_samples(average, options.out, device)
    return metrics


if __name__ == "__main__":
    main()
