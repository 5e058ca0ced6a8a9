"""Each product and grouped update of a step, over its candidates for a tile, beside cuBLASLt at the same shapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from fastgan.kernels.launch import architecture

from benchmarks.harness.cuda_graphs import in_a_row
from benchmarks.harness.measurement import PATIENCE, Measurement, rate
from benchmarks.tune.launches import Key, Update
from benchmarks.tune.search import CASES, JOBS, LAUNCHES, SECONDS, Product, products_of, time_by_graph, tuner

TWINS = 2  # networks that take turns, as in a step


def tiles(batch: int, seconds: float) -> Iterator[Measurement]:
    """What `benchmarks.tune` finds: the tile of now, the best one, and the best of each number of parts."""
    with tuner("bf16", architecture(), time_by_graph, time.monotonic() + seconds) as finder:
        finder.prepare(list(CASES), batch, JOBS)
        for found in finder.search(list(CASES), batch, "cuda", SECONDS):
            yield from found.measurements("bf16")


def libraries(batch: int) -> Iterator[Measurement]:
    """torch.mm, addmm and addmm with ReLU in its epilogue at the shapes of a step's products."""
    for product in products_of(list(CASES), batch, "bf16", "cuda"):
        if product.key.kernel == "update":
            yield _gradients(product)
        else:
            yield from _product(product.key)


def _product(key: Key) -> Iterator[Measurement]:
    """x [rows, depth] by w [columns, depth], transposed as a forward product has it, or as it stands for an adjoint."""
    forward = key.kernel in ("forward", "output", "first", "tangent")
    x = torch.randn(key.rows, key.depth, device="cuda", dtype=torch.bfloat16)
    sizes = (key.columns, key.depth) if forward else (key.depth, key.columns)
    weights = [torch.randn(sizes, device="cuda", dtype=torch.bfloat16) for _ in range(TWINS)]
    weights = [w.t() if forward else w for w in weights]
    bias = torch.randn(key.columns, device="cuda", dtype=torch.bfloat16)
    out = x.new_empty(key.rows, key.columns)
    ways: dict[str, Callable[[torch.Tensor], object]] = {"mm": lambda w: torch.mm(x, w, out=out)}
    if key.kernel in ("forward", "output"):
        ways["addmm"] = lambda w: torch.addmm(bias, x, w, out=out)
        ways["addmm, relu"] = lambda w: torch._addmm_activation(bias, x, w, out=out)
    for name, way in ways.items():
        found = in_a_row([partial(way, w) for w in weights], LAUNCHES, PATIENCE)
        facts = rate("tflop_per_s", key.flops, found)
        yield Measurement(key.kernel, f"torch {name}", found, key.shape, "bf16", facts)


def _gradients(product: Product) -> Measurement:
    """The weight gradients of a network alone, U^T X of each layer, without an optimizer."""
    key, update = product.key, product.calls[0]
    assert isinstance(update, Update)
    shapes = update.updates.products.shapes
    calls = []
    for outputs, inputs in shapes * TWINS:
        u, x = (torch.randn(key.rows, width, device="cuda", dtype=torch.bfloat16) for width in (outputs, inputs))
        calls.append(partial(torch.mm, u.t(), x, out=x.new_empty(outputs, inputs)))
    found = [time_ * len(shapes) for time_ in in_a_row(calls, LAUNCHES, PATIENCE)]
    facts = dict(launches=len(shapes)) | rate("tflop_per_s", key.flops, found)
    return Measurement("update", "torch mm, gradients alone", found, key.shape, "bf16", facts)
