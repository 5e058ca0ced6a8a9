"""Penalties as people write them: right ones pass, and each known mistake is called by its name and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgan import penalties, testing
from fastgan.chain import penalty as closed_penalty
from fastgan.testing.critics import PiecewiseLinear
from fastgan.testing.remedies import OF_ANYTHING, OF_BOTH, OF_PENALTIES

pytestmark = pytest.mark.usefixtures("one_thread")

Call = Callable[..., Tensor]
Case = tuple[set[str], Call]
BOTH_METHODS = pytest.mark.parametrize("method", ["auto", "autograd"])


def names(faults: tuple[testing.Fault, ...]) -> set[str]:
    assert all(fault.evidence and fault.remedy for fault in faults)
    return {fault.name for fault in faults}


def wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def norms(g: Tensor) -> Tensor:
    return torch.linalg.vector_norm(wide(g).flatten(1), dim=1)


def squares(g: Tensor) -> Tensor:
    return wide(g).flatten(1).square().sum(1)


def sums(critic: Call, x: Tensor) -> Tensor:
    return critic(x).sum()


def slopes(critic: Call, x: Tensor, *, output: Call = sums, create_graph: bool = True) -> Tensor:
    return torch.autograd.grad(output(critic, x), x, create_graph=create_graph)[0]


def per_sample(real: Tensor) -> Tensor:
    return torch.rand(len(real), 1, 1, 1)


def mixed(alpha: Call = per_sample) -> Call:
    def points(real: Tensor, fake: Tensor) -> Tensor:
        a = alpha(real)
        return a * real + (1 - a) * fake

    return points


def compose(
    critic: Call,
    real: Tensor,
    fake: Tensor,
    *,
    points: Call = mixed(),  # noqa: B008
    gradient: Call = slopes,
    size: Call = norms,
    distance: Call = lambda n: (n - 1).square(),
    mean: Call = torch.mean,
    weight: float = 10.0,
) -> Tensor:
    """A gradient penalty of exchangeable parts."""
    x = points(real, fake).detach().requires_grad_()
    return weight * mean(distance(size(gradient(critic, x))))


def gp(**parts: Any) -> Call:
    return partial(compose, **parts)


def squared(**parts: Any) -> Call:
    """R1 or R2: one batch, gamma 10."""
    parts = {"points": lambda x, _: x, "size": squares, "distance": lambda n: n, "weight": 5.0} | parts
    return lambda critic, x: compose(critic, x, x, **parts)


def dragan(noise: Call) -> Call:
    """DRAGAN with points x + noise(x)."""
    return lambda critic, x: compose(critic, x, x, points=lambda x, _: x + noise(x))


def stepped(noise: Call = lambda x: 0.5 * x.std() * torch.rand_like(x), alpha: Call = per_sample) -> Call:
    """DRAGAN with points on the way to x + noise(x), as its authors' code has it."""
    return dragan(lambda x: alpha(x) * noise(x))


def relu_squared(n: Tensor) -> Tensor:
    return (n - 1).relu().square()


def half_detached(n: Tensor) -> Tensor:
    return (n - 1).detach() * (n - 1)


def via_backward(critic: Call, x: Tensor) -> Tensor:
    critic(x).sum().backward(create_graph=True)
    assert x.grad is not None
    return x.grad


def switches_requires_grad_on(critic: Call, real: Tensor) -> Tensor:
    return 5.0 * squares(slopes(critic, real.requires_grad_())).mean()


