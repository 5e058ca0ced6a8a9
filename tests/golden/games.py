"""The pairs of networks that golden checkpoints are of, their data, and how a checkpoint and what follows it are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastgan import Trainer, optim, penalties
from fastgan.mlp import MLP

STEPS, MORE = 5, 3
BATCH = 8
SIDE, Z_DIM = 8, 6
PRECISIONS = ("fp32", "fp64")
THREADS = 1


class ConvGenerator(nn.Module):
    """Latents [B, 6] -> pictures [B, 1, 8, 8], with batch norm between."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim = Z_DIM
        self.main = nn.Sequential(
            nn.ConvTranspose2d(Z_DIM, 16, 4, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z[:, :, None, None])


class ConvDiscriminator(nn.Module):
    """Pictures [B, 1, 8, 8] -> logits [B, 1], with batch norm between."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 1, 4),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.main(images).flatten(1)


def mlp_pair() -> tuple[nn.Module, nn.Module]:
    """A pair that the closed form takes, with every option of a layer that draws or keeps something."""
    critic = MLP((SIDE * SIDE, 20, 10, 1), activation="leaky_relu", negative_slope=0.2, dropout=0.3)
    return MLP((Z_DIM, 12, 20, SIDE * SIDE), output="tanh"), critic


def conv_pair() -> tuple[nn.Module, nn.Module]:
    return ConvGenerator(), ConvDiscriminator()


PAIRS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {"mlp": mlp_pair, "conv": conv_pair}
ENGINES = {"mlp": "closed-form", "conv": "autograd"}
OPTIONS: dict[str, dict[str, Any]] = {
    # R1 falls on the second of the further steps, where the schedule still moves
    "mlp": dict(
        ema=0.9,
        penalty=penalties.R1(0.5, every=3),
        g_optimizer=optim.Adam(optim.cosine(2e-3, 1e-4, steps=12), betas=(0.5, 0.999)),
        d_optimizer=optim.Adam(1e-3, betas=(0.5, 0.999)),
    ),
    "conv": dict(
        loss="relativistic",
        penalty=penalties.R1(0.1, every=2),
        d_steps=2,
        g_optimizer=optim.SGD(1e-2, momentum=0.9, nesterov=True),
        d_optimizer=optim.RMSprop(optim.linear(1e-3, 1e-4, steps=10), momentum=0.5, centered=True),
    ),
}
# the relativistic loss sees differences of logits alone, so that what stands here is the error of a sum that is 0
WITHOUT_A_GRADIENT = {"conv": ("discriminator.main.5.bias",), "mlp": ()}


def pictures() -> Tensor:
    """uint8 [40, 1, 8, 8], by arithmetic alone: the same in every version of every library."""
    place = torch.arange(40 * SIDE * SIDE)
    return ((place * place // 7 + 31 * place) % 256).to(torch.uint8).view(40, 1, SIDE, SIDE)


def initial_weights_(network: nn.Module, begin: int) -> None:
    """Fills the weights by arithmetic alone, of the size that He et al. (2015) draw, and the biases; norms stay as they are."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(network.named_parameters()):
            place = torch.arange(parameter.numel(), dtype=torch.float64) + begin + 1000 * number
            values = ((place * 0.6180339887) % 1.0) * 2.0 - 1.0
            if parameter.dim() > 1:
                parameter.copy_((values * (6.0 / parameter[0].numel()) ** 0.5).view_as(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.1 * values)


def trainer_of(game: str, precision: str) -> Trainer:
    """A trainer of a game at its beginning."""
    generator, discriminator = PAIRS[game]()
    initial_weights_(generator, 1)
    initial_weights_(discriminator, 500)
    trainer = Trainer(generator, discriminator, precision=precision, device="cpu", seed=11, **OPTIONS[game])
    return trainer.attach(pictures(), BATCH)


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """All that training leaves in the networks, and the average, by names that say whose they are."""
    found = {f"{role}.{name}": tensor for role in ("generator", "discriminator") for name, tensor in _of(trainer, role)}
    average = trainer.state_dict()["g_optimizer"].get("average")
    found |= {} if average is None else {"average": average}
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def _of(trainer: Trainer, role: str) -> list[tuple[str, Tensor]]:
    return list(getattr(trainer, role).state_dict().items())


def processor() -> str:
    """What decides in which order sums are taken, besides torch's version and the threads."""
    return f"{torch.backends.cpu.get_cpu_capability()}, {_model()}"


def _model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    wanted = ("vendor_id", "cpu family", "model")
    found = dict(line.replace("\t", "").split(":", 1) for line in lines if line.partition(":")[0].strip() in wanted)
    return " ".join(found.get(name, "?").strip() for name in wanted)


def follow(trainer: Trainer, folder: Path) -> None:
    """Stores the weights after MORE steps, and with what they were computed."""
    trainer.step(MORE)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights_of(trainer), folder / "weights.safetensors")
    facts = dict(processor=processor(), torch=torch.__version__, threads=torch.get_num_threads(), steps=MORE)
    (folder / "about.json").write_text(json.dumps(facts, indent=1) + "\n")


def write(root: Path) -> None:
    """Stores a checkpoint of each game and precision, and what follows it."""
    for game in PAIRS:
        for precision in PRECISIONS:
            trainer = trainer_of(game, precision)
            assert trainer.engine == ENGINES[game]
            trainer.step(STEPS)
            trainer.save(root / f"{game}-{precision}" / "checkpoint")
            follow(trainer, root / f"{game}-{precision}" / "after")


def resume(folder: Path) -> Trainer:
    """The trainer of a stored checkpoint, on its data again; folder: GAME-PRECISION."""
    game, _, _ = folder.name.partition("-")
    return Trainer.load(folder / "checkpoint", *PAIRS[game](), device="cpu").attach(pictures(), BATCH)
