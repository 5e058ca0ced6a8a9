"""The article's loop as it is printed: the baseline to beat, not a game that anybody should play.

It promises the standard loss and minimises mean(D(G(z))) - mean(D(x)) on sigmoid outputs; its D update builds the generator's
graph, and its G update the discriminator's weight gradients, for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers import Z_DIM, Batch, Setup, networks

PRINT_EVERY = 100  # batches


class Digits(Dataset):
    """Images as torchvision's MNIST with ToTensor and Normalize gives them, without its detour over PIL."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.view(-1, 1, 28, 28)
        self.labels = torch.zeros(len(images), dtype=torch.long)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return (self.images[index].float().div(255) - 0.5) / 0.5, int(self.labels[index])


class Article:
    """The printed loop, one batch at a time, in fp32."""

    def __init__(self, setup: Setup) -> None:
        g_layers, d_layers = setup.weights
        self.device = setup.images.device
        self.generator = networks.generator(g_layers).to(self.device)
        critic = networks.discriminator(d_layers, setup.dropout, nn.Dropout)
        self.discriminator = nn.Sequential(nn.Flatten(), *critic, nn.Sigmoid()).to(self.device)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), lr=setup.work.lr, betas=setup.work.betas)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=setup.work.lr, betas=setup.work.betas)
        self.loader = DataLoader(Digits(setup.images.cpu()), batch_size=setup.batch, shuffle=True)
        self.batches = self._epochs()
        self.count = 0

    def _epochs(self) -> Iterator[Tensor]:
        while True:
            for real, _ in self.loader:
                yield real

    def play(self, steps: int) -> Tensor:
        for _ in range(steps):
            loss = self.step()
        return loss

    def step(self) -> Tensor:
        real = next(self.batches).to(self.device)
        self.d_optimizer.zero_grad()
        fake = self.generator(torch.randn(real.size(0), Z_DIM, device=self.device))
        d_loss = -torch.mean(self.discriminator(real)) + torch.mean(self.discriminator(fake))
        d_loss.backward()
        self.d_optimizer.step()

        self.g_optimizer.zero_grad()
        fake = self.generator(torch.randn(real.size(0), Z_DIM, device=self.device))
        g_loss = -torch.mean(self.discriminator(fake))
        g_loss.backward()
        self.g_optimizer.step()
        if self.count % PRINT_EVERY == 0:
            self.printed = f"D {d_loss.item():.4f} G {g_loss.item():.4f}"
        self.count += 1
        return d_loss.detach()

    def first_losses(self, batches: list[Batch]) -> list[float]:
        raise NotImplementedError("the article's loop plays another game")
