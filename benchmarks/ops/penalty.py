"""Gradient penalties against the compositions and scripts that people write: python -m benchmarks.ops.penalty [--quick].

Operators: input gradients [B, F] -> a penalty's value and its derivative by them. "gradient" is the closed form's operator,
"both" the differentiable one and its backward pass. The bytes counted are the least that each must move: the fp32 gradient read
and its derivative written, and for "both" the gradient read once more.

Whole penalties as they are called, of the article's critic (784-1024-512-256-1, LeakyReLU 0.2, with dropout and without) and of
a small convolutional one, in fp32 and under bf16 autocast: the value and the gradients of all parameters, with new random
numbers in each call. The peer is the script with autograd.grad(create_graph=True), in eager mode and as one region of
torch.compile with both derivatives in it (`harness.compiling`), which takes about ten seconds for each batch size. They are
products of matrices above all, and no bytes are counted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness.bench import Bench, parser
from benchmarks.harness.compiling import Function, add_option, compiled_both, forget, is_wanted, run_both
from benchmarks.harness.rows import device
from fastgan import penalties
from fastgan.chain import penalty as closed_penalty
from fastgan.layers import next_masks
from fastgan.ops import penalty as ops
from fastgan.ops.linear import Dropout

WEIGHT, DROPOUT = 10.0, 0.3
PATIENCE = 0.5  # seconds for each candidate
Candidates = dict[str, Callable[[], tuple]]


def norm_of_torch(gradient: Tensor) -> Tensor:
    """WGAN-GP's penalty, as most people write it."""
    return WEIGHT * (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()


def one_sided_of_torch(gradient: Tensor) -> Tensor:
    """WGAN-LP's."""
    return WEIGHT * (gradient.flatten(1).norm(2, dim=1) - 1).relu().square().mean()


def square_of_torch(gradient: Tensor) -> Tensor:
    """R1's and R2's."""
    return WEIGHT / 2 * gradient.flatten(1).square().sum(1).mean()


class Operators(NamedTuple):
    """A penalty as torch and as fastgan computes it: both of its operators, and their options."""

    label: str
    torch: Function
    gradient: Function
    both: Function
    options: dict[str, float]


OPERATORS = (
    Operators("norm", norm_of_torch, ops.norm_penalty_gradient, ops.norm_penalty, dict(weight=WEIGHT)),
    Operators(
        "one-sided norm", one_sided_of_torch, ops.norm_penalty_gradient, ops.norm_penalty, dict(weight=WEIGHT, one_sided=True)
    ),
    Operators("square", square_of_torch, ops.square_penalty_gradient, ops.square_penalty, dict(gamma=WEIGHT)),
)
SHAPES, QUICK_SHAPES = ((8, 8), (64, 784), (256, 784), (64, 16384), (1024, 16384)), ((8, 8), (64, 784))


def check_operator(candidates: Candidates, exact: tuple[Tensor, ...]) -> None:
    """Every candidate's value and derivative against those in fp64."""
    for run in candidates.values():
        for result, expected in zip(run(), exact, strict=True):
            scale = expected.abs().max().item()
            torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5 * scale)


def compare_operators(bench: Bench, penalty: Operators, shape: tuple[int, int], compiles: bool) -> None:
    """One penalty at one size, by each of fastgan's operators."""
    norms = torch.linspace(0.25, 1.75, shape[0], device=device()).unsqueeze(1)  # near 1 a penalty is all cancellation
    gradient = torch.randn(shape, device=device()).mul_(norms / math.sqrt(shape[1]))
    leaf, wide = gradient.clone().requires_grad_(), gradient.double().requires_grad_()
    exact = run_both(penalty.torch, (wide,), (wide,))
    ours = {
        "gradient": partial(penalty.gradient, gradient, **penalty.options),
        "both": partial(run_both, partial(penalty.both, **penalty.options), (leaf,), (leaf,)),
    }
    peers: Candidates = {"torch": partial(run_both, penalty.torch, (leaf,), (leaf,))}
    others: Candidates = {"compile": partial(compiled_both(penalty.torch, (0,)), None, gradient)} if compiles else {}
    for work, run in ours.items():
        candidates = peers | {"fastgan": run} | others
        check, moved = partial(check_operator, candidates, exact), 4 * gradient.numel() * (2 + (work == "both"))
        bench.compare(
            candidates, check=check, label=f"{penalty.label}: {work}", shape=shape, dtype="float32", bytes_moved=moved
        )
    forget()


def mlp(dropout: float = 0.0) -> nn.Sequential:
    """The article's critic, of pictures."""
    modules: list[nn.Module] = [nn.Flatten()]
    for inputs, width in ((784, 1024), (1024, 512), (512, 256)):
        modules += [nn.Linear(inputs, width), nn.LeakyReLU(0.2)] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*modules, nn.Linear(256, 1))


