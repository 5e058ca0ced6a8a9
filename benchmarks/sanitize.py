"""Two steps of tiny networks by every kernel of the closed form, launched one by one, for compute-sanitizer to watch.

The last game's products are split along their depth.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m benchmarks.sanitize

Without caching every tensor is an allocation of its own, so that an access past its end shows.
"""

from __future__ import annotations

import math

import torch
from fastgan.kernels import tiles

from fastgan import Trainer, penalties
from fastgan.fused import FusedPasses
from fastgan.mlp import MLP

PIXELS, ROWS = 43, 10
GAMES: tuple[dict, ...] = (
    dict(loss="nonsaturating", ema=0.9),
    dict(loss="wgan-gp", d_steps=2),
    dict(loss="relativistic", penalty=penalties.R1(1.0)),
)


def play(precision: str, **game) -> dict[str, float]:
    """Two eager steps at odd shapes; their last metrics."""
    torch.manual_seed(0)
    networks = MLP((5, 20, 65, PIXELS), output="tanh"), MLP((PIXELS, 70, 33, 1), activation="leaky_relu", dropout=0.25)
    images = torch.randint(0, 256, (29, PIXELS), dtype=torch.uint8)
    trainer = Trainer(*networks, engine="closed-form", capture="off", precision=precision, **game).attach(images, ROWS)
    metrics = {name: float(value) for name, value in trainer.step(2).items()}
    assert isinstance(trainer._step.critic, FusedPasses), "the closed form runs without its kernels here"
    return metrics


def main() -> None:
    for game in GAMES:
        if game is GAMES[-1]:
            tiles.SAVED = 0
            tiles.product_tile.cache_clear()
        for precision in ("bf16", "fp32") if torch.cuda.is_available() else ("fp32",):
            metrics = play(precision, **game)
            assert all(map(math.isfinite, metrics.values())), metrics
            print(game["loss"], precision, {name: round(value, 4) for name, value in metrics.items()}, flush=True)


if __name__ == "__main__":
    main()
