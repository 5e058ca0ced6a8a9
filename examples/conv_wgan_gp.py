"""A convolutional WGAN-GP under autocast to bf16, on a CPU as on a GPU; fastgan gives the losses and the penalty.

python examples/conv_wgan_gp.py --steps 1000 --out runs/conv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from fastgan import data, losses, penalties

LATENT, WIDTH, CRITIC_UPDATES = 64, 32, 5


def build_generator() -> nn.Sequential:
    """Latents [B, LATENT, 1, 1] -> images [B, 1, 28, 28] in [-1, 1]: 7 by 7, 14 by 14, 28 by 28."""
    return nn.Sequential(
        nn.ConvTranspose2d(LATENT, 2 * WIDTH, 7, bias=False),
        nn.BatchNorm2d(2 * WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(WIDTH, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def build_critic() -> nn.Sequential:
    """Images [B, 1, 28, 28] -> scores [B, 1]."""
    # no batch norm: it makes one sample's score depend on the others, and the penalty is on each sample's own gradient
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * WIDTH * 7 * 7, 1),
    )


class Game:
    """The two networks, their optimizers, and one update of each."""

    def __init__(self, lr: float, device: torch.device) -> None:
        self.device = device
        self.generator, self.critic = build_generator().to(device), build_critic().to(device)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=(0.5, 0.9))
        self.d_optimizer = torch.optim.Adam(self.critic.parameters(), lr=lr, betas=(0.5, 0.9))

    def draw(self, count: int) -> Tensor:
        return self.generator(torch.randn(count, LATENT, 1, 1, device=self.device))

    def update_critic(self, real: Tensor) -> dict[str, Tensor]:
        # bf16 has fp32's range, so there is no GradScaler whose scale the penalty would have to undo
        with torch.autocast(self.device.type, torch.bfloat16):
            with torch.no_grad():
                fake = self.draw(len(real))
            d_loss = losses.d_loss(self.critic(real), self.critic(fake), kind="wgan")
            penalty = penalties.gradient_penalty(self.critic, real, fake, weight=10.0)
        self.d_optimizer.zero_grad()
        (d_loss + penalty).backward()
        self.d_optimizer.step()
        return {"distance": -d_loss.detach(), "penalty": penalty.detach()}

    def update_generator(self, count: int) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16):
            g_loss = losses.g_loss(self.critic(self.draw(count)), kind="wgan")
        self.g_optimizer.zero_grad()
        g_loss.backward()
        self.g_optimizer.step()
        return {"g_loss": g_loss.detach()}


def train(game: Game, images: Tensor, options: argparse.Namespace) -> dict[str, float]:
    """Plays the game; what was last logged."""
    metrics: dict[str, float] = {}
    for step in range(1, options.steps + 1):
        for _ in range(CRITIC_UPDATES):
            real = images[torch.randint(len(images), (options.batch,), device=images.device)]
            values = game.update_critic(real)
        values |= game.update_generator(options.batch)
        if step % options.log_every == 0 or step == options.steps:
            metrics = {name: value.item() for name, value in values.items()}
            print(f"step {step:6d}  " + "  ".join(f"{name} {value:+.3f}" for name, value in metrics.items()))
    return metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    """The command line; what was last logged."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--out", type=Path, help="folder for a grid of samples")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if options.device == "auto" else options.device)
    game = Game(options.lr, device)
    metrics = train(game, data.load("digits").images.to(device).float() / 127.5 - 1, options)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        game.generator.eval()
        with torch.no_grad():
            save_image(game.draw(64), options.out / "samples.png", nrow=8, normalize=True, value_range=(-1, 1))
    return metrics


if __name__ == "__main__":
    main()
