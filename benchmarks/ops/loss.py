"""Fused losses against the compositions of torch operators that people write: python -m benchmarks.ops.loss [--quick].

Two works: "forward" without a graph, and "both", the value and the gradients of the logits. The bytes counted are the least
that each must move: every logit read once for the value, read again and its gradient written for the backward pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Bench, device
from fastgan import losses

Function = Callable[[Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """An objective as fastgan computes it and as torch does; `sides` is how many of (real, fake) have gradients."""

    label: str
    fastgan: Function
    torch: Function
    sides: tuple[bool, bool] = (True, True)
    compares: bool = True  # reads both sides


def _mean_shift(r: Tensor, f: Tensor) -> Tensor:
    return F.softplus(f.mean() - r).mean() + F.softplus(f - r.mean()).mean()


def _bce_pair(r: Tensor, f: Tensor) -> Tensor:
    bce = F.binary_cross_entropy_with_logits
    return bce(r, torch.ones_like(r)) + bce(f, torch.zeros_like(f))


def _d(kind: str, peer: Function, **options: float) -> Case:
    return Case(f"d {kind}", partial(losses.d_loss, kind=kind, **options), peer)


def _g(kind: str, peer: Function) -> Case:
    relativistic = "relativistic" in kind
    return Case(
        f"g {kind}", lambda r, f: losses.g_loss(f, r if relativistic else None, kind), peer, (False, True), relativistic
    )


def _one(label: str, fastgan: Function, peer: Function) -> Case:
    return Case(label, fastgan, peer, (False, True), False)


CASES = (
    _d("nonsaturating", lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean()),
    Case("d nonsaturating, torch bce", partial(losses.d_loss, kind="nonsaturating"), _bce_pair),
    _d("lsgan", lambda r, f: (r - 1).square().mean() + f.square().mean()),
    _d("wgan", lambda r, f: f.mean() - r.mean()),
    _d("hinge", lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean()),
    _d("relativistic", lambda r, f: F.softplus(f - r).mean()),
    _d("relativistic-average", _mean_shift),
    _g("minimax", lambda r, f: -F.softplus(f).mean()),
    _g("nonsaturating", lambda r, f: F.softplus(-f).mean()),
    _g("lsgan", lambda r, f: (f - 1).square().mean()),
    _g("wgan", lambda r, f: -f.mean()),
    _g("hinge", lambda r, f: -f.mean()),
    _g("relativistic", lambda r, f: F.softplus(r - f).mean()),
    _g("relativistic-average", lambda r, f: _mean_shift(f, r)),
    _one(
        "bce, float target",
        lambda r, f: losses.binary_cross_entropy_with_logits(f, 1.0),
        lambda r, f: F.binary_cross_entropy_with_logits(f, torch.ones_like(f)),
    ),
    Case(
        "bce, labels",
        lambda r, f: losses.binary_cross_entropy_with_logits(f, r),
        lambda r, f: F.binary_cross_entropy_with_logits(f, r),
        (False, True),
    ),
)
SIZES, QUICK_SIZES = (64, 4096, 65536, 1 << 20, 1 << 24), (64, 65536)
# torch composes in the logits' dtype, so a bf16 peer's own rounding is allowed for; fastgan's is held to fp32's
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


def run_both(function: Function, logits: tuple[Tensor, Tensor], wanted: list[Tensor]) -> tuple[Tensor, ...]:
    """The value and the gradients of `wanted`."""
    value = function(*logits)
    return value, *torch.autograd.grad(value, wanted)


def gate(case: Case, logits: tuple[Tensor, Tensor], dtype: str) -> None:
    """Both candidates' values and gradients against torch's composition in fp64."""
    wide = tuple(x.detach().double().requires_grad_(x.requires_grad) for x in logits)
    exact = run_both(case.torch, wide, [x for x in wide if x.requires_grad])
    wanted = [x for x in logits if x.requires_grad]
    for name, tolerance in (("fastgan", 1e-5), ("torch", TOLERANCE[dtype])):
        value, *gradients = run_both(getattr(case, name), logits, wanted)
        torch.testing.assert_close(value.double(), exact[0], rtol=tolerance, atol=tolerance)
        for gradient, expected in zip(gradients, exact[1:], strict=True):
            scale = expected.abs().max().item()
            torch.testing.assert_close(gradient.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


def compare(bench: Bench, case: Case, size: int, dtype: torch.dtype) -> None:
    """One case at one size: forward alone, then both directions."""
    name = str(dtype).removeprefix("torch.")
    real, fake = (torch.randn(size, 1, device=device()).mul_(3).to(dtype) for _ in range(2))
    if case.label == "bce, labels":
        real = (real > 0).to(dtype)
    logits = tuple(x.requires_grad_(side) for x, side in zip((real, fake), case.sides, strict=True))
    wanted = [x for x in logits if x.requires_grad]
    check = partial(gate, case, logits, name)
    plain = [x.detach() for x in logits]
    both = {key: partial(run_both, getattr(case, key), logits, wanted) for key in ("torch", "fastgan")}
    read = size * fake.element_size() * (1 + case.compares)
    written = size * fake.element_size() * len(wanted)
    place = dict(shape=(size, 1), dtype=name)
    forward = {key: partial(getattr(case, key), *plain) for key in ("torch", "fastgan")}
    bench.compare(forward, check=check, label=f"{case.label}: forward", bytes_moved=read, **place)
    bench.compare(both, check=check, label=f"{case.label}: both", bytes_moved=2 * read + written, **place)


def main() -> None:
    """Every case at every size in fp32 and bf16; --quick takes two sizes and a tenth of the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="cases whose label contains this")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--no-rows", action="store_true", help="print the table, keep no rows")
    options = parser.parse_args()
    bench = Bench("ops.loss", quick=options.quick, keep=not options.no_rows)
    torch.manual_seed(0)
    for case in (case for case in CASES if options.only in case.label):
        for dtype in options.dtypes:
            for size in options.sizes or (QUICK_SIZES if options.quick else SIZES):
                compare(bench, case, size, getattr(torch, dtype))
    bench.print()


if __name__ == "__main__":
    main()
