"""What a step should take on a GPU that is not here: python -m benchmarks.gpu.predict [--batch 64 256] [--card h100].

A step runs on CPU tensors with launches that are only written down, so that the list is the real one. A launch is expected to
take a fixed time, for its node of the graph, the first loads and the last stores, and then the longest of three: its tiles'
walk along the depth, its traffic between the second cache and the multiprocessors, its products at the chip's rate. An update
is bounded by the memory of the card besides (`cards`).
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any, NamedTuple

import torch
from fastgan.kernels import launch, tiles
from rich.console import Console
from rich.table import Table

from benchmarks.gpu.cards import CARDS, DEFAULT, Card, add_option
from fastgan import Discriminator, Generator, Trainer
from fastgan.engines.closed_form.step import ClosedFormStep
from fastgan.engines.game import at
from fastgan.ops import backend

FIXED = 1.6  # us: 0.7 between two nodes that overlap, 0.6 for the first loads, 0.3 for epilogue and stores
ITERATION = 0.1  # us: one block of depth in a pipeline that is full
CACHE = 5.5e6  # bytes a us between the second cache and all multiprocessors
RATE = 600e6  # flop a us in bf16
STATE = 4.0 / 4.3  # of a copy's rate: weights and moments, some from the second cache and some from memory
REDUCTION = 1.5  # us: parts of a sum go to the second cache, one program is told that it is the last, and adds them
RESIDENT = 3  # tiles of a product on a multiprocessor at a time


class Launch(NamedTuple):
    """One launch: its kernel, its programs, the bytes it must move, the floating-point operations, its expected time in us."""

    kernel: str
    programs: int
    bytes: float
    flops: float
    microseconds: float


class Notebook(launch.Launcher):
    """A launcher that runs nothing and writes down what it was asked for."""

    def __init__(self, device: torch.device, arch: int) -> None:
        self.device, self.arch, self.pdl = device, arch, arch >= 90
        self.asked: list[tuple[str, int, dict[str, Any]]] = []

    def run(self, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]) -> None:
        self.asked.append((kernel.__name__.removesuffix("_kernel"), math.prod(grid), arguments))


def product(kernel: str, programs: int, given: dict[str, Any], multiprocessors: int) -> Launch:
    """A product [rows, depth] x [depth, width] in tiles."""
    rows, width, depth = (given[name] for name in ("rows", "width", "depth"))
    across, block = -(-width // given["BLOCK_N"]), given["BLOCK_M"] + given["BLOCK_N"]
    count = -(-rows // given["BLOCK_M"]) * across
    unique = 2.0 * (rows * depth + depth * width + rows * width)
    flops, traffic = 2.0 * rows * depth * width, 2.0 * count * block * depth
    splits = given["SPLITS"]
    walk = -(-depth // (given["BLOCK_K"] * splits)) * ITERATION * math.ceil(count * splits / (RESIDENT * multiprocessors))
    fixed = FIXED + (REDUCTION if splits > 1 else 0.0)
    return Launch(kernel, programs, unique, flops, fixed + max(walk, traffic / CACHE, flops / RATE))


def update(programs: int, given: dict[str, Any], shapes: list[tuple[int, int]], multiprocessors: int, card: Card) -> Launch:
    """Weight gradients of a network, and the optimizer's step on them if they stay in registers."""
    weights, rows = sum(o * i for o, i in shapes), given["rows"]
    flops = 2.0 * rows * weights
    tile = given["BLOCK_O"] * given["BLOCK_I"]
    traffic = 2.0 * rows * (given["BLOCK_O"] + given["BLOCK_I"]) * weights / tile
    state = (26.0 if given["FUSED"] else 4.0) * weights  # two moments and weights, read and written, and the shadow
    walk = -(-rows // given["BLOCK_R"]) * ITERATION * math.ceil(programs / (RESIDENT * multiprocessors))
    longest = max(walk, traffic / CACHE, flops / RATE, state / (STATE * card.memory))
    return Launch("update", programs, state, flops, FIXED + longest)


def launches(case: str, batch: int, arch: int, card: Card = CARDS[DEFAULT]) -> list[Launch]:
    """The launches of one step, in their order."""
    notebook = Notebook(torch.device("cpu"), arch)
    backend.launch_by(lambda device: notebook)
    options: dict[str, Any] = dict(precision="bf16", device="cpu", engine="closed-form", capture="off", loss=case)
    trainer = Trainer(Generator(), Discriminator(), **options).attach(torch.zeros(100, 784, dtype=torch.uint8), batch)
    step = trainer._runner.engine
    assert isinstance(step, ClosedFormStep) and step.fused is not None
    trainer.step()  # makes the buffers
    notebook.asked.clear()
    step(trainer._attached().images, at(1)._replace(last=False), batch)  # without the flush, which a graph has once
    chains = [products.shapes for products in step.fused]
    return [expect(*asked, chains, tiles.MULTIPROCESSORS[tiles.nearest(arch)], card) for asked in notebook.asked]


def expect(kernel: str, programs: int, given: dict[str, Any], chains: list, multiprocessors: int, card: Card) -> Launch:
    """What a launch is expected to take."""
    if kernel == "update":
        return update(programs, given, chain_of(given, chains), multiprocessors, card)
    if "BLOCK_K" in given:
        return product(kernel, programs, given, multiprocessors)
    if kernel == "flat":
        moved = (26.0 + 4.0 * given["splits"]) * given["size"]
        return Launch(kernel, programs, moved, 0.0, FIXED + moved / (STATE * card.memory))
    return Launch(kernel, programs, 0.0, 0.0, FIXED)


def chain_of(given: dict[str, Any], chains: list) -> list[tuple[int, int]]:
    """Which network an update is of, by the number of its weights."""
    held = given["buffers"][0].numel()
    return min(chains, key=lambda shapes: abs(sum(o * i + o for o, i in shapes) - held))


def show(case: str, batch: int, found: list[Launch], card: Card, console: Console) -> None:
    """The launches, equal ones in a row together."""
    title = f"{case}, batch {batch}, {card.name}, {card.memory / 1e6} TB/s, cache of {card.cache >> 20} MiB"
    table = Table("launch", "programs", "MB", "MFLOP", "us", title=title)
    for each in found:
        table.add_row(
            each.kernel, str(each.programs), f"{each.bytes / 1e6:.2f}", f"{each.flops / 1e6:.0f}", f"{each.microseconds:.1f}"
        )
    totals = [sum(getattr(each, name) for each in found) for name in ("bytes", "flops", "microseconds")]
    table.add_row(f"{len(found)} launches", "", f"{totals[0] / 1e6:.1f}", f"{totals[1] / 1e6:.0f}", f"{totals[2]:.0f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 256, 1024, 8192])
    parser.add_argument("--case", nargs="+", default=["nonsaturating", "wgan-gp"])
    parser.add_argument("--arch", type=int, default=90, help="compute capability, 90 for sm_90")
    add_option(parser)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each step: its launches' kernels and times")
    arguments = parser.parse_args()
    for case in arguments.case:
        for batch in arguments.batch:
            card = CARDS[arguments.card]
            found = launches(case, batch, arguments.arch, card)
            if arguments.json:
                print(json.dumps([[each.kernel, each.microseconds] for each in found]))
            else:
                show(case, batch, found, card, Console(width=100))


if __name__ == "__main__":
    main()