def conv() -> nn.Sequential:
    """A convolutional critic, which has no closed form."""
    first, second = nn.Conv2d(1, 32, 4, 2, 1), nn.Conv2d(32, 64, 4, 2, 1)
    return nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64 * 49, 1))


CRITICS: dict[str, Callable[[], nn.Sequential]] = {"mlp": mlp, f"mlp, dropout {DROPOUT}": partial(mlp, DROPOUT), "conv": conv}
BATCHES, QUICK_BATCHES = (16, 64, 256), (64,)


class Penalty(NamedTuple):
    """A penalty as torch's scripts have it, its points and its value, and as fastgan does."""

    label: str
    points: Function  # real, fake -> rows
    value: Function
    fastgan: Callable[[nn.Module, Tensor, Tensor], Tensor]
    draws: bool  # its points are random


def between(real: Tensor, fake: Tensor) -> Tensor:
    """WGAN-GP's points."""
    alpha = torch.rand(real.shape[0], 1, 1, 1, device=real.device)
    return alpha * fake + (1 - alpha) * real


def around(real: Tensor, fake: Tensor) -> Tensor:
    """DRAGAN's points."""
    return real + 0.5 * real.std() * torch.rand(real.shape, device=real.device)


PENALTIES = (
    Penalty("gradient penalty", between, norm_of_torch, penalties.gradient_penalty, True),
    Penalty("r1", lambda real, _: real.detach(), square_of_torch, lambda d, real, _: penalties.r1_penalty(d, real), False),
    Penalty("dragan", around, norm_of_torch, lambda d, real, _: penalties.dragan_penalty(d, real), True),
)


def script(critic: nn.Module, penalty: Penalty, real: Tensor, fake: Tensor) -> Tensor:
    """A penalty as everybody writes it."""
    points = penalty.points(real, fake).requires_grad_()
    logits = critic(points)
    (gradient,) = torch.autograd.grad(logits, points, torch.ones_like(logits), create_graph=True)
    return penalty.value(gradient)


def transformed(critic: nn.Module, penalty: Penalty) -> Function:
    """The same as a function of (*parameters, real, fake) that torch.func differentiates."""
    names = [name for name, _ in critic.named_parameters()]

    def value(*tensors: Tensor) -> Tensor:
        *parameters, real, fake = tensors
        named = dict(zip(names, parameters, strict=True))

        def total(points: Tensor) -> Tensor:
            return torch.func.functional_call(critic, named, (points,)).sum()

        return penalty.value(torch.func.grad(total)(penalty.points(real, fake)))

    return value


def under(dtype: str, function: Function) -> Function:
    """The function under bf16 autocast, if that is the dtype; a backward pass after it is outside, as it should be."""

    def run(*tensors: Tensor) -> Tensor:
        with torch.autocast(device(), torch.bfloat16, enabled=dtype == "bfloat16"):
            return function(*tensors)

    return run


