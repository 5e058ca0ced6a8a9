"""One optimizer step over a flat network against torch.optim's: python -m benchmarks.ops.update [--quick].

fastgan's step also counts gradients that are not finite and sums the squares of the others; torch's does neither. The bytes
counted are the least that a step must move: the gradient read, the weight and every state read and written.
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
from fastgan.ops.update import state_size, update_


class Case(NamedTuple):
    """A rule, torch's class for it, and the ways torch can run that class over one tensor."""

    label: str
    rule: str
    options: dict[str, Any]
    optimizer: Callable[..., torch.optim.Optimizer]
    ways: tuple[str, ...]


CASES = (
    Case("adam", "adam", dict(betas=(0.5, 0.999)), torch.optim.Adam, ("fused", "foreach")),
    Case("sgd", "sgd", {}, torch.optim.SGD, ("fused", "foreach")),
    Case("sgd with momentum", "sgd", dict(momentum=0.9), torch.optim.SGD, ("fused", "foreach")),
    Case("rmsprop", "rmsprop", {}, torch.optim.RMSprop, ("foreach",)),
)
SIZES, QUICK_SIZES = (64, 4096, 65536, 533_505, 1_486_352, 1 << 24), (64, 65536)  # with the article's D and G
LR = 1e-4


def torch_step(case: Case, weight: Tensor, gradient: Tensor, way: str | None) -> tuple[Tensor, Callable[[], Any]]:
    """torch's parameter and its step."""
    parameter = weight.clone().requires_grad_()
    parameter.grad = gradient
    ways = {way: True} if way else {"foreach": False}
    return parameter, case.optimizer([parameter], lr=LR, **case.options, **ways).step


def fastgan_step(case: Case, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Callable[[], Any]]:
    """fastgan's weight and its step."""
    flat = weight.clone()
    state = [torch.zeros_like(flat) for _ in range(state_size(case.rule, case.options))]
    numbers = torch.tensor(LR, dtype=torch.float64), torch.tensor(0), torch.tensor(False)
    lr, count, withhold = (number.to(weight.device) for number in numbers)
    return flat, partial(update_, flat, gradient, state, lr, count, withhold, rule=case.rule, options=case.options)


def gate(case: Case, weight: Tensor, gradient: Tensor) -> None:
    """Three steps of every candidate against torch.optim in fp64."""
    exact, step = torch_step(case, weight.double(), gradient.double(), None)
    pairs = [torch_step(case, weight, gradient, way) for way in case.ways] + [fastgan_step(case, weight, gradient)]
    for run in (step, *(step for _, step in pairs)):
        for _ in range(3):
            run()
    for result, _ in pairs:
        torch.testing.assert_close(result.detach().double(), exact.detach(), rtol=1e-6, atol=1e-6)


def compare(bench: Bench, case: Case, size: int) -> None:
    """One rule at one size."""
    weight, gradient = (torch.randn(size, device=device()) for _ in range(2))
    candidates = {f"torch {way}": torch_step(case, weight, gradient, way)[1] for way in case.ways}
    candidates["fastgan"] = fastgan_step(case, weight, gradient)[1]
    moved = 4 * size * (3 + 2 * state_size(case.rule, case.options))
    check = partial(gate, case, weight, gradient)
    bench.compare(candidates, check=check, label=case.label, shape=(size,), dtype="float32", bytes_moved=moved)


def main() -> None:
    """Every rule at every size; --quick takes two sizes and a tenth of the time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops.update", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="rules whose label contains this")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--no-rows", action="store_true", help="print the table, keep no rows")
    options = parser.parse_args()
    bench = Bench("ops.update", quick=options.quick, keep=not options.no_rows)
    torch.manual_seed(0)
    for case in (case for case in CASES if options.only in case.label):
        for size in options.sizes or (QUICK_SIZES if options.quick else SIZES):
            compare(bench, case, size)
    bench.print()


if __name__ == "__main__":
    main()
