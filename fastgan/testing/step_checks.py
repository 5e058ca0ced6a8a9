"""What is looked at in a discriminator's step, one check at a time, with a generator that shows what reaches it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .critics import changes_of, moderate, normal, rows, state_of
from .faults import Check, Fault, Found, fault, form_of, one_number, unless_refused
from .layouts import DEFAULT, Layout, Shape, find_layout
from .remedies import CHANGED, MODIFIED, NO_GRAPH_TO_CRITIC, NOT_ONE_NUMBER, RAISES

Step = Callable[..., Tensor]  # critic, real, fake -> the loss
Slopes = list[Tensor | None]


class Turn(NamedTuple):
    """One call of a step, and what it was given."""

    critic: nn.Module
    generator: nn.Module
    real: Tensor
    fake: Tensor
    returned: Any

    @property
    def called_backward(self) -> bool:
        return any(parameter.grad is not None for parameter in self.critic.parameters())

    def slopes(self) -> tuple[Slopes, Slopes]:
        """The loss's gradient by the weights of the critic, and by those of the generator; None where it has none."""
        critic, generator = list(self.critic.parameters()), list(self.generator.parameters())
        if self.called_backward:
            return [parameter.grad for parameter in critic], [parameter.grad for parameter in generator]
        value = one_number(self.returned)
        if not value.requires_grad:
            raise Found(NO_GRAPH_TO_CRITIC, "expected a loss that depends on the critic's parameters, got a constant")
        slopes = torch.autograd.grad(value, critic + generator, allow_unused=True)
        return list(slopes[: len(critic)]), list(slopes[len(critic) :])


@dataclass
class Subject:
    """A step under test, called as step(critic, real, fake)."""

    step: Step
    shape: Shape | None
    batch_size: int | None
    layout: Layout = DEFAULT
    detached: bool = False  # whether it refuses fakes with a graph, so that none can be forgotten

    def turn(self, real: int = 5, fake: int = 6) -> Turn:
        """Calls the step with real rows and latents of these seeds, and with the same random numbers each time."""
        torch.default_generator.manual_seed(0)
        shape, dtype = self.layout.typical, self.layout.dtype
        features = math.prod(shape[1:])
        generator = nn.Sequential(nn.Linear(3, features, dtype=dtype), nn.Unflatten(1, shape[1:]), nn.Tanh())
        critic, batch = moderate(shape, dtype), rows(shape, 1.0, dtype, seed=real)
        made = generator(normal(shape[0], 3, dtype=dtype, seed=fake))
        made = made.detach() if self.detached else made
        torch.default_generator.manual_seed(0)
        return Turn(critic, generator, batch, made, self.step(critic, batch, made))


def layout(subject: Subject) -> Iterator[Fault]:
    """Looks for batches that the step takes, and whether it refuses fakes that have a graph; neither is a fault."""

    def takes(layout: Layout) -> bool:
        for shape in layout.shapes:
            subject.step(moderate(shape, layout.dtype), *torch.rand((2, *shape), dtype=layout.dtype))
        return True

    subject.layout = find_layout(takes, subject.shape, subject.batch_size)
    subject.detached = unless_refused(subject.turn) is None
    return iter(())


def loss(subject: Subject) -> Iterator[Fault]:
    """Looks at what is returned."""
    turn = subject.turn()
    value = one_number(turn.returned).item()
    if not math.isfinite(value):
        yield fault("loss not finite", f"expected a finite loss for logits around 0, got {value}")
    yield from form_of(turn.returned)
    if turn.called_backward:
        yield fault("backward called inside", "expected .grad None as before, got a tensor for the critic's weights")


def generator(subject: Subject) -> Iterator[Fault]:
    """Looks whether the loss's gradient reaches what made the fakes."""
    reached = [slope.norm() for slope in subject.turn().slopes()[1] if slope is not None]
    if reached:
        norm = torch.stack(reached).norm()
        yield fault("fakes not detached", f"expected no gradient to the generator, got one of norm {norm:.3g} by its weights")


def _differ(one: Slopes, other: Slopes) -> bool:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return any(not torch.equal(a, b) for a, b in pairs) or not pairs


def critic(subject: Subject) -> Iterator[Fault]:
    """Looks whether the gradient by the critic's weights depends on the real and on the fake rows."""
    slopes = subject.turn().slopes()[0]
    if all(slope is None for slope in slopes):
        raise Found(NO_GRAPH_TO_CRITIC, "expected a gradient by the critic's parameters, got None for each")
    for name, seeds in (("real", dict(real=15)), ("fake", dict(fake=16))):
        if not _differ(slopes, subject.turn(**seeds).slopes()[0]):
            yield fault(f"{name} rows train nothing", f"expected another gradient for other {name} rows, got the same")


def side_effects(subject: Subject) -> Iterator[Fault]:
    """Looks at what the call leaves behind in the rows and in the critic."""
    kept: dict[str, Any] = {}

    def step(critic: nn.Module, real: Tensor, fake: Tensor) -> Any:
        kept.update(critic=state_of(critic), real=real.detach().clone(), fake=fake.detach().clone())
        return subject.step(critic, real, fake)

    turn = Subject(step, None, None, subject.layout, subject.detached).turn()
    for name, x in (("real", turn.real), ("fake", turn.fake)):
        if not torch.equal(x.detach(), kept[name]):
            largest = (x.detach() - kept[name]).abs().max()
            yield fault(MODIFIED, f"expected {name} as it was, it changed by up to {largest:.3g}")
    if turn.fake.requires_grad == subject.detached:
        yield fault("fakes detached in place", "expected fake.requires_grad True as before, got False")
    if changed := changes_of(turn.critic, kept["critic"]):
        yield fault(CHANGED, f"expected its weights and modes as before, changed: {', '.join(changed)}")


STOP = frozenset({RAISES, NOT_ONE_NUMBER})
CHECKS = (
    Check(layout),
    Check(loss),
    Check(generator, STOP),
    Check(critic, STOP | {NO_GRAPH_TO_CRITIC}),
    Check(side_effects, STOP),
)
