"""Discriminator's steps as people write them: right ones pass, and each known mistake is called by its name alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import losses, penalties, testing
from fastgan.testing.remedies import CHANGED, MODIFIED, NOTES, NOTES_OF_STEPS, OF_ANYTHING, OF_STEPS
from tests.testing.test_losses import names, sp

pytestmark = pytest.mark.usefixtures("one_thread")

Step = Callable[..., Any]
Case = tuple[set[str], Step]


def ns(r: Tensor, f: Tensor) -> Tensor:
    return sp(-r).mean() + sp(f).mean()


def right(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return ns(critic(real), critic(fake.detach()))


def plain_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.rand(len(real), 1, 1, 1)
    points = alpha * real + (1 - alpha) * fake
    points = points if points.requires_grad else points.requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return 10 * (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()


def with_r1(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """R1 of the logits that the loss takes, too."""
    real.requires_grad_()
    logits = critic(real)
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return ns(logits, critic(fake.detach())) + 5 * gradient.square().flatten(1).sum(1).mean()


def one_batch(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return ns(*critic(torch.cat([real, fake.detach()])).chunk(2))


def with_labels(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    r, f = torch.sigmoid(critic(real)), torch.sigmoid(critic(fake.detach()))
    return nn.BCELoss()(r, torch.ones(64, 1)) + nn.BCELoss()(f, torch.zeros(64, 1))


def refuses_graphs(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    assert not fake.requires_grad, "the loop detaches"
    return ns(critic(real), critic(fake))


def in_place(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return right(critic, real.add_(0.1), fake)


def detaches_in_place(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return ns(critic(real), critic(fake.detach_()))


def in_evaluation(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return right(critic.eval(), real, fake)


def calls_backward(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    critic.zero_grad()
    loss = right(critic, real, fake)
    loss.backward()
    return loss


def calls_two_backwards(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """The two halves of a loss, one after the other; the second forgets that fakes have a graph."""
    of_real, of_fake = sp(-critic(real)).mean(), sp(critic(fake)).mean()
    of_real.backward()
    of_fake.backward()
    return (of_real + of_fake).detach()


def takes_the_optimizer(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    loss = calls_backward(critic, real, fake)
    torch.optim.SGD(critic.parameters(), lr=0.1).step()
    return loss


RIGHT: dict[str, Step] = {
    "detached": right,
    "fastgan's": lambda c, r, f: losses.wgan_d_loss(c(r), c(f.detach())) + penalties.gradient_penalty(c, r, f),
    "plain penalty": lambda c, r, f: c(f.detach()).mean() - c(r).mean() + plain_penalty(c, r, f.detach()),
    "R1": with_r1,
    "one batch": one_batch,
    "labels of one batch size": with_labels,
    "instance noise": lambda c, r, f: right(c, r + 0.1 * torch.randn_like(r), f + 0.1 * torch.randn_like(f)),
    "hinge": lambda c, r, f: F.relu(1 - c(r)).mean() + F.relu(1 + c(f.detach())).mean(),
    "paired": lambda c, r, f: sp(c(f.detach()) - c(r)).mean(),
    ".data": lambda c, r, f: ns(c(r), c(f.data)),
    "autocast": torch.autocast("cpu", dtype=torch.bfloat16)(right),
    "a loop that detaches": refuses_graphs,
    "flat rows": lambda c, r, f: ns(c(r.view(len(r), 784)), c(f.detach().view(len(f), 784))),
}

WRONG: dict[str, Case] = {
    "not detached": ({"fakes not detached"}, lambda c, r, f: ns(c(r), c(f))),
    "not detached in one batch": ({"fakes not detached"}, lambda c, r, f: ns(*c(torch.cat([r, f])).chunk(2))),
    "not detached in the penalty": (
        {"fakes not detached"},
        lambda c, r, f: c(f.detach()).mean() - c(r).mean() + plain_penalty(c, r, f),
    ),
    "not detached, 64 rows": ({"fakes not detached"}, lambda c, r, f: with_labels(c, r, f) + 0 * c(f).mean()),
    "detach_": ({"fakes detached in place"}, detaches_in_place),
    "item": ({"no graph from the loss to the critic"}, lambda *batch: torch.tensor(right(*batch).item())),
    "no_grad": ({"no graph from the loss to the critic"}, torch.no_grad()(right)),
    "logits of others": (
        {"no graph from the loss to the critic"},
        lambda c, r, f: r.requires_grad_().mean() + 0 * c(r).detach().mean(),
    ),
    "fake logits detached": ({"fake rows train nothing"}, lambda c, r, f: ns(c(r), c(f).detach())),
    "real twice": ({"fake rows train nothing"}, lambda c, r, f: ns(c(r), c(r))),
    "fake twice": ({"real rows train nothing"}, lambda c, r, f: ns(c(f.detach()), c(f.detach()))),
    "logarithm of 0": ({"loss not finite"}, lambda c, r, f: right(c, r, f) - torch.log(c(r).detach().mean() * 0)),
    "add_": ({"the caller's tensors are modified"}, in_place),
    "eval": ({"the critic is changed"}, in_evaluation),
    "optimizer": ({"the critic is changed", "backward called inside"}, takes_the_optimizer),
    "backward": ({"backward called inside"}, calls_backward),
    "two backwards": ({"fakes not detached", "backward called inside"}, calls_two_backwards),
    "misspelt": ({"raises an error"}, lambda c, r, f: ns(c(r), c(f.detached()))),
    "no reduction": ({"not a 0-d tensor"}, lambda c, r, f: c(f.detach()) - c(r)),
    "a float": ({"not a 0-d tensor"}, lambda *batch: right(*batch).item()),
    "[1]": ({"one element instead of a 0-d tensor"}, lambda *batch: right(*batch)[None]),
    "with a log": ({"a tuple, whose first element is the value"}, lambda *batch: (right(*batch), {"step": 1})),
}


@pytest.mark.parametrize("step", RIGHT.values(), ids=RIGHT)
def test_right_steps_conform(step: Step) -> None:
    assert testing.diagnose_d_step(step) == ()
    testing.check_d_step(step)


@pytest.mark.parametrize(("expected", "step"), WRONG.values(), ids=WRONG)
def test_a_steps_mistake_has_a_name(expected: set[str], step: Step) -> None:
    found = testing.diagnose_d_step(step)
    assert names(found) == expected
    if all(fault.is_note for fault in found):
        testing.check_d_step(step)
    else:
        with pytest.raises(testing.ConformanceError, match="discriminator's step"):
            testing.check_d_step(step)


def test_every_name_has_a_mistake_here() -> None:
    shown = set().union(*(expected for expected, _ in WRONG.values()))
    assert shown == set(OF_ANYTHING) | set(OF_STEPS) | set(NOTES) | set(NOTES_OF_STEPS) | {CHANGED, MODIFIED}


def test_rows_that_are_asked_for() -> None:
    seen = set()

    def step(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        seen.add(tuple(real.shape))
        return right(critic, real, fake)

    testing.check_d_step(step, shape=(7, 2), batch_size=3)
    assert seen == {(3, 7, 2)}


def test_the_evidence_is_the_gradient_that_reaches_the_generator() -> None:
    (fault,) = testing.diagnose_d_step(lambda c, r, f: ns(c(r), c(f)))
    assert "expected no gradient to the generator, got one of norm 0." in fault.evidence
    assert "detach()" in fault.remedy


def test_nothing_of_the_callers_changes() -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        testing.check_d_step(RIGHT["instance noise"])
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
