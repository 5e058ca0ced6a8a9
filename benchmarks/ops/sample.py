"""Counter-based numbers and batches against torch's own generators: python -m benchmarks.ops.sample [--quick].

torch's draw other numbers; the gate compares fastgan's with the reference. For the order of the data torch's peer reads a
permutation that already stands in memory: making one for each epoch, and keeping it, comes on top.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness.bench import Bench
from benchmarks.harness.rows import device
from fastgan.ops import reference, sample

COUNTER = dict(seed=1, step=2, stream=3)
IMAGES, PIXELS, BATCH = 60_000, 784, 64


class Case(NamedTuple):
    """What fastgan draws, the same by the reference, and what torch offers in its place."""

    label: str
    shape: tuple[int, ...]
    fastgan: Callable[[], Tensor]
    reference: Callable[[], Tensor]
    torch: Callable[[], Any]


def _numbers(name: str, rows: int, columns: int, peer: Callable[[int, int], Tensor], *extra: float) -> Case:
    given = COUNTER | dict(device=device())
    ours, exact = (partial(getattr(module, name), rows, columns, *extra, **given) for module in (sample, reference))
    return Case(name, (rows, columns), ours, exact, partial(peer, rows, columns))


def _on_device(draw: Callable[..., Tensor]) -> Callable[[int, int], Tensor]:
    return partial(draw, device=device())


def _dropout(rows: int, columns: int) -> Tensor:
    return torch.empty(rows, columns, device=device()).bernoulli_(0.7).div_(0.7)


def cases() -> list[Case]:
    """What the standard step of 64 rows draws, and one large case of each."""
    images = torch.randint(0, 256, (IMAGES, PIXELS), dtype=torch.uint8, device=device())
    indices = torch.randint(0, IMAGES, (BATCH,), device=device())
    order = partial(sample.batch_indices, BATCH, IMAGES, 1000, seed=1, stream=2, device=device())
    exact_order = partial(reference.batch_indices, BATCH, IMAGES, 1000, seed=1, stream=2, device=device())
    positions = torch.randperm(IMAGES, device=device())
    return [
        *(_numbers("normals", rows, columns, _on_device(torch.randn)) for rows, columns in ((128, 100), (4096, 1024))),
        *(_numbers("uniforms", rows, columns, _on_device(torch.rand)) for rows, columns in ((64, 1), (4096, 1024))),
        *(_numbers("dropout_scale", rows, 1024, _dropout, 0.3) for rows in (128, 4096)),
        Case("batch_indices", (BATCH,), order, exact_order, lambda: positions[1000 : 1000 + BATCH].clone()),
        Case(
            "gather_rows",
            (BATCH, PIXELS),
            partial(sample.gather_rows, images, indices),
            partial(reference.gather_rows, images, indices),
            lambda: images[indices].float().div_(127.5).sub_(1.0),
        ),
    ]


ERRORS = {"normals": 5e-6, "gather_rows": 1.2e-7}  # a GPU scales a pixel by one operation, which rounds once


def gate(case: Case) -> None:
    """fastgan's numbers are the reference's, some but to rounding."""
    torch.testing.assert_close(case.fastgan(), case.reference(), rtol=0, atol=ERRORS.get(case.label, 0))


def main() -> None:
    """Every case; --quick takes a tenth of the time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops.sample", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="cases whose label contains this")
    parser.add_argument("--no-rows", action="store_true", help="print the table, keep no rows")
    options = parser.parse_args()
    bench = Bench("ops.sample", quick=options.quick, keep=not options.no_rows)
    torch.manual_seed(0)
    for case in (case for case in cases() if options.only in case.label):
        candidates = dict(torch=case.torch, fastgan=case.fastgan)
        bench.compare(candidates, check=partial(gate, case), label=case.label, shape=case.shape, dtype="float32")
    bench.print()


if __name__ == "__main__":
    main()
