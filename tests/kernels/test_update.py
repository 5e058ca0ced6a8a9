"""update by Triton: every rule on flat buffers against the reference, and what is skipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastgan.ops import reference
from fastgan.ops.backend import launcher
from fastgan.ops.triton import update as update_triton
from fastgan.ops.update import state_size, update_

RULES = [
    ("sgd", dict(momentum=0.0, weight_decay=0.1)),
    ("sgd", dict(momentum=0.9, dampening=0.2, weight_decay=0.0, nesterov=False)),
    ("sgd", dict(momentum=0.5, dampening=0.0, weight_decay=0.01, nesterov=True)),
    ("rmsprop", dict(alpha=0.9, eps=1e-6, weight_decay=0.1)),
    ("rmsprop", dict(alpha=0.99, momentum=0.5)),
    ("rmsprop", dict(alpha=0.99, centered=True)),
    ("rmsprop", dict(alpha=0.95, centered=True, momentum=0.9)),
    ("adam", dict(betas=(0.5, 0.999), eps=1e-8)),
    ("adam", dict(betas=(0.0, 0.9), eps=1e-8, weight_decay=0.01)),
    ("adam", dict(betas=(0.9, 0.0))),
]


def run(rule: str, options: dict, backend: str, device: torch.device, dtype: torch.dtype, **extra: Any) -> list[Tensor]:
    """Four updates of 2,500 weights, with gradients that differ a thousandfold from one to the next; all results in a row."""
    torch.manual_seed(3)
    weight = torch.randn(2500).to(device, dtype)
    state = [torch.zeros_like(weight) for _ in range(state_size(rule, options))]
    lr, count = torch.tensor(0.01, dtype=torch.float64, device=device), torch.zeros((), dtype=torch.int64, device=device)
    if "ema_decay" in extra:
        extra["ema"] = weight.clone()
    found: list[Tensor] = []
    for number in range(4):
        gradient = (torch.randn(2500) * 10.0 ** (3 * (number % 2) - 3)).to(device, dtype)
        gradient[number] = torch.inf if extra.get("clip") else 1.0
        withhold = torch.tensor(number == 2, device=device)
        statistics = update_(weight, gradient, state, lr, count, withhold, rule=rule, options=options, backend=backend, **extra)
        found += [statistics.double().cpu()]
    return [
        *found,
        weight.double().cpu(),
        *(x.double().cpu() for x in state),
        count.cpu(),
        *([extra["ema"].double().cpu()] if "ema_decay" in extra else []),
    ]


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize(
    "extra", [{}, dict(clip=0.5, ema_decay=0.9)], ids=["plain", "clipped, averaged, one gradient infinite"]
)
def test_rules(rule: str, options: dict, extra: dict, device: torch.device) -> None:
    found = run(rule, options, "triton", device, torch.float32, **dict(extra))
    expected = run(rule, options, "reference", torch.device("cpu"), torch.float64, **dict(extra))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=2e-5, atol=2e-6)


def test_bias_corrections_are_exact_at_the_first_steps_and_later(device: torch.device) -> None:
    """1 - 0.999^t in fp32 would lose four digits at t = 1."""
    for updates in (0, 1, 9, 249, 251, 5000):
        results = []
        for backend, where, dtype in (("triton", device, torch.float32), ("reference", torch.device("cpu"), torch.float64)):
            weight, gradient = (torch.full((3,), value, device=where, dtype=dtype) for value in (0.0, 0.3))
            state = [gradient.clone(), gradient.square()]
            count = torch.tensor(updates, device=where)
            lr = torch.tensor(1.0, dtype=torch.float64, device=where)
            held = torch.zeros(2, device=where)
            update_(weight, gradient, state, lr, count, held, rule="adam", options=dict(betas=(0.9, 0.999)), backend=backend)
            results.append(weight.double().cpu())
        torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_any_number_that_is_not_finite_skips_an_update(wrong: float, device: torch.device) -> None:
    weight = torch.randn(100, device=device)
    before, state = weight.clone(), [torch.zeros(100, device=device)]
    count = torch.zeros((), dtype=torch.int64, device=device)
    finite_check = torch.zeros(300, device=device)
    finite_check[257] = wrong
    lr = torch.tensor(0.1, dtype=torch.float64, device=device)
    given = dict(rule="sgd", options=dict(momentum=0.9), backend="triton")
    update_(weight, torch.ones(100, device=device), state, lr, count, finite_check, **given)
    assert torch.equal(weight, before) and not state[0].any() and count == 0
    update_(weight, torch.ones(100, device=device), state, lr, count, torch.zeros(300, device=device), **given)
    torch.testing.assert_close(weight, before - 0.1)
    assert count == 1 and reference.is_withheld(finite_check)


def test_a_log_of_updates_counts_those_that_were_skipped_and_the_weights_left_alone(device: torch.device) -> None:
    """Three updates and one flush: three gradients of the first are not finite, and the second is skipped."""
    torch.manual_seed(1)
    launch, size, given = launcher(device), 2500, dict(rule="adam", options=dict(betas=(0.5, 0.9)))
    gradients, weight = torch.randn(3, size), torch.randn(size)
    gradients[0, [0, 1024, 2499]] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    gradients[1, 7] = torch.nan
    parts = update_triton.programs(size)
    records = torch.zeros(3, 4 + 2 * parts)
    records[:, 0], records[:, 2], records[:, 3] = torch.arange(3.0), 0.25, -0.5
    records[1, 3] = torch.inf
    mine, states, log = weight.clone().to(device), [torch.zeros(size, device=device) for _ in range(2)], records.to(device)
    lr, count = torch.tensor(0.1, dtype=torch.float64, device=device), torch.tensor(5, device=device)
    optimizer = update_triton.optimizer_args(mine, states, lr, count, clip=0.0, ema=None, ema_decay=0.0, **given)
    whole = update_triton.RecordLocation(log, log.shape[1], 3, 2, 4, 4)
    for number in range(3):
        update_triton.step_(launch, optimizer, gradients[number : number + 1].to(device), whole._replace(number=number))
    skips, results = torch.tensor(2, device=device), torch.zeros(update_triton.RESULTS, device=device)
    update_triton.flush_(launch, whole, parts, count, skips, results)
    assert (int(count), int(skips)) == (5 + 2, 2 + 1 + 4)

    expected, exact = weight.double(), [torch.zeros(size, dtype=torch.float64) for _ in range(2)]
    done, held = torch.tensor(5), torch.tensor(False)
    for number in (0, 2):
        reference.update_(expected, gradients[number].double(), exact, lr.cpu(), done, held, **given)
    for found, wanted in zip((mine, *states), (expected, *exact), strict=True):
        torch.testing.assert_close(found.double().cpu(), wanted, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(results.cpu()[:4], torch.tensor([2.0, 0.25, -0.5, 0.0]))
    torch.testing.assert_close(results.cpu()[4:], torch.stack((gradients[2].square().sum(), torch.zeros(()))))
