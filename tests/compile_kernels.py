"""Compiles every Triton kernel that steps launch, for an architecture that need not be here; a line of JSON for each.

    python -m tests.compile_kernels ARCHITECTURE PRECISION [LADDER]

A step is run as ever, on CPU tensors, but its launches only compile. LADDER: also with each tile of the ladder in turn, and at
every batch size that the table of tiles knows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from fastgan.kernels import tiles

from benchmarks.absent import Compiler, compile_for, resources, spills
from fastgan import Discriminator, Generator, Trainer, optim, penalties


def steps(precision: str, ladder: bool) -> None:
    """Steps that launch every kernel in every variant, on the article's networks."""
    games: list[dict] = [
        dict(loss="nonsaturating", ema=0.9),
        dict(loss="wgan-gp", d_steps=2),
        dict(
            loss="relativistic-average",
            penalty=[penalties.R1(1.0), penalties.DRAGAN(1.0)],
            g_optimizer=optim.SGD(0.1, momentum=0.9, nesterov=True),
            d_optimizer=optim.RMSprop(0.1, momentum=0.9, centered=True),
        ),
    ]
    for game in games:
        play(precision, 64, **game)
    tiles.SPLIT_ROWS = 64  # gradients in parts
    tiles.update_tile.cache_clear()
    play(precision, 64, loss="lsgan")
    tiles.SPLIT_ROWS = 1 << 30
    tiles.SAVED = 0  # products in parts, however short
    tiles.product_tile.cache_clear()
    play(precision, 16, loss="wgan-gp", d_steps=1)
    tiles.SAVED = 1 << 30
    tiles.measured = lambda: {}
    for each in tiles.LADDER if ladder else ():
        small = each if each.rows * each.columns <= 64 * 64 else tiles.LADDER[-1]
        tiles.LADDER = (each, small)
        tiles.product_tile.cache_clear()
        play(precision, 64, loss="wgan-gp", d_steps=1)


def tuned(arch: int) -> None:
    """Steps of as many rows as the table of tiles has products of: a critic's have twice a batch, and so are tried twice."""
    lines = [line.split() for line in tiles.measured() if line.startswith(f"{tiles.nearest(arch)} forward ")]
    for rows in sorted({int(line[2].partition("x")[0]) for line in lines}):
        for loss in ("nonsaturating", "wgan-gp"):
            play("bf16", rows, loss=loss)


def play(precision: str, rows: int, **game: Any) -> None:
    images = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
    game |= dict(precision=precision, device="cpu", engine="closed-form", capture="off")
    Trainer(Generator(), Discriminator(), **game).attach(images, rows).step()


def report() -> Iterator[dict[str, Any]]:
    for kernel in Compiler.made.values():
        yield dict(
            kernel=kernel.metadata.name,
            arch=kernel.metadata.target.arch,
            shared=kernel.metadata.shared,
            tf32="tf32" in kernel.asm["ptx"],
            spills=spills(resources(kernel.asm["cubin"])),
        )


def main(arch: int, precision: str, ladder: bool) -> None:
    compile_for(arch)
    if ladder:
        tuned(arch)
    steps(precision, ladder)
    for line in report():
        print(json.dumps(line))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], len(sys.argv) > 3)
