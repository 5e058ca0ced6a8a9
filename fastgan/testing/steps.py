"""Conformance of a discriminator's step: the loss of its turn, before an optimizer takes it."""

from __future__ import annotations

from collections.abc import Sequence

from .arguments import as_shape, check_function
from .faults import Fault, collect, require_none
from .step_checks import CHECKS, Step, Subject


def diagnose_d_step(step: Step, *, shape: Sequence[int] | None = None, batch_size: int | None = None) -> tuple[Fault, ...]:
    """The faults of step(critic, real, fake), which returns the loss of a discriminator's turn.

    The fakes come with the graph of the generator that made them, as they do in a loop: a step has to detach them, or its
    backward adds the critic's loss to the generator's gradients. What the loss is a formula of is not looked at:
    `diagnose_d_loss` does that.

    Args:
        step: any callable that takes a critic [B, ...] -> [B, 1] and two batches [B, ...], and returns a 0-d tensor to
            differentiate, penalties included. It runs on a CPU in fp32, with images [B, C, H, W], or with signals, flat rows
            or voxels of whatever size or batch size it takes, if it does not take these.
        shape: that of one sample, for a step of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.

    Returns:
        One entry for each fault, then one for each note (`Fault.is_note`) of the form of the loss. () if there is none.

    Raises:
        ValueError: a shape or a batch_size that is no batch's.
        TypeError: a step that is no function, a shape or a batch_size of another type.

    Example:
        >>> def step(critic, real, fake):
        ...     return fastgan.losses.d_loss(critic(real), critic(fake))
        >>> [fault.name for fault in diagnose_d_step(step)]
        ['fakes not detached']
        >>> diagnose_d_step(lambda critic, real, fake: step(critic, real, fake.detach()))
        ()
    """
    check_function("step", step, "step(critic, real, fake)")
    return collect(CHECKS, Subject(step, as_shape(shape, batch_size), batch_size))


def check_d_step(step: Step, *, shape: Sequence[int] | None = None, batch_size: int | None = None) -> None:
    """An assertion for tests: a discriminator's step without a fault that `diagnose_d_step` would find.

    Args:
        step: any callable that takes a critic [B, ...] -> [B, 1] and two batches [B, ...], and returns a 0-d tensor.
        shape: that of one sample, for a step of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.

    Raises:
        ConformanceError: any fault; the message lists them all.
        ValueError: a shape or a batch_size that is no batch's.
        TypeError: a step that is no function, a shape or a batch_size of another type.

    Example:
        >>> def step(critic, real, fake):
        ...     loss = fastgan.losses.wgan_d_loss(critic(real), critic(fake.detach()))
        ...     return loss + fastgan.penalties.gradient_penalty(critic, real, fake)
        >>> check_d_step(step)
    """
    require_none("discriminator's step", diagnose_d_step(step, shape=shape, batch_size=batch_size))