def mixes_in_place(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    return compose(critic, fake.sub_(real).mul_(torch.rand(len(real), 1, 1, 1)).add_(real), fake, points=lambda x, _: x)


def without_wide(g: Tensor) -> Tensor:
    return g.flatten(1).norm(2, dim=1)


def by_einsum(g: Tensor) -> Tensor:
    return torch.einsum("bi,bi->b", g.flatten(1), g.flatten(1))


def from_both_batches(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    return compose(critic, torch.cat([real, fake]), fake, points=lambda x, _: x)


def in_evaluation(penalty: Call) -> Call:
    return lambda critic, real, fake: penalty(critic.eval() if isinstance(critic, torch.nn.Module) else critic, real, fake)


def frozen(penalty: Call) -> Call:
    """Freezes the biases and forgets to put them back."""

    def call(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
        value = penalty(critic, real, fake)
        for parameter in critic.parameters() if isinstance(critic, torch.nn.Module) else ():
            parameter.requires_grad_(parameter.dim() > 1)
        return value

    return call


GRADIENT_PENALTIES: dict[str, Case] = {
    "torch.norm of all": ({"norm over the whole batch"}, gp(size=lambda g: g.norm(2))),
    "norm(2, dim=1) of images": ({"norm over the channels only"}, gp(size=lambda g: wide(g).norm(2, dim=1))),
    "squared": ({"squared norm instead of the norm"}, gp(size=squares)),
    "root mean square": ({"mean over features instead of the sum"}, gp(size=lambda g: norms(g) / g[0].numel() ** 0.5)),
    "L1": ({"L1 norm instead of the L2 norm"}, gp(size=lambda g: wide(g).flatten(1).abs().sum(1))),
    "no target": ({"target ignored"}, gp(distance=torch.square)),
    "averaged first": ({"norms averaged before the square"}, gp(size=lambda g: norms(g).mean())),
    "halved": ({"halved"}, gp(weight=5.0)),
    "doubled": ({"doubled"}, gp(weight=20.0)),
    "no weight": ({"weight ignored"}, gp(weight=1.0)),
    "sum": ({"summed over rows instead of averaged"}, gp(mean=torch.sum)),
    "gradient of the mean": (
        {"gradient of the critic's mean instead of its sum"},
        gp(gradient=partial(slopes, output=lambda critic, x: critic(x).mean())),
    ),
    "relu": ({"one-sided where two-sided was asked"}, gp(distance=relu_squared)),
    "absolute": ({"wrong value"}, gp(distance=lambda n: (n - 1).abs())),
    "no critic": ({"critic not asked"}, lambda critic, real, fake: real.sum() * 0),
    "alpha 1": ({"taken at the real rows"}, gp(points=lambda real, fake: real)),
    "alpha 0": ({"taken at the fake rows"}, gp(points=lambda real, fake: fake)),
    "noise": ({"taken off the line between real and fake"}, gp(points=lambda real, _: real + 0.5 * torch.rand_like(real))),
    "both batches": ({"taken at the wrong points"}, from_both_batches),
    "scalar alpha": ({"one alpha for the whole batch"}, gp(points=mixed(lambda real: torch.rand(1)))),
    "rand_like": ({"one alpha per element"}, gp(points=mixed(torch.rand_like))),
    "one row's rand_like": ({"one alpha per element"}, gp(points=mixed(lambda real: torch.rand_like(real[0])))),
    "normal alpha": ({"alpha not uniform in [0, 1]"}, gp(points=mixed(lambda real: torch.randn(len(real), 1, 1, 1)))),
    "alpha 0.5": ({"alpha not uniform in [0, 1]"}, gp(points=mixed(lambda real: 0.5))),
    "near real": ({"alpha not uniform in [0, 1]"}, gp(points=mixed(lambda real: 0.5 + 0.5 * per_sample(real)))),
    "no create_graph": ({"no graph to the critic's parameters"}, gp(gradient=partial(slopes, create_graph=False))),
    "item": ({"no graph to the critic's parameters"}, lambda *batch: torch.tensor(compose(*batch).item())),
    "detached norm": ({"wrong gradient by the critic's parameters"}, gp(distance=half_detached)),
    "sqrt of 0": ({"slope not finite at zero gradient"}, gp(size=lambda g: squares(g).sqrt())),
    "in place": ({"the caller's tensors are modified"}, mixes_in_place),
    "eval": ({"the critic is changed"}, in_evaluation(gp())),
    "frozen": ({"the critic is changed"}, frozen(gp())),
    "backward": ({".grad of the critic's parameters filled"}, gp(gradient=via_backward)),
    "einsum": ({"value in half precision inside autocast"}, gp(size=lambda g: (by_einsum(g) + 1e-12).sqrt())),
    "bf16 rows": (
        {"value in half precision inside autocast"},
        gp(size=without_wide, points=mixed(lambda real: torch.rand_like(real[:, :1, :1, :1]))),
    ),
    "misspelt": ({"raises an error"}, gp(points=lambda real, fake: real.lerped(fake, 0.5))),
    "no reduction": ({"not a 0-d tensor"}, gp(mean=lambda n: n)),
    "a float": ({"not a 0-d tensor"}, lambda *batch: compose(*batch).item()),
    # several at once, as they were published
    "torchgan": (
        {"norm over the whole batch", "one alpha for the whole batch"},
        gp(size=lambda g: g.norm(2), points=mixed(lambda real: torch.rand(1))),
    ),
    "sum without weight": ({"summed over rows instead of averaged", "weight ignored"}, gp(mean=torch.sum, weight=1.0)),
    "normal per element": ({"one alpha per element", "alpha not uniform in [0, 1]"}, gp(points=mixed(torch.randn_like))),
    "normal scalar": (
        {"one alpha for the whole batch", "alpha not uniform in [0, 1]"},
        gp(points=mixed(lambda real: torch.randn(1))),
    ),
}

SQUARED_PENALTIES: dict[str, Case] = {
    "gamma": ({"halved convention lost"}, squared(weight=10.0)),
    "gamma / 4": ({"halved"}, squared(weight=2.5)),
    "no gamma": ({"weight ignored"}, squared(weight=0.5)),
    "norm": ({"norm instead of the squared norm"}, squared(size=norms)),
    "mean of squares": ({"mean over features instead of the sum"}, squared(size=lambda g: wide(g).square().mean())),
    "channels": ({"norm over the channels only"}, squared(size=lambda g: wide(g).square().sum(1))),
    "norm of all, squared": ({"summed over rows instead of averaged"}, squared(size=lambda g: wide(g).square().sum())),
    "moved": ({"taken at the wrong points"}, squared(points=lambda x, _: x + 0.1)),
    "gradient of the mean": (
        {"gradient of the critic's mean instead of its sum"},
        squared(gradient=partial(slopes, output=lambda critic, x: critic(x).mean())),
    ),
    "requires_grad_": ({"requires_grad switched on in the caller's tensors"}, switches_requires_grad_on),
    "no halves": ({"halved convention lost", "weight ignored"}, squared(weight=1.0)),
    "no create_graph": ({"no graph to the critic's parameters"}, squared(gradient=partial(slopes, create_graph=False))),
    "bf16 rows": ({"value in half precision inside autocast"}, squared(size=lambda g: g.flatten(1).square().sum(1))),
}

DRAGAN_PENALTIES: dict[str, Case] = {
    "randn": ({"noise normal instead of uniform"}, dragan(lambda x: 0.5 * x.std() * torch.randn_like(x))),
    "rand - 0.5": ({"noise centred on the real rows"}, dragan(lambda x: 0.5 * x.std() * (torch.rand_like(x) - 0.5))),
    "2 rand - 1": ({"noise centred on the real rows"}, dragan(lambda x: 0.5 * x.std() * (2 * torch.rand_like(x) - 1))),
    "squared rand": ({"noise not uniform in [0, 1)"}, dragan(lambda x: 0.5 * x.std() * torch.rand_like(x) ** 2)),
    "one per sample": ({"one noise value per sample"}, dragan(lambda x: 0.5 * x.std() * torch.rand(len(x), 1, 1, 1))),
    "std(0)": ({"std of each feature instead of the whole batch"}, dragan(lambda x: 0.5 * x.std(0) * torch.rand_like(x))),
    "std of samples": (
        {"std of each sample instead of the whole batch"},
        dragan(lambda x: 0.5 * x.flatten(1).std(1).view(-1, 1, 1, 1) * torch.rand_like(x)),
    ),
    "no std": ({"std ignored"}, dragan(lambda x: 0.5 * torch.rand_like(x))),
    "no std_scale": ({"std_scale ignored"}, dragan(lambda x: x.std() * torch.rand_like(x))),
    "none": ({"taken at the real rows"}, dragan(torch.zeros_like)),
    "normal by feature": (
        {"noise normal instead of uniform", "std of each feature instead of the whole batch"},
        dragan(lambda x: 0.5 * x.std(0) * torch.randn_like(x)),
    ),
    "step of elements": ({"one alpha per element"}, stepped(alpha=torch.rand_like)),
    "one step": ({"one alpha for the whole batch"}, stepped(alpha=lambda x: torch.rand(1))),
    "half a step": ({"noise not uniform in [0, 1)"}, stepped(alpha=lambda x: 0.5)),
    "step to randn": ({"noise normal instead of uniform"}, stepped(lambda x: 0.5 * x.std() * torch.randn_like(x))),
    "step to std(0)": (
        {"std of each feature instead of the whole batch"},
        stepped(lambda x: 0.5 * x.std(0) * torch.rand_like(x)),
    ),
    "step without std_scale": ({"std_scale ignored"}, stepped(lambda x: x.std() * torch.rand_like(x))),
}


@BOTH_METHODS
@pytest.mark.parametrize("options", [{}, {"weight": 0.3}, {"target": 0.0}, {"target": 750.0}, {"one_sided": True}], ids=str)
def test_fastgans_gradient_penalty_conforms(options: dict[str, Any], method: str) -> None:
    penalty = partial(penalties.gradient_penalty, method=method, **options)
    assert testing.diagnose_gradient_penalty(penalty, half_precision=True, **options) == ()
    testing.check_gradient_penalty(penalty, **options)


@BOTH_METHODS
def test_fastgans_other_penalties_conform(method: str) -> None:
    testing.check_r1_penalty(partial(penalties.r1_penalty, gamma=0.2, method=method), gamma=0.2)
    testing.check_r2_penalty(partial(penalties.r2_penalty, method=method))
    testing.check_dragan_penalty(
        partial(penalties.dragan_penalty, weight=1.0, std_scale=2.0, method=method), weight=1.0, std_scale=2.0
    )


def test_the_critic_with_parameters_has_a_closed_form_in_fastgan() -> None:
    assert closed_penalty.read(PiecewiseLinear((4, 3, 2, 2), 1.0, torch.float64).critic, torch.zeros(4, 3, 2, 2).double())


def in_fp32(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    """Raises for fp64 rows."""
    return compose(critic, real, fake, points=lambda real, fake: torch.lerp(real, fake, per_sample(real)))


def row_by_row(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    return torch.stack([compose(critic, real[i : i + 1], fake[i : i + 1]) for i in range(len(real))]).mean()


def by_torch_func(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    gradient = torch.func.vmap(torch.func.grad(lambda row: critic(row[None]).sum()))
    return 10.0 * (norms(gradient(mixed()(real, fake))) - 1).square().mean()


RIGHT = {
    "composed": gp(),
    "eps inside the root": gp(size=lambda g: (squares(g) + 1e-4).sqrt()),
    "grad_outputs": gp(
        gradient=lambda critic, x: torch.autograd.grad((y := critic(x)), x, torch.ones_like(y), create_graph=True)[0]
    ),
    "fp32 only": in_fp32,
    "row by row": row_by_row,
    "torch.func": by_torch_func,
}


@pytest.mark.parametrize("penalty", RIGHT.values(), ids=RIGHT)
def test_right_penalties_conform(penalty: Call) -> None:
    assert testing.diagnose_gradient_penalty(penalty) == ()


def test_right_penalties_of_one_batch_conform() -> None:
    assert testing.diagnose_r1_penalty(squared()) == testing.diagnose_r2_penalty(squared()) == ()
    assert testing.diagnose_dragan_penalty(dragan(lambda x: 0.5 * x.std() * torch.rand_like(x))) == ()
    assert testing.diagnose_dragan_penalty(stepped(), half_precision=True) == ()
    assert testing.diagnose_dragan_penalty(stepped(lambda x: 2.0 * x.std() * torch.rand_like(x)), std_scale=2.0) == ()


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(("expected", "penalty"), GRADIENT_PENALTIES.values(), ids=GRADIENT_PENALTIES)
def test_a_gradient_penaltys_mistake_has_a_name(expected: set[str], penalty: Call) -> None:
    assert names(testing.diagnose_gradient_penalty(penalty, half_precision=True)) == expected


def test_two_sided_where_one_sided_was_asked() -> None:
    assert names(testing.diagnose_gradient_penalty(gp(), one_sided=True)) == {"two-sided where one-sided was asked"}
    assert testing.diagnose_gradient_penalty(gp(distance=relu_squared), one_sided=True) == ()


@pytest.mark.parametrize("diagnose", [testing.diagnose_r1_penalty, testing.diagnose_r2_penalty], ids=["r1", "r2"])
@pytest.mark.parametrize(("expected", "penalty"), SQUARED_PENALTIES.values(), ids=SQUARED_PENALTIES)
def test_a_squared_penaltys_mistake_has_a_name(expected: set[str], penalty: Call, diagnose: Call) -> None:
    assert names(diagnose(penalty, half_precision=True)) == expected


@pytest.mark.filterwarnings("ignore:std")  # of one row
@pytest.mark.parametrize(("expected", "penalty"), DRAGAN_PENALTIES.values(), ids=DRAGAN_PENALTIES)
def test_a_dragan_penaltys_mistake_has_a_name(expected: set[str], penalty: Call) -> None:
    assert names(testing.diagnose_dragan_penalty(penalty, half_precision=True)) == expected


def test_every_name_has_a_mistake_here() -> None:
    tables = (GRADIENT_PENALTIES, SQUARED_PENALTIES, DRAGAN_PENALTIES)
    shown = set().union(*(expected for table in tables for expected, _ in table.values()))
    assert shown | {"two-sided where one-sided was asked"} == set(OF_ANYTHING) | set(OF_BOTH) | set(OF_PENALTIES)


def test_the_error_says_what_was_found_and_what_to_do() -> None:
    with pytest.raises(testing.ConformanceError) as raised:
        testing.check_gradient_penalty(GRADIENT_PENALTIES["torchgan"][1])
    error = raised.value
    assert isinstance(error, AssertionError) and len(error.faults) == 2
    assert "gradient penalty: 2 faults" in str(error)
    for fault in error.faults:
        assert all(part in str(error) for part in fault[:3])
    assert "expected 0, got 15.2786 for every gradient of norm 1, shape [5, 1, 4, 3]" in str(error)  # 10 (sqrt(5) - 1)^2
    assert pickle.loads(pickle.dumps(error)).faults == error.faults


def test_nothing_of_the_callers_changes() -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        first = testing.diagnose_gradient_penalty(gp(size=squares))
        torch.rand(3)
        assert testing.diagnose_gradient_penalty(gp(size=squares)) == first
        assert not torch.is_grad_enabled()
    torch.set_rng_state(before)
    testing.diagnose_dragan_penalty(penalties.dragan_penalty)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_of_fastgan_is_asked_for_the_expected_values() -> None:
    lines = [line for path in Path(testing.__file__).parent.glob("*.py") for line in path.read_text().splitlines()]
    taken = [line for line in lines if line.startswith(("from ..", "import fastgan", "from fastgan"))]
    assert [line for line in taken if ".arguments import" not in line] == ["from ..losses import resolve_kind"]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_tells_nothing_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        testing.diagnose_gradient_penalty(gp(), weight=weight)
    with pytest.raises(ValueError, match="weight"):
        testing.diagnose_r1_penalty(squared(), gamma=weight)
