"""update: the rules against torch.optim; withholding, clipping, averaging, and gradients that are not finite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgan.ops.cpp.update import numbers as numbers_of
from fastgan.ops.update import state_size, update_

ADAM = dict(betas=(0.5, 0.999), eps=1e-8, weight_decay=0.0)
RULES = [
    pytest.param("sgd", {}, id="sgd"),
    pytest.param("sgd", dict(momentum=0.9), id="momentum"),
    pytest.param("sgd", dict(momentum=0.9, dampening=0.3, weight_decay=0.01), id="dampening"),
    pytest.param("sgd", dict(momentum=0.8, nesterov=True, weight_decay=0.02), id="nesterov"),
    pytest.param("rmsprop", {}, id="rmsprop"),
    pytest.param("rmsprop", dict(alpha=0.9, eps=1e-5, weight_decay=0.01), id="rmsprop with decay"),
    pytest.param("rmsprop", dict(momentum=0.7), id="rmsprop with momentum"),
    pytest.param("rmsprop", dict(centered=True), id="centered"),
    pytest.param("rmsprop", dict(momentum=0.7, centered=True, weight_decay=0.01), id="centered with momentum"),
    pytest.param("adam", ADAM, id="adam"),
    pytest.param("adam", dict(betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1), id="adam with decay"),
    pytest.param("adam", dict(betas=(0.0, 0.9)), id="adam without a mean"),
]
OPTIMIZERS = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}
SIZES = [1, 3, 17, 1023, 1025, 40_001]
SPECIAL = torch.tensor([torch.nan, torch.inf, -torch.inf])


@pytest.fixture(params=["reference", "cpp"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpp":
        request.getfixturevalue("requires_extension")
    return request.param


class Run:
    """A flat network under one rule; `step` is one update."""

    def __init__(
        self, weight: Tensor, rule: str, options: dict, *, backend: str, lr: float = 0.01, averaged: bool = False
    ) -> None:
        self.weight, self.rule, self.options, self.backend = weight.clone(), rule, options, backend
        self.state = [torch.zeros_like(weight) for _ in range(state_size(rule, options))]
        self.lr, self.count = torch.tensor(lr, dtype=torch.float64), torch.tensor(0)
        self.ema = weight.clone() if averaged else None

    def step(self, gradient: Tensor, *, withhold: bool = False, **extra) -> Tensor:
        extra |= dict(rule=self.rule, options=self.options, ema=self.ema, backend=self.backend)
        return update_(self.weight, gradient, self.state, self.lr, self.count, torch.tensor(withhold), **extra)

    def everything(self) -> list[Tensor]:
        return [self.weight, *self.state, self.count] + ([] if self.ema is None else [self.ema])

    def copy(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self.everything()]


def numbers(size: int, steps: int = 1, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """A weight and the gradients of some steps."""
    generator = torch.Generator().manual_seed(size)
    return [torch.randn(size, dtype=torch.float64, generator=generator).to(dtype) for _ in range(1 + steps)]


def by_torch(weight: Tensor, gradients: list[Tensor], rule: str, options: dict, lr: float = 0.01) -> Tensor:
    """The weight after torch.optim's own loop over single tensors."""
    parameter = weight.clone().requires_grad_()
    optimizer = OPTIMIZERS[rule]([parameter], lr=lr, foreach=False, **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("rule, options", RULES)
def test_twenty_steps_equal_torch_optim(rule: str, options: dict, backend: str) -> None:
    weight, *gradients = numbers(1025, 20)
    run = Run(weight, rule, options, backend=backend)
    for gradient in gradients:
        run.step(gradient)
    torch.testing.assert_close(run.weight, by_torch(weight, gradients, rule, options), rtol=1e-12, atol=1e-12)
    assert run.count == 20


@pytest.mark.parametrize("rule, options", RULES)
def test_fp32_errs_no_more_than_torch_optim(rule: str, options: dict, backend: str) -> None:
    exact_numbers = [x.float().double() for x in numbers(5000, 3)]
    weight, *gradients = [x.float() for x in exact_numbers]
    run = Run(weight, rule, options, backend=backend)
    for gradient in gradients:
        run.step(gradient)
    exact = by_torch(exact_numbers[0], exact_numbers[1:], rule, options)
    torch_error = (by_torch(weight, gradients, rule, options) - exact).abs().max()
    assert (run.weight - exact).abs().max() <= 2 * torch_error + 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_and_its_sums(size: int, dtype: torch.dtype, backend: str) -> None:
    weight, gradient = numbers(size, dtype=dtype)
    run = Run(weight, "adam", ADAM, backend=backend)
    totals = run.step(gradient)
    expected = by_torch(weight.double(), [gradient.double()], "adam", ADAM)
    tolerance = 2.0**-22 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(run.weight.double(), expected, rtol=tolerance, atol=tolerance)
    squares = gradient.double().square().sum()
    torch.testing.assert_close(totals.double(), torch.stack((squares, 0 * squares)), rtol=4e-7, atol=0)
    assert totals.dtype == dtype


def test_adam_without_memory_forgets_a_gradient_that_was_larger(backend: str) -> None:
    """With betas of 0 every step is lr * sign(g), whatever came before it."""
    run = Run(torch.zeros(40), "adam", dict(betas=(0.0, 0.0)), backend=backend)
    run.step(torch.full((40,), 1e4))
    before = run.weight.clone()
    run.step(torch.full((40,), -1e-4))
    torch.testing.assert_close(run.weight - before, torch.full((40,), 0.01), rtol=1e-3, atol=0)


def test_no_weights_are_no_work(backend: str) -> None:
    run = Run(torch.empty(0), "adam", ADAM, backend=backend)
    assert run.step(torch.empty(0)).tolist() == [0.0, 0.0]
    assert run.count == 1


@pytest.mark.parametrize("rule, options", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_that_is_not_finite_stays_out(rule: str, options: dict, dtype: torch.dtype, backend: str) -> None:
    weight, first, second = numbers(1025, 2, dtype)
    bad = torch.tensor([0, 513, 1024])
    run, clean = (Run(weight, rule, options, backend=backend, averaged=True) for _ in range(2))
    for each in (run, clean):
        each.step(first)
    before = run.copy()
    totals = run.step(second.index_copy(0, bad, SPECIAL.to(dtype)), ema_decay=0.9)
    clean.step(second, ema_decay=0.9)
    good = torch.ones(1025, dtype=torch.bool).index_fill(0, bad, False)
    for now, then, expected in zip(run.everything()[: 1 + len(run.state)], before, clean.everything(), strict=False):
        assert torch.equal(now[bad], then[bad])
        assert torch.equal(now[good], expected[good])
    # the first step left the average at the weights, and a weight that stays keeps its average
    assert run.ema is not None and torch.equal(run.ema[bad], run.weight[bad])
    assert torch.equal(run.ema[good], clean.ema[good])
    assert totals[1] == 3
    torch.testing.assert_close(totals[0].double(), second[good].double().square().sum(), rtol=1e-6, atol=0)
    assert all(tensor.isfinite().all() for tensor in run.everything())


@pytest.mark.parametrize("rule, options", RULES)
def test_a_withheld_step_changes_nothing_and_still_counts(rule: str, options: dict, backend: str) -> None:
    weight, first, second = numbers(1025, 2)
    second[7] = torch.nan
    run = Run(weight, rule, options, backend=backend, averaged=True)
    run.step(first, ema_decay=0.5)
    before = run.copy()
    totals = run.step(second, withhold=True, clip=0.01, ema_decay=0.5)
    assert all(torch.equal(now, then) for now, then in zip(run.everything(), before, strict=True))
    assert totals[1] == 1
    torch.testing.assert_close(totals[0], second.nan_to_num(0.0).square().sum(), rtol=1e-12, atol=0)


def test_a_run_begins_with_the_first_step_that_is_taken(backend: str) -> None:
    weight, first, second = numbers(65, 2)
    run, fresh = (Run(weight, "sgd", dict(momentum=0.9, dampening=0.5), backend=backend) for _ in range(2))
    run.step(first, withhold=True)
    for each in (run, fresh):
        each.step(second)
    assert torch.equal(run.weight, fresh.weight)


def test_weights_are_clipped_before_they_are_averaged(backend: str) -> None:
    weight, gradient = numbers(1025)
    plain, run = (Run(weight, "sgd", {}, backend=backend, averaged=averaged) for averaged in (False, True))
    plain.step(gradient)
    run.step(gradient, clip=0.5, ema_decay=0.9)
    assert torch.equal(run.weight, plain.weight.clamp(-0.5, 0.5))
    torch.testing.assert_close(run.ema, 0.9 * weight + 0.1 * run.weight, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_average_is_exponential(decay: float, dtype: torch.dtype, backend: str) -> None:
    weight, *gradients = numbers(301, 5, dtype)
    run = Run(weight, "sgd", {}, backend=backend, averaged=True)
    expected = weight.double()
    for gradient in gradients:
        run.step(gradient, ema_decay=decay)
        expected = decay * expected + (1 - decay) * run.weight.double()
    torch.testing.assert_close(run.ema.double(), expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


def test_the_average_of_a_constant_is_that_constant(backend: str) -> None:
    weight = torch.randn(4099)
    run = Run(weight, "sgd", {}, backend=backend, averaged=True)
    for _ in range(50):
        run.step(torch.zeros_like(weight), ema_decay=0.999)
    assert torch.equal(run.ema, weight)


@pytest.mark.parametrize("rule, options", RULES)
def test_the_result_does_not_depend_on_the_threads(
    rule: str, options: dict, requires_extension: None, set_threads: Callable[[int], None]
) -> None:
    weight, gradient = numbers(150_001, dtype=torch.float32)
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        run = Run(weight, rule, options, backend="cpp", averaged=True)
        results.append([run.step(gradient, ema_decay=0.9), *run.everything()])
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("count", [torch.tensor(3), torch.tensor(3.0), torch.tensor(3.0, dtype=torch.float64)])
@pytest.mark.parametrize("lr", [torch.tensor(0.01), torch.tensor(0.01, dtype=torch.float64)])
def test_counts_and_rates_of_every_dtype(count: Tensor, lr: Tensor, backend: str) -> None:
    weight, gradient = numbers(33, dtype=torch.float32)
    results = []
    for chosen in ("reference", backend):
        run = Run(weight, "adam", ADAM, backend=chosen)
        run.count, run.lr = count.clone(), lr
        run.step(gradient)
        assert run.count == 4
        assert run.count.dtype == count.dtype
        results.append(run.weight)
    torch.testing.assert_close(*results, rtol=2e-7, atol=1e-9)


def test_what_cpp_does_not_have_runs_the_reference(requires_extension: None) -> None:
    weight, gradient = numbers(64)
    contiguous, strided = (Run(weight, "adam", ADAM, backend="cpp") for _ in range(2))
    strided.weight = torch.stack((weight, weight), dim=1)[:, 0]
    for run in (contiguous, strided):
        run.step(gradient)
    torch.testing.assert_close(strided.weight, contiguous.weight, rtol=1e-14, atol=1e-14)


def test_autograd_notices_that_the_weights_have_changed(backend: str) -> None:
    run = Run(torch.randn(8), "sgd", {}, backend=backend)
    x = torch.randn(8, requires_grad=True)
    product = (x * run.weight).sum()
    run.step(torch.randn(8))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize(
    "change, message",
    [
        pytest.param(dict(state=1), "keeps 2 buffers, not 1", id="state"),
        pytest.param(dict(gradient=torch.zeros(4)), "gradient must be contiguous", id="a short gradient"),
        pytest.param(dict(gradient=torch.zeros(8, dtype=torch.float32)), "gradient must be contiguous", id="another dtype"),
        pytest.param(dict(ema=torch.zeros(7, dtype=torch.float64)), "ema must be contiguous", id="a short ema"),
        pytest.param(dict(options=[0.9, 0.999, 1e-8]), "adam has 4 options, not 3", id="an option too few"),
        pytest.param(dict(options=[0.9, 0.999, 1e-8, 0.0, 0.0]), "adam has 4 options, not 5", id="an option too many"),
        pytest.param(dict(rule="sgd", options=[], state=0), "sgd has 4 options, not 0", id="sgd without options"),
        pytest.param(dict(rule="rmsprop", options=[0.99], state=1), "rmsprop has 5 options, not 1", id="rmsprop's alpha alone"),
        pytest.param(dict(rule="no-such-rule"), "unknown rule no-such-rule", id="rule"),
        pytest.param(dict(lr=torch.zeros(2)), "lr must hold one number", id="two rates"),
    ],
)
def test_what_does_not_fit_is_an_error_and_changes_nothing(change: dict, message: str, requires_extension: None) -> None:
    weight, gradient = numbers(8)
    before, count = weight.clone(), torch.tensor(0)
    given = dict(rule="adam", options=[0.9, 0.999, 1e-8, 0.0], state=2, lr=torch.tensor(0.1), gradient=gradient) | change
    state = [torch.zeros(8, dtype=torch.float64) for _ in range(given["state"])]
    arguments = (weight, given["gradient"], state, given["lr"], count, torch.tensor(False), given["rule"], given["options"])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastgan.update_.default(*arguments, ema=given.get("ema"))
    assert torch.equal(weight, before) and count == 0


def test_an_unknown_rule_or_option_is_an_error(backend: str) -> None:
    weight, gradient = numbers(8)
    for rule, options in (("no-such-rule", {}), ("sgd", dict(betas=(0.5, 0.9)))):
        run = Run(weight, "sgd", {}, backend=backend)
        run.rule, run.options = rule, options
        with pytest.raises((KeyError, TypeError, RuntimeError)):
            run.step(gradient)
        assert torch.equal(run.weight, weight)
    with pytest.raises(KeyError, match="no-such-rule"):
        state_size("no-such-rule", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule, options",
    [
        pytest.param("sgd", dict(momentum=0.9, nesterov=True), id="sgd"),
        pytest.param("rmsprop", dict(momentum=0.9, centered=True), id="rmsprop"),
        pytest.param("adam", ADAM, id="adam"),
    ],
)
@pytest.mark.parametrize("averaged", [False, True])
def test_opcheck(rule: str, options: dict, averaged: bool, requires_extension: None) -> None:
    weight, gradient, average = torch.randn(3, 40).unbind()
    state = [torch.rand(40) for _ in range(state_size(rule, options))]
    arguments = (weight.clone(), gradient.clone(), state, torch.tensor(0.1), torch.tensor(0), torch.tensor(False), rule)
    extra = dict(clip=0.5, ema_decay=0.9, ema=average.clone() if averaged else None)
    torch.library.opcheck(torch.ops.fastgan.update_.default, (*arguments, numbers_of(rule, options)), extra)
