"""update by Triton where a new weight would not be finite, against the reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fastgan.kernels import update as kernels
from torch import Tensor

from fastgan.ops import reference
from fastgan.ops.update import state_size, update_
from tests.kernels.test_update import RULES


def step(weight: Tensor, gradient: Tensor, rule: str, options: dict, rate: float, backend: str, **extra: Any) -> list[Tensor]:
    """One step: what it returns, weights, states, the average and the count."""
    mine, state = weight.clone(), [torch.zeros_like(weight) for _ in range(state_size(rule, options))]
    lr, count = (
        torch.tensor(value, dtype=dtype, device=weight.device) for value, dtype in ((rate, torch.float64), (0, torch.int64))
    )
    given = dict(rule=rule, options=options, backend=backend, ema=weight.clone(), ema_decay=0.75) | extra
    held = torch.tensor(False, device=weight.device)
    return [update_(mine, gradient, state, lr, count, held, **given), mine, *state, given["ema"], count]


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize("rate", [1e39, math.inf])
def test_a_rate_that_overflows_leaves_all_weights_alone(rule: str, options: dict, rate: float, device: torch.device) -> None:
    torch.manual_seed(1)
    weight, gradient = torch.randn(2, 1500, device=device)
    gradient[3] = 0.0
    statistics, found, *rest = step(weight, gradient, rule, options, rate, "triton")
    still, _, *expected = step(weight, gradient, rule, options, 0.0, "triton")
    assert torch.equal(found, weight) and statistics[1] == 1500 and still[1] == 0
    assert all(torch.equal(one, two) for one, two in zip(rest, expected, strict=True))


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_each_weight_is_counted_once_and_its_neighbours_step(clip: float, device: torch.device) -> None:
    torch.manual_seed(2)
    weight, gradient = torch.randn(2, 1500, device=device)
    gradient *= 1e-38
    gradient[::7] *= 1e38  # these steps overflow, of which a clip takes what has a sign
    gradient[5::11], gradient[3::13] = torch.nan, -torch.inf
    found, expected = (step(weight, gradient, "sgd", {}, 1e39, backend, clip=clip) for backend in ("triton", "reference"))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    assert found[0][1] > 200 and found[1].isfinite().all()


def test_a_clip_makes_no_weight_of_what_is_no_number(device: torch.device) -> None:
    weight = torch.tensor([0.25, 0.25, -0.25], device=device)
    gradient = torch.tensor([0.0, 1.0, -1.0], device=device)
    statistics, found, *_ = step(weight, gradient, "sgd", {}, math.inf, "triton", clip=0.5)
    assert found.tolist() == [0.25, -0.5, 0.5] and statistics[1] == 1


@pytest.mark.parametrize(("rule", "options"), [("adam", dict(eps=0.0)), ("rmsprop", dict(eps=0.0, centered=True))])
def test_without_an_eps_weights_that_never_had_a_gradient_stay(rule: str, options: dict, device: torch.device) -> None:
    weight, gradient = torch.randn(100, device=device), torch.ones(100, device=device)
    gradient[::3] = 0.0
    statistics, found, *_ = step(weight, gradient, rule, options, 0.1, "triton")
    assert statistics[1] == 0 and torch.equal(found[::3], weight[::3]) and (found[1::3] < weight[1::3]).all()


def test_kernels_and_the_reference_have_one_range() -> None:
    edge = torch.tensor(kernels.LARGEST.value, dtype=torch.float32)
    assert reference.in_range(edge) and not reference.in_range(edge.nextafter(torch.tensor(torch.inf)))