class Masked(nn.Module):
    """Dropout by the masks that fastgan draws."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return x * Dropout(self.probability, next_masks(x.device)).scale(tuple(x.shape), x).to(x.dtype)


SEED, DRAWS = 5, 12  # of the gate
# relative errors: the largest that torch may have, and those of the value and of the gradients that fastgan may have whatever
# torch's are. One unit of one row that rounding puts on the other side of its kink makes 3e-4
LIMIT = {"float32": 5e-3, "bfloat16": 0.1}
FLOOR = {"float32": (1e-5, 1e-3), "bfloat16": (1e-2, 1e-2)}


class Gate:
    """What a critic's penalty is in fp64 by double backward, with fastgan's masks where there is dropout."""

    def __init__(self, critic: nn.Sequential, penalty: Penalty, rows: tuple[Tensor, Tensor], dtype: str) -> None:
        self.rows, self.dtype, self.penalty, self.parameters = rows, dtype, penalty, list(critic.parameters())
        # the same critic where there is no dropout
        self.twin = nn.Sequential(*(Masked(module.p) if isinstance(module, nn.Dropout) else module for module in critic))
        drops = any(isinstance(module, Masked) for module in self.twin)
        self.random = penalty.draws or drops
        with torch.autocast(device(), torch.bfloat16, enabled=dtype == "bfloat16"):
            # in autograd's way fastgan draws by the critic's own modules, and nobody's masks are alike
            self.comparable = not drops or closed_penalty.read(critic, rows[0]) is not None
        wide, wide_rows = copy.deepcopy(self.twin).double(), [x.double() for x in rows]
        self.exact = self.flat(partial(run_both, partial(script, wide, penalty), wide_rows, list(wide.parameters())))

    def flat(self, run: Callable[[], tuple], *, seed: int = SEED) -> Tensor:
        """The value, and all gradients after it in one vector, fp64; those that do not exist are 0."""
        torch.manual_seed(seed)
        value, *gradients = run()
        filled = (torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, gradients, strict=True))
        return torch.cat([x.detach().double().flatten() for x in (value, *filled)])

    def errors(self, run: Callable[[], tuple]) -> Tensor:
        """The relative errors of the value and of the gradients, [2]."""
        error, exact = self.flat(run) - self.exact, self.exact
        return torch.stack([error[0].abs() / exact[0].abs(), error[1:].norm() / exact[1:].norm()])

    def moments(self, run: Callable[[], tuple]) -> tuple[Tensor, Tensor]:
        """Means of the value and of the gradient's norm over some draws, [2], and the variances of those means."""
        results = [self.flat(run, seed=seed) for seed in range(DRAWS)]
        numbers = torch.stack([torch.stack([x[0], x[1:].norm()]) for x in results])
        return numbers.mean(0), numbers.var(0) / DRAWS

    def check(self, candidates: Candidates) -> None:
        """fastgan may err twice as much as torch with its random numbers; peers with others agree on average."""
        if not self.comparable:
            self.check_averages(*candidates.values())
            return
        limit, floor = LIMIT[self.dtype], torch.tensor(FLOOR[self.dtype], device=device())
        masked = under(self.dtype, partial(script, self.twin, self.penalty))
        torchs = self.errors(partial(run_both, masked, self.rows, self.parameters))
        ours = self.errors(candidates["fastgan"])
        assert (torchs <= limit).all(), f"torch errs by {torchs.tolist()}"
        assert (ours <= torch.maximum(2 * torchs, floor)).all(), f"fastgan errs by {ours.tolist()}, torch by {torchs.tolist()}"
        peers = [run for name, run in candidates.items() if name != "fastgan"]
        if self.random:
            self.check_averages(*peers)
        else:
            assert all((self.errors(run) <= limit).all() for run in peers), "a peer errs"

    def check_averages(self, eager: Callable[[], tuple], *others: Callable[[], tuple]) -> None:
        """Every other peer plays the same game as the eager one."""
        mean, variance = self.moments(eager)
        for run in others:
            average, spread = self.moments(run)
            allowed = 6 * (variance + spread).sqrt() + LIMIT[self.dtype] * mean.abs()
            assert ((average - mean).abs() <= allowed).all(), f"compiled: {average.tolist()}, eager: {mean.tolist()}"


def compare_penalty(
    bench: Bench, penalty: Penalty, critic: nn.Sequential, *, label: str, dtype: str, batch: int, compiles: bool
) -> None:
    """One penalty of one critic at one batch size."""
    real, fake = (torch.rand(batch, 1, 28, 28, device=device()).mul_(2).sub_(1) for _ in range(2))
    rows = real, fake
    parameters = list(critic.parameters())
    candidates: Candidates = {
        "torch": partial(run_both, under(dtype, partial(script, critic, penalty)), rows, parameters),
        "fastgan": partial(run_both, under(dtype, partial(penalty.fastgan, critic)), rows, parameters),
    }
    if compiles:
        region = compiled_both(under(dtype, transformed(critic, penalty)), range(len(parameters)))
        candidates["compile"] = partial(region, None, *(p.detach() for p in parameters), *rows)
    gate = Gate(critic, penalty, rows, dtype)
    bench.compare(candidates, check=partial(gate.check, candidates), label=label, shape=(batch,), dtype=dtype)
    forget()


FEW = ("norm", "gradient penalty: mlp")  # how labels begin that are compiled in a quick run


def main() -> None:
    """Every operator at every size, then every penalty of every critic; --quick takes fewer sizes, and compiles few."""
    given = parser("ops.penalty", __doc__)
    given.add_argument("--batches", type=int, nargs="+")
    given.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of whole penalties")
    add_option(given)
    options = given.parse_args()
    bench = Bench("ops.penalty", quick=options.quick, keep=not options.no_rows, patience=PATIENCE)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # float32 is what it says, on a GPU too
    for operators in (each for each in OPERATORS if options.only in f"{each.label}: gradient, both"):
        for shape in QUICK_SHAPES if options.quick else SHAPES:
            compare_operators(bench, operators, shape, is_wanted(operators.label, options, FEW))
    for penalty in PENALTIES:
        for name, make in CRITICS.items():
            label = f"{penalty.label}: {name}"
            for dtype in options.dtypes if options.only in label else ():
                for batch in options.batches or (QUICK_BATCHES if options.quick else BATCHES):
                    work: dict[str, Any] = dict(label=label, dtype=dtype, batch=batch, compiles=is_wanted(label, options, FEW))
                    compare_penalty(bench, penalty, make().to(device()), **work)
    bench.print()


if __name__ == "__main__":
    main()
