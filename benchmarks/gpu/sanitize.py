"""Two steps of tiny networks by every kernel of the closed form, launched one by one, and whether their metrics are right.

    python -m benchmarks.gpu.sanitize [--game wgan-gp] [--precision bf16]
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m benchmarks.gpu.sanitize

Without caching every tensor is an allocation of its own, so that an access past its end shows. The last game's products are
split along their depth. Without a CUDA device TRITON_INTERPRET=1 runs the kernels in fp32.

sanitize.json has the metrics of the same steps by autograd over plain torch, on a CPU in fp64; `--write` computes them again.
Draws are a function of (seed, step, stream, row, column), so a step has the same metrics on every device, up to rounding.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastgan import Trainer, penalties
from fastgan.mlp import MLP
from fastgan.ops import backend

PIXELS, ROWS, IMAGES, STEPS = 43, 10, 29, 2
GAMES: dict[str, dict] = {
    "nonsaturating": dict(ema=0.9),
    "wgan-gp": dict(d_steps=2),
    "relativistic": dict(penalty=penalties.R1(1.0)),
}
SPLIT = "relativistic"  # the game whose products are split along their depth
STORED = Path(__file__).with_name("sanitize.json")

# Of a metric's own size, and beside that absolute, for means of logits, which cancel. fp32: sums in another order differ by
# some 1e-6, and Adam, which divides by the size of a gradient, makes more of the smallest ones. bf16: operands are rounded to
# 2^-9 of their size. Products in bf16 on a CPU, by either engine, are off by a quarter of this at most; with the masks and
# latents of another seed at least four metrics of each game are off by more than this, some of them by sixty times as much.
RELATIVE = {"fp32": 1e-4, "bf16": 2e-2}
ABSOLUTE = {"fp32": 1e-5, "bf16": 5e-4}
# These losses do not change where all logits are shifted alike. The last bias then has a gradient of rounding errors alone,
# which Adam turns into steps of its whole rate: four of 1e-4, or two of 2e-4, that may go either way.
SHIFT = 5e-4
SHIFTED = {"wgan-gp": ("d_real", "d_fake", "g_loss"), "relativistic": ("d_real", "d_fake")}

Metrics = dict[str, float]


def networks() -> tuple[MLP, MLP]:
    """The same two networks by every version of torch: numpy promises that these random numbers stay, torch does not."""
    pair = MLP((5, 20, 65, PIXELS), output="tanh"), MLP((PIXELS, 70, 33, 1), activation="leaky_relu", dropout=0.25)
    random = np.random.RandomState(0)
    for layer in (layer for network in pair for layer in network.layers):
        bound = 1.0 / math.sqrt(layer.weight.shape[1])
        for parameter in (layer.weight, layer.bias):
            values = torch.from_numpy(random.uniform(-bound, bound, tuple(parameter.shape)))
            nn.init.zeros_(parameter).data.add_(values)
    return pair


def play(game: str, precision: str, engine: str = "closed-form", seed: int = 0, device: str = "auto") -> Metrics:
    """Eager steps at odd shapes; the last one's metrics, and how far apart the two means of logits are."""
    images = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (IMAGES, PIXELS)).astype(np.uint8))
    options: dict[str, Any] = dict(engine=engine, capture="off", precision=precision, seed=seed, device=device)
    generator, discriminator = networks()
    trainer = Trainer(generator, discriminator, loss=game, **options, **GAMES[game]).attach(images, ROWS)
    metrics = {name: float(value) for name, value in trainer.step(STEPS).items()}
    if engine == "closed-form":
        from fastgan.engines.closed_form.fused_passes import FusedPasses

        critic = getattr(trainer._runner.engine, "critic", None)
        assert isinstance(critic, FusedPasses), "the closed form runs without its kernels here"
    return metrics | dict(margin=metrics["d_real"] - metrics["d_fake"])


def exact(game: str) -> Metrics:
    """The same in fp64, by autograd over plain torch on a CPU: nothing of it is in a kernel, or in the closed form."""
    with backend.forced("reference"):
        return play(game, "fp64", engine="autograd", device="cpu")


def stored() -> dict[str, Metrics]:
    """The metrics of every game, as they should be."""
    return json.loads(STORED.read_text())


def tolerance(game: str, name: str, precision: str, value: float) -> float:
    """How far a metric may be from its exact value."""
    shift = SHIFT if name in SHIFTED.get(game, ()) else 0.0
    return RELATIVE[precision] * abs(value) + ABSOLUTE[precision] + shift


def wrong(game: str, precision: str, found: Metrics) -> list[str]:
    """A line for each metric that is not what it should be; one that is missing or not finite is none of them."""
    lines = []
    for name, value in stored()[game].items():
        here, limit = found.get(name, math.nan), tolerance(game, name, precision, value)
        if not abs(here - value) <= limit:
            lines.append(f"WRONG: {game} {precision} {name} is {here:.6g}, exactly {value:.6g}, at most {limit:.1e} off")
    return lines


def run(game: str, precision: str) -> bool:
    """Plays a game by the kernels that are here, prints its metrics and what is wrong with them; whether all are right."""
    from fastgan.kernels import tiles

    saved = tiles.SAVED
    tiles.SAVED = 0 if game == SPLIT else saved
    tiles.product_tile.cache_clear()
    try:
        found = play(game, precision)
    finally:
        tiles.SAVED = saved
        tiles.product_tile.cache_clear()
    lines = wrong(game, precision, found)
    print(game, precision, {name: round(value, 4) for name, value in found.items()}, flush=True)
    print("\n".join(lines) if lines else f"{game} {precision}: {len(found)} metrics are right", flush=True)
    return not lines


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.sanitize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", nargs="+", choices=GAMES, default=list(GAMES))
    precisions = tuple(RELATIVE) if torch.cuda.is_available() else ("fp32",)  # the interpreter knows no other products
    parser.add_argument("--precision", nargs="+", choices=tuple(RELATIVE), default=precisions)
    parser.add_argument("--write", action="store_true", help="only compute the exact metrics again, and store them")
    arguments = parser.parse_args()
    if arguments.write:
        STORED.write_text(json.dumps({game: exact(game) for game in GAMES}, indent=1) + "\n")
        return 0
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
        print("benchmarks.gpu.sanitize needs a CUDA device, or TRITON_INTERPRET=1")
        return 2
    return 0 if all([run(game, precision) for game in arguments.game for precision in arguments.precision]) else 1


if __name__ == "__main__":
    sys.exit(main())
