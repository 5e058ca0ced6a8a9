"""fastgan itself, through its public trainer."""

from __future__ import annotations

from typing import Any

import torch

import fastgan
from benchmarks.peers import Z_DIM, Batch, Setup
from fastgan.ops import sample
from fastgan.ops.sample import Draws, Role


class Auto:
    """A trainer with the engine that it chooses."""

    engine = "auto"

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        loss = "wgan-gp" if setup.work.penalty else "nonsaturating"
        networks = fastgan.Generator(), fastgan.Discriminator(dropout=setup.dropout)
        for network, layers in zip(networks, setup.weights, strict=True):
            for layer, (weight, bias) in zip(network.main.layers, layers, strict=True):
                layer.load_state_dict({"weight": weight, "bias": bias})
        place = setup.images.device
        self.trainer = fastgan.Trainer(
            *networks, loss=loss, precision=setup.precision, engine=self.engine, seed=setup.seed, device=place
        )
        self.trainer.attach(setup.images, setup.batch)

    def play(self, steps: int) -> torch.Tensor:
        return self.trainer.step(steps)["d_loss"]

    def facts(self) -> dict[str, Any]:
        """What a row says besides times; on a GPU also how many steps a graph has, 1 where they could not be captured."""
        captured = {"steps_per_graph": self.trainer.stride} if self.setup.images.device.type == "cuda" else {}
        return {"engine": self.trainer.engine, **captured}

    def losses(self) -> list[float]:
        """One more step's last D loss and its G loss."""
        metrics = self.trainer.step()
        return [float(metrics["d_loss"]), float(metrics["g_loss"])]

    def drawn(self, step: int) -> tuple[list[Batch], torch.Tensor]:
        """What a step's updates are played on, from the counters alone: the D updates' batches and the G update's latents."""
        setup, rows, batches = self.setup, self.setup.batch, []
        for d_step in range(setup.work.d_steps):
            draws = Draws(setup.seed, step, d_step)
            position = (step * setup.work.d_steps + d_step) * rows
            word = sample.stream(Role.BATCH)
            indices = sample.batch_indices(rows, len(setup.images), position, seed=setup.seed, stream=word)
            real = sample.gather_rows(setup.images.cpu(), indices)
            batches.append(Batch(real, draws.latents(rows, Z_DIM), draws.alpha(rows, 0)[:, None]))
        return batches, draws.latents(rows, Z_DIM, Role.GENERATOR_LATENT)


class Autograd(Auto):
    """The engine for networks that have no closed form."""

    engine = "autograd"
