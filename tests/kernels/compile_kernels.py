"""Compiles every Triton kernel that steps launch, for an architecture that need not be here; a line of JSON for each.

    python -m tests.kernels.compile_kernels games|one|ladder|table ARCHITECTURE:PRECISION ...

A step is run as ever, on CPU tensors, but its launches only compile. games: steps that launch every kernel in every variant;
one: a single step, whose products are all kinds; ladder: that step with each tile of the ladder in turn; table: steps at every
batch size that the table of tiles knows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from fastgan.kernels import tiles

from benchmarks.harness.offline_compile import Compiler, compile_for, resources, spills
from fastgan import Discriminator, Generator, Trainer, optim, penalties


def games(precision: str) -> None:
    """Steps that launch every kernel in every variant, on the article's networks."""
    options: list[dict] = [
        dict(loss="nonsaturating", ema=0.9),
        dict(loss="wgan-gp", d_steps=2),
        dict(
            loss="relativistic-average",
            penalty=[penalties.R1(1.0), penalties.DRAGAN(1.0)],
            g_optimizer=optim.SGD(0.1, momentum=0.9, nesterov=True),
            d_optimizer=optim.RMSprop(0.1, momentum=0.9, centered=True),
        ),
    ]
    for game in options:
        play(precision, 64, **game)
    tiles.SPLIT_ROWS = 64  # gradients in parts
    tiles.update_tile.cache_clear()
    play(precision, 64, loss="lsgan")
    tiles.SPLIT_ROWS = 1 << 30
    tiles.SAVED = 0  # products in parts, however short
    tiles.product_tile.cache_clear()
    play(precision, 16, loss="wgan-gp", d_steps=1)


def one(precision: str) -> None:
    """The step whose products are all kinds."""
    play(precision, 64, loss="wgan-gp", d_steps=1)


def ladder(precision: str) -> None:
    """A step with each tile, whatever the rule would choose for its products."""
    for tile in tiles.LADDER:

        def choose(kernel: str, rows: int, columns: int, depth: int, itemsize: int, arch: int, tile=tile):
            fits = tile.rows * tile.columns <= tiles.largest(kernel, arch)
            return tiles.narrower(tile if fits else tiles.LADDER[2], itemsize)

        tiles.product_tile = choose  # type: ignore[assignment]
        one(precision)


def table(precision: str, arch: int) -> None:
    """Steps of as many rows as the table of tiles has products of: a critic's have twice a batch, and so are tried twice."""
    lines = [line.split() for line in tiles.measured() if line.startswith(f"{tiles.nearest(arch)} forward ")]
    for rows in sorted({int(line[2].partition("x")[0]) for line in lines}):
        for loss in ("nonsaturating", "wgan-gp"):
            play(precision, rows, loss=loss)


def play(precision: str, rows: int, **game: Any) -> None:
    images = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
    game |= dict(precision=precision, device="cpu", engine="closed-form", capture="off")
    Trainer(Generator(), Discriminator(), **game).attach(images, rows).step()


def report(arch: int, precision: str, kernels: list[Any]) -> Iterator[dict[str, Any]]:
    for kernel in kernels:
        yield dict(
            kernel=kernel.metadata.name,
            arch=kernel.metadata.target.arch,
            asked=f"{arch}:{precision}",
            shared=kernel.metadata.shared,
            tf32="tf32" in kernel.asm["ptx"],
            spills=spills(resources(kernel.asm["cubin"])),
        )


def main(what: str, *targets: str) -> None:
    if what != "table":
        tiles.measured = lambda: {}  # what the rule chooses, whatever was measured on a device
    for target in targets:
        arch, precision = int(target.partition(":")[0]), target.partition(":")[2]
        Compiler.made.clear()
        compile_for(arch)
        {"games": games, "one": one, "ladder": ladder, "table": partial(table, arch=arch)}[what](precision)
        for line in report(arch, precision, list(Compiler.made.values())):
            print(json.dumps(line))


if __name__ == "__main__":
    main(*sys.argv[1:])
