"""Fused losses against the compositions of torch operators that people write: python -m benchmarks.ops.loss [--quick].

Works: "forward" without a graph; "both", the value and the gradients of the logits; "rows", the same of reduction="none" with
a gradient for every row from above; "statistics", the value, the gradients, and the four numbers that people log of the logits.
torch's composition runs in eager mode and as one region of torch.compile, with the gradients inside (`harness.compiling`); one
region for each case, dtype and size, compiled before anything is timed, in one to two seconds on two cores.

The bytes counted are the least that each must move, in the logits' dtype: every logit read once for the value, read again and
its gradient written for the backward pass; "rows" writes a value and reads a gradient for each row besides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness.bench import Bench, parser
from benchmarks.harness.compiling import Function, add_option, compiled, compiled_both, forget, is_wanted, outputs, run_both
from benchmarks.harness.rows import device
from fastgan import losses


class Case(NamedTuple):
    """An objective as fastgan computes it and as torch does; `sides` is how many of (real, fake) have gradients."""

    label: str
    fastgan: Function
    torch: Function
    sides: tuple[bool, bool] = (True, True)
    compares: bool = True  # reads both sides
    works: tuple[str, ...] = ("forward", "both")


def _mean_shift(r: Tensor, f: Tensor) -> Tensor:
    return F.softplus(f.mean() - r).mean() + F.softplus(f - r.mean()).mean()


def _bce_pair(r: Tensor, f: Tensor) -> Tensor:
    bce = F.binary_cross_entropy_with_logits
    return bce(r, torch.ones_like(r)) + bce(f, torch.zeros_like(f))


def _bce_float(f: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(f, torch.full_like(f, target))


def _labels(function: Function, **options: str) -> Function:
    return lambda r, f: function(f, r, **options)  # the labels stand in real's place


def _logged(peer: Function) -> Function:
    def run(r: Tensor, f: Tensor) -> tuple[Tensor, ...]:
        value = peer(r, f)
        with torch.no_grad():
            return value, r.mean(), f.mean(), r.sign().mean(), f.sign().mean()

    return run


D = {
    "nonsaturating": lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(),
    "lsgan": lambda r, f: (r - 1).square().mean() + f.square().mean(),
    "wgan": lambda r, f: f.mean() - r.mean(),
    "hinge": lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(),
    "relativistic": lambda r, f: F.softplus(f - r).mean(),
    "relativistic-average": _mean_shift,
}
G = {
    "minimax": lambda r, f: -F.softplus(f).mean(),
    "nonsaturating": lambda r, f: F.softplus(-f).mean(),
    "lsgan": lambda r, f: (f - 1).square().mean(),
    "wgan": lambda r, f: -f.mean(),
    "hinge": lambda r, f: -f.mean(),
    "relativistic": lambda r, f: F.softplus(r - f).mean(),
    "relativistic-average": lambda r, f: _mean_shift(f, r),
}
ROWS = {
    "nonsaturating": lambda r, f: F.softplus(-r) + F.softplus(f),
    "lsgan": lambda r, f: (r - 1).square() + f.square(),
    "hinge": lambda r, f: F.relu(1 - r) + F.relu(1 + f),
}
BCE, TORCH_BCE = losses.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
FAKE = (False, True)


def _g(kind: str) -> Case:
    relativistic = "relativistic" in kind
    return Case(f"g {kind}", lambda r, f: losses.g_loss(f, r if relativistic else None, kind), G[kind], FAKE, relativistic)


def _d(label: str, fastgan: Function, kind: str, peer: Function, work: str, **options: str) -> Case:
    return Case(f"d {label}", partial(fastgan, kind=kind, **options), peer, works=(work,) if work else ("forward", "both"))


CASES = (
    *(_d(kind, losses.d_loss, kind, peer, "") for kind, peer in D.items()),
    _d("nonsaturating, torch bce", losses.d_loss, "nonsaturating", _bce_pair, ""),
    *map(_g, G),
    Case("bce, float target", lambda r, f: BCE(f, 1.0), lambda r, f: _bce_float(f, 1.0), FAKE, False),
    Case("bce, labels", _labels(BCE), _labels(TORCH_BCE), FAKE),
    *(_d(kind, losses.d_loss, kind, peer, "rows", reduction="none") for kind, peer in ROWS.items()),
    Case("bce, labels", _labels(BCE, reduction="none"), _labels(TORCH_BCE, reduction="none"), FAKE, works=("rows",)),
    *(_d(kind, losses.d_loss_with_statistics, kind, _logged(peer), "statistics") for kind, peer in D.items()),
)
SIZES, QUICK_SIZES = (64, 4096, 65536, 1 << 20, 1 << 24), (64, 65536)
PATIENCE = 0.25  # seconds for each candidate
# torch composes in the logits' dtype, so a bf16 peer's own rounding is allowed for; fastgan's is held to fp32's
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
FEW = ("d nonsaturating",)  # how labels begin that are compiled in a quick run


def gate(candidates: dict[str, Callable], exact: tuple[Tensor, ...], values: int, dtype: str) -> None:
    """Every candidate's values, of which there are so many, and the gradients after them against those in fp64."""
    for name, run in candidates.items():
        for place, (result, expected) in enumerate(zip(outputs(run()), exact, strict=True)):
            is_value = place < values
            tolerance = 1e-5 if name == "fastgan" and is_value else TOLERANCE[dtype]
            scale = 1.0 if is_value else expected.abs().max().item()
            # assert_close takes seconds for millions of numbers
            excess = (result - expected).abs_().sub_(expected.abs(), alpha=tolerance).max().item()
            assert excess <= tolerance * scale, f"{name}, output {place}: {excess:.3g} beyond {tolerance} of it"


