"""update where a new weight would not be finite: the weight stays, is counted once, and all others go on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgan.ops.update import update_
from tests.ops.test_update import ADAM, RULES, SIZES, SPECIAL, Run, by_torch, numbers

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=["reference", "cpp"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpp":
        request.getfixturevalue("requires_extension")
    return request.param


@pytest.mark.parametrize("rule, options", RULES)
@pytest.mark.parametrize("dtype, rate", [(torch.float32, 1e39), (torch.float32, math.inf), (torch.float64, math.inf)])
def test_a_rate_that_overflows_leaves_all_weights_alone(
    rule: str, options: dict, dtype: torch.dtype, rate: float, backend: str
) -> None:
    weight, gradient = numbers(1025, dtype=dtype)
    gradient[[3, 1024]] = 0.0  # 0 * inf is no number either
    run, slow = (Run(weight, rule, options, backend=backend, lr=lr, averaged=True) for lr in (rate, 0.0))
    for each in (run, slow):
        totals = each.step(gradient, ema_decay=0.9)
        assert totals[1] == (1025 if each is run else 0)
    for now, expected in zip(run.everything(), slow.everything(), strict=True):
        assert torch.equal(now, expected), "moments and the count move on as at any other rate"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_each_weight_is_counted_once_and_its_neighbours_step(size: int, dtype: torch.dtype, backend: str) -> None:
    """At a rate near the largest number some steps overflow, beside gradients that are not finite, at any place."""
    weight, gradient = numbers(size, dtype=dtype)
    rate = torch.finfo(dtype).max / 16
    gradient *= 1e-4 / rate
    overflowing, bad = torch.arange(size) % 7 == 5, torch.arange(size) % 11 == 5
    gradient[overflowing] = 1e2 * (weight[overflowing].sign() - 0.5)
    gradient[bad] = SPECIAL.to(dtype).repeat(size)[: int(bad.sum())]
    run, clean = (Run(weight, "sgd", {}, backend=backend, lr=rate, averaged=True) for _ in range(2))
    totals = run.step(gradient, ema_decay=0.75)
    left = overflowing | bad
    clean.step(gradient.masked_fill(left, 0.0), ema_decay=0.75)
    assert totals[1] == left.sum()
    assert (torch.equal(run.weight[left], weight[left]) and not torch.equal(run.weight, weight)) or size < 3
    for now, expected in zip(run.everything(), clean.everything(), strict=True):
        assert torch.equal(now, expected)


@pytest.mark.parametrize("rule, options", RULES)
def test_a_step_within_range_is_taken_beside_one_that_is_not(rule: str, options: dict, backend: str) -> None:
    """Under every rule: steps of about the rate's size from near the end of the range, outwards and inwards."""
    largest = torch.finfo(torch.float32).max
    weight, inwards = torch.tensor([0.4998, -0.4998]).repeat(40) * largest, torch.arange(80) % 3 == 0
    gradient = torch.where(inwards, weight.sign(), -weight.sign())
    options = {**options, "weight_decay": 0.0}
    run = Run(weight, rule, options, backend=backend, lr=0.01 * largest)
    totals = run.step(gradient)
    expected = by_torch(weight.double(), [gradient.double()], rule, options, lr=0.01 * largest)
    fits = expected.abs() <= largest / 2
    assert torch.equal(fits, inwards)
    assert totals[1] == (~fits).sum() and torch.equal(run.weight[~fits], weight[~fits])
    torch.testing.assert_close(run.weight[fits].double(), expected[fits], rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_clip_bounds_what_is_infinite_and_not_what_is_no_number(dtype: torch.dtype, backend: str) -> None:
    weight, gradient = numbers(1025, dtype=dtype)
    weight, gradient[7] = weight.clamp(-0.3, 0.3), 0.0
    run = Run(weight, "sgd", {}, backend=backend, lr=math.inf, averaged=True)
    totals = run.step(gradient, clip=0.5, ema_decay=0.5)
    expected = -0.5 * gradient.sign()
    expected[7] = weight[7]
    assert totals[1] == 1 and torch.equal(run.weight, expected)
    torch.testing.assert_close(run.ema, (weight + expected) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_averages_of_the_largest_weights_are_finite(dtype: torch.dtype, decay: float, backend: str) -> None:
    """Weights that fall from one end of their range to the other."""
    largest = torch.finfo(dtype).max / 2
    run = Run(torch.full((70,), 0.99 * largest, dtype=dtype), "sgd", {}, backend=backend, lr=1.9 * largest, averaged=True)
    sign = torch.ones(70, dtype=dtype)
    for _ in range(3):
        assert run.step(sign, ema_decay=decay)[1] == 0
        assert run.weight.isfinite().all() and run.ema.isfinite().all()
        sign.neg_()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_whose_squares_overflow_are_stepped_like_others(dtype: torch.dtype, backend: str) -> None:
    weight, gradient = numbers(1025, dtype=dtype)
    large = torch.finfo(dtype).max ** 0.5 * 4
    gradient[[0, 500, 1024]] = torch.tensor([large, -large, large], dtype=dtype)
    run = Run(weight, "sgd", {}, backend=backend, lr=1.0 / large)
    totals = run.step(gradient)
    assert totals[0] == torch.inf and totals[1] == 0
    torch.testing.assert_close(run.weight, weight - gradient / large)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule, options", [("adam", ADAM), ("rmsprop", {}), ("rmsprop", dict(centered=True))])
@pytest.mark.parametrize("eps", [0.0, 1e-320])
def test_without_an_eps_weights_that_never_had_a_gradient_stay(
    rule: str, options: dict, eps: float, dtype: torch.dtype, backend: str
) -> None:
    """As what fills a buffer up between parameters: 0 / 0 is no step, and no fault."""
    weight, *gradients = numbers(257, 3, dtype)
    still = torch.arange(257) % 5 == 0
    run = Run(weight, rule, {**options, "eps": eps}, backend=backend)
    for gradient in gradients:
        assert run.step(gradient.masked_fill(still, 0.0))[1] == 0
    expected = by_torch(weight.double(), [each.double() for each in gradients], rule, {**options, "eps": eps})
    assert torch.equal(run.weight[still], weight[still])
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(run.weight[~still].double(), expected[~still], rtol=tolerance, atol=tolerance)


def test_a_withheld_step_counts_gradients_alone(backend: str) -> None:
    weight, gradient = numbers(130)
    weight[[1, 99]], gradient[5] = torch.inf, torch.nan
    run = Run(weight, "sgd", {}, backend=backend, lr=math.inf)
    assert run.step(gradient, withhold=True)[1] == 1
    assert torch.equal(run.weight, weight) and run.count == 0


def test_a_weight_that_is_infinite_already_stays_and_is_counted(backend: str) -> None:
    weight, gradient = numbers(130)
    weight[[1, 99]] = torch.tensor([torch.inf, torch.nan], dtype=torch.float64)
    run = Run(weight, "sgd", {}, backend=backend)
    assert run.step(gradient)[1] == 2
    assert run.weight[1] == torch.inf and run.weight[99].isnan() and run.weight.isfinite().sum() == 128


def test_what_is_left_alone_does_not_depend_on_the_threads(
    requires_extension: None, set_threads: Callable[[int], None]
) -> None:
    weight, gradient = numbers(150_001, dtype=torch.float32)
    gradient[torch.arange(150_001) % 30_011 == 0] = torch.nan
    results: list[list[Tensor]] = []
    for count in (1, 2, 3):
        set_threads(count)
        run = Run(weight, "sgd", dict(momentum=0.9), backend="cpp", lr=1e38)
        results.append([run.step(gradient), *run.everything()])
    assert 5 < results[0][0][1] < 150_001
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_a_network_beyond_the_cache_is_stepped_like_others(requires_extension: None) -> None:
    """Gradients are looked at in shorter groups there: one of them is not finite, one holds a step that overflows."""
    weight, gradient = numbers(2**20 + 77, dtype=torch.float32)
    gradient[[5, 300_000, 2**20 + 76]] = torch.nan
    gradient[700_001] = 3e37
    found, expected = (Run(weight, "sgd", dict(momentum=0.9), backend=name, lr=100.0) for name in ("cpp", "reference"))
    totals, exact = found.step(gradient), expected.step(gradient)
    assert totals[1] == exact[1] == 4
    for one, two in zip((totals, *found.everything()), (exact, *expected.everything()), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.weight[[5, 700_001]], weight[[5, 700_001]])


@pytest.mark.parametrize("withheld", [False, True])
def test_the_compiled_reference_agrees(withheld: bool) -> None:
    """The formulas alone, as torch.compile traces them: no branch on a number."""
    weight, gradient = numbers(40, dtype=torch.float32)
    gradient[:20] *= 1e-38
    results = []
    for run in (update_, torch.compile(update_, backend="eager", fullgraph=True)):
        mine, state = weight.clone(), [torch.zeros(40)]
        lr, count, held = torch.tensor(1e38, dtype=torch.float64), torch.tensor(0), torch.tensor(withheld)
        given = dict(rule="sgd", options=dict(momentum=0.9), backend="reference")
        results.append([run(mine, gradient, state, lr, count, held, **given), mine, *state, count])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    assert (0 < results[0][0][1] < 40) is not withheld
