"""The device's ceilings, and whether an optimizer's step finds weights and moments in the second cache or in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.harness.cuda_graphs import in_a_row, times
from benchmarks.harness.measurement import PATIENCE, Measurement, rate
from benchmarks.micro.nodes import launcher
from fastgan.runtime.precision import matmul_precision

COPY, SQUARE = 1 << 32, 8192  # bytes; rows and columns of a product
WEIGHTS = 1_473_680  # about what either of the article's networks has
PAIR, FRESH = 2, 8  # networks that take turns: a step's, and more than any cache has room for
BLOCK, WARPS = 1024, 4
LAUNCHES = 48
STEP = 24  # bytes of a weight in a step: its gradient never reaches memory
FORMS = {28: (True, torch.float32), 24: (False, torch.float32), 16: (False, torch.bfloat16)}  # bytes of a weight


def ceilings() -> Iterator[Measurement]:
    """A large copy, bytes read and written, and a large product of random numbers in each precision."""
    source = torch.randint(0, 255, (COPY,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    found = times(partial(target.copy_, source), PATIENCE)
    yield Measurement("copy", "device to device", found, (COPY,), "uint8", rate("tb_per_s", 2.0 * COPY, found))
    del source, target
    for precision, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32), ("fp32", torch.float32)):
        x, w = (torch.randn(SQUARE, SQUARE, dtype=dtype, device="cuda") for _ in range(2))
        with matmul_precision(precision):
            found = times(partial(torch.mm, x, w, out=torch.empty_like(x)), PATIENCE)
        yield Measurement("product", precision, found, (SQUARE,) * 3, precision, rate("tflop_per_s", 2.0 * SQUARE**3, found))


def optimizers() -> Iterator[Measurement]:
    """Adam over whole networks that take turns, by how many bytes of a weight it moves."""
    from benchmarks.micro.kernels import adam_kernel

    launch = launcher()
    grid = (-(-WEIGHTS // BLOCK),)
    for moved, (gradient, dtype) in FORMS.items():
        for count in (1, PAIR, FRESH):
            calls = []
            for _ in range(count):
                buffers = [
                    torch.rand(WEIGHTS, device="cuda", dtype=kind) for kind in (torch.float32, dtype, dtype, torch.float32)
                ]
                given = dict(zip("wmvg", buffers, strict=True)) | dict(size=WEIGHTS, beta1=0.5, beta2=0.999, rate=0.0)
                calls.append(partial(launch, adam_kernel, grid, **given, GRADIENT=gradient, BLOCK=BLOCK, warps=WARPS))
            found = in_a_row(calls, LAUNCHES, PATIENCE)
            facts = rate("tb_per_s", float(moved * WEIGHTS), found)
            yield Measurement("adam", f"{moved} bytes a weight", found, (count, WEIGHTS), str(dtype)[6:], facts)