def draw(case: Case, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Real and fake logits, or labels in the place of real ones, as the case wants their gradients."""
    real, fake = (torch.randn(size, 1, device=device()).mul_(3).to(dtype) for _ in range(2))
    if case.label == "bce, labels":
        real = (real > 0).to(dtype)
    return real.requires_grad_(case.sides[0]), fake.requires_grad_(case.sides[1])


def forward(case: Case, logits: tuple[Tensor, Tensor], compiles: bool) -> tuple[dict[str, Callable], tuple[Tensor, ...]]:
    """The candidates for the value without a graph, and what it is in fp64."""
    plain = [x.detach() for x in logits]
    candidates: dict[str, Callable] = {name: partial(getattr(case, name), *plain) for name in ("torch", "fastgan")}
    if compiles:
        candidates["compile"] = partial(compiled(case.torch), *plain)
    return candidates, outputs(case.torch(*(x.double() for x in plain)))


def both(
    case: Case, logits: tuple[Tensor, Tensor], rows: bool, compiles: bool
) -> tuple[dict[str, Callable], tuple[Tensor, ...]]:
    """The candidates for the value and the gradients, and what those are in fp64."""
    plain, positions = [x.detach() for x in logits], [place for place, side in enumerate(case.sides) if side]
    upstream = torch.randn_like(plain[1]) if rows else None
    # rows of fastgan are fp32, torch's are in the logits' dtype; so are the gradients that come down to them
    below = None if upstream is None else upstream.to(outputs(case.fastgan(*plain))[0].dtype)
    wanted = [logits[place] for place in positions]
    candidates: dict[str, Callable] = {
        "torch": partial(run_both, case.torch, logits, wanted, upstream),
        "fastgan": partial(run_both, case.fastgan, logits, wanted, below),
    }
    if compiles:
        candidates["compile"] = partial(compiled_both(case.torch, positions), upstream, *plain)
    wide = [x.double().requires_grad_(side) for x, side in zip(plain, case.sides, strict=True)]
    weights = None if upstream is None else upstream.double()
    return candidates, run_both(case.torch, wide, [wide[place] for place in positions], weights)


def compare(bench: Bench, case: Case, size: int, dtype: torch.dtype, compiles: bool) -> None:
    """One case at one size: each of its works."""
    name, logits = str(dtype).removeprefix("torch."), draw(case, size, dtype)
    side = size * dtype.itemsize
    read, written = side * (1 + case.compares), side * sum(case.sides)
    for work in case.works:
        if work == "forward":
            (candidates, exact), moved = forward(case, logits, compiles), read
        else:
            candidates, exact = both(case, logits, work == "rows", compiles)
            moved = 2 * read + written + 2 * side * (work == "rows")
        check = partial(gate, candidates, exact, len(exact) - sum(case.sides) * (work != "forward"), name)
        label = f"{case.label}: {work}"
        bench.compare(candidates, check=check, label=label, shape=(size, 1), dtype=name, bytes_moved=moved)
        forget()


def main() -> None:
    """Every case at every size in fp32 and bf16; --quick takes two sizes, a tenth of the time, and compiles few cases."""
    given = parser("ops.loss", __doc__)
    given.add_argument("--sizes", type=int, nargs="+")
    given.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    add_option(given)
    options = given.parse_args()
    bench = Bench("ops.loss", quick=options.quick, keep=not options.no_rows, patience=PATIENCE)
    torch.manual_seed(0)
    for case in (case for case in CASES if any(options.only in f"{case.label}: {work}" for work in case.works)):
        for dtype in options.dtypes:
            for size in options.sizes or (QUICK_SIZES if options.quick else SIZES):
                compare(bench, case, size, getattr(torch, dtype), is_wanted(case.label, options, FEW))
    bench.print()


if __name__ == "__main__":
    main()
