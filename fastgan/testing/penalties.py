"""Conformance of gradient penalties, by critics whose gradient is known.

With g = dD/dx per sample and |g| its norm over all dimensions, expected is

    gradient penalty  weight * mean (|g| - target)^2   at x = real + alpha (fake - real), one alpha per sample
    DRAGAN            weight * mean (|g| - 1)^2        at x = real + std_scale * std(real) * uniform noise
    R1, R2            gamma / 2 * mean |g|^2           at the real, at the fake rows

Sources: Gulrajani et al. 2017, Petzka et al. 2018 (one-sided), Kodali et al. 2017 (DRAGAN), Mescheder et al. 2018 (R1, R2).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..penalties.arguments import as_amount, as_flag
from . import points
from .arguments import as_factor, as_shape, check_function
from .faults import Fault, collect, require_none
from .penalty_checks import CHECKS, Call, Options, norm_subject, square_subject


def _options(penalty: Call, call: str, shape: Sequence[int] | None, batch_size: int | None, half_precision: bool) -> Options:
    check_function("penalty", penalty, f"penalty({call})")
    return Options(as_shape(shape, batch_size), batch_size, as_flag("half_precision", half_precision))


def diagnose_gradient_penalty(
    penalty: Call,
    *,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    half_precision: bool = False,
) -> tuple[Fault, ...]:
    """The faults of penalty(critic, real, fake), a gradient penalty with these options.

    Args:
        penalty: any callable that takes a critic [B, ...] -> [B, 1] and two batches [B, ...] and returns a 0-d tensor. It runs
            on a CPU in fp64, in fp32 where it cannot, with images [B, C, H, W], or with signals, flat rows or voxels of
            whatever size or batch size it takes, if it does not take these.
        weight: the penalty's factor, above 0.
        target: the norm that is not penalized, at least 0.
        one_sided: whether only norms above the target are penalized.
        shape: that of one sample, for a penalty of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.
        half_precision: whether rows in half precision, inside autocast, are to have a value in fp32.

    Returns:
        One entry for each fault, then one for each note (`Fault.is_note`) of the form of the value. () if there is none.

    Raises:
        ValueError: an option out of its range, a shape or a batch_size that is no batch's.
        TypeError: a penalty that is no function, an option of another type.

    Example:
        >>> def between(critic, real, fake):
        ...     alpha = torch.rand(len(real), 1, 1, 1)
        ...     x = (real + alpha * (fake - real)).detach().requires_grad_()
        ...     (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        ...     return 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
        >>> diagnose_gradient_penalty(between)
        ()
        >>> [fault.name for fault in diagnose_gradient_penalty(between, weight=5.0)]
        ['doubled']
    """
    options = _options(penalty, "critic, real, fake", shape, batch_size, half_precision)
    weight, target = as_factor("weight", weight), as_amount("target", target)
    return collect(CHECKS, norm_subject(penalty, points.between, weight, target, as_flag("one_sided", one_sided), options))


def diagnose_dragan_penalty(
    penalty: Call,
    *,
    weight: float = 10.0,
    std_scale: float = 0.5,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    half_precision: bool = False,
) -> tuple[Fault, ...]:
    """The faults of penalty(critic, real), DRAGAN with these options.

    Args:
        penalty: any callable that takes a critic [B, ...] -> [B, 1] and a batch [B, ...] and returns a 0-d tensor. It runs on a
            CPU as `diagnose_gradient_penalty` says.
        weight: the penalty's factor, above 0.
        std_scale: the noise's factor, above 0.
        shape: that of one sample, for a penalty of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.
        half_precision: whether rows in half precision, inside autocast, are to have a value in fp32.

    Returns:
        One entry for each fault, then one for each note (`Fault.is_note`) of the form of the value. () if there is none.

    Raises:
        ValueError: an option out of its range, a shape or a batch_size that is no batch's.
        TypeError: a penalty that is no function, an option of another type.

    Example:
        >>> [fault.name for fault in diagnose_dragan_penalty(fastgan.penalties.dragan_penalty, std_scale=1.0)]
        ['noise not uniform in [0, 1)']
    """
    options = _options(penalty, "critic, real", shape, batch_size, half_precision)
    weight, around = as_factor("weight", weight), partial(points.around_real, std_scale=as_factor("std_scale", std_scale))
    return collect(CHECKS, norm_subject(lambda critic, real, _: penalty(critic, real), around, weight, 1.0, False, options))


def diagnose_r1_penalty(
    penalty: Call,
    *,
    gamma: float = 10.0,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    half_precision: bool = False,
) -> tuple[Fault, ...]:
    """The faults of penalty(critic, real), R1 with this gamma.

    Args:
        penalty: any callable that takes a critic [B, ...] -> [B, 1] and a batch of real rows [B, ...] and returns a 0-d tensor.
            It runs on a CPU as `diagnose_gradient_penalty` says.
        gamma: twice the penalty's factor, above 0.
        shape: that of one sample, for a penalty of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.
        half_precision: whether rows in half precision, inside autocast, are to have a value in fp32.

    Returns:
        One entry for each fault, then one for each note (`Fault.is_note`) of the form of the value. () if there is none.

    Raises:
        ValueError: a gamma that is not above 0, a shape or a batch_size that is no batch's.
        TypeError: a penalty that is no function, an option of another type.

    Example:
        >>> [fault.name for fault in diagnose_r1_penalty(fastgan.penalties.r1_penalty, gamma=5.0)]
        ['halved convention lost']
    """
    options = _options(penalty, "critic, real", shape, batch_size, half_precision)
    return collect(CHECKS, square_subject(lambda critic, real, _: penalty(critic, real), as_factor("gamma", gamma), options))


def diagnose_r2_penalty(
    penalty: Call,
    *,
    gamma: float = 10.0,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    half_precision: bool = False,
) -> tuple[Fault, ...]:
    """The faults of penalty(critic, fake), R2 with this gamma.

    Args:
        penalty: any callable that takes a critic [B, ...] -> [B, 1] and a batch of fake rows [B, ...] and returns a 0-d tensor.
            It runs on a CPU as `diagnose_gradient_penalty` says.
        gamma: twice the penalty's factor, above 0.
        shape: that of one sample, for a penalty of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.
        half_precision: whether rows in half precision, inside autocast, are to have a value in fp32.

    Returns:
        One entry for each fault, then one for each note (`Fault.is_note`) of the form of the value. () if there is none.

    Raises:
        ValueError: a gamma that is not above 0, a shape or a batch_size that is no batch's.
        TypeError: a penalty that is no function, an option of another type.

    Example:
        >>> [fault.name for fault in diagnose_r2_penalty(fastgan.penalties.r2_penalty, gamma=5.0)]
        ['halved convention lost']
    """
    options = _options(penalty, "critic, fake", shape, batch_size, half_precision)
    return collect(CHECKS, square_subject(lambda critic, _, fake: penalty(critic, fake), as_factor("gamma", gamma), options))


def check_gradient_penalty(
    penalty: Call,
    *,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    half_precision: bool = False,
) -> None:
    """An assertion for tests: a gradient penalty without a fault that `diagnose_gradient_penalty` would find.

    Args:
        penalty: any callable that takes a critic [B, ...] -> [B, 1] and two batches [B, ...] and returns a 0-d tensor.
        weight: the penalty's factor, above 0.
        target: the norm that is not penalized, at least 0.
        one_sided: whether only norms above the target are penalized.
        shape: that of one sample, for a penalty of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.
        half_precision: whether rows in half precision, inside autocast, are to have a value in fp32.

    Raises:
        ConformanceError: any fault; the message lists them all.
        ValueError: an option out of its range, a shape or a batch_size that is no batch's.
        TypeError: a penalty that is no function, an option of another type.

    Example:
        >>> check_gradient_penalty(fastgan.penalties.gradient_penalty, half_precision=True)
    """
    found = diagnose_gradient_penalty(
        penalty,
        weight=weight,
        target=target,
        one_sided=one_sided,
        shape=shape,
        batch_size=batch_size,
        half_precision=half_precision,
    )
    require_none("gradient penalty", found)


def check_dragan_penalty(
    penalty: Call,
    *,
    weight: float = 10.0,
    std_scale: float = 0.5,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    half_precision: bool = False,
) -> None:
    """An assertion for tests: DRAGAN's penalty without a fault that `diagnose_dragan_penalty` would find.

    Args:
        penalty: any callable that takes a critic [B, ...] -> [B, 1] and a batch [B, ...] and returns a 0-d tensor.
        weight: the penalty's factor, above 0.
        std_scale: the noise's factor, above 0.
        shape: that of one sample, for a penalty of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.
        half_precision: whether rows in half precision, inside autocast, are to have a value in fp32.

    Raises:
        ConformanceError: any fault; the message lists them all.
        ValueError: an option out of its range, a shape or a batch_size that is no batch's.
        TypeError: a penalty that is no function, an option of another type.

    Example:
        >>> check_dragan_penalty(fastgan.penalties.dragan_penalty)
    """
    found = diagnose_dragan_penalty(
        penalty,
        weight=weight,
        std_scale=std_scale,
        shape=shape,
        batch_size=batch_size,
        half_precision=half_precision,
    )
    require_none("DRAGAN penalty", found)


def check_r1_penalty(
    penalty: Call,
    *,
    gamma: float = 10.0,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    half_precision: bool = False,
) -> None:
    """An assertion for tests: R1 without a fault that `diagnose_r1_penalty` would find.

    Args:
        penalty: any callable that takes a critic [B, ...] -> [B, 1] and a batch of real rows [B, ...] and returns a 0-d tensor.
        gamma: twice the penalty's factor, above 0.
        shape: that of one sample, for a penalty of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.
        half_precision: whether rows in half precision, inside autocast, are to have a value in fp32.

    Raises:
        ConformanceError: any fault; the message lists them all.
        ValueError: a gamma that is not above 0, a shape or a batch_size that is no batch's.
        TypeError: a penalty that is no function, an option of another type.

    Example:
        >>> check_r1_penalty(fastgan.penalties.r1_penalty)
    """
    found = diagnose_r1_penalty(penalty, gamma=gamma, shape=shape, batch_size=batch_size, half_precision=half_precision)
    require_none("R1 penalty", found)


def check_r2_penalty(
    penalty: Call,
    *,
    gamma: float = 10.0,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    half_precision: bool = False,
) -> None:
    """An assertion for tests: R2 without a fault that `diagnose_r2_penalty` would find.

    Args:
        penalty: any callable that takes a critic [B, ...] -> [B, 1] and a batch of fake rows [B, ...] and returns a 0-d tensor.
        gamma: twice the penalty's factor, above 0.
        shape: that of one sample, for a penalty of these alone: (784,) for flat rows, (T, C) for signals.
        batch_size: the only number of rows that it takes.
        half_precision: whether rows in half precision, inside autocast, are to have a value in fp32.

    Raises:
        ConformanceError: any fault; the message lists them all.
        ValueError: a gamma that is not above 0, a shape or a batch_size that is no batch's.
        TypeError: a penalty that is no function, an option of another type.

    Example:
        >>> check_r2_penalty(fastgan.penalties.r2_penalty)
    """
    found = diagnose_r2_penalty(penalty, gamma=gamma, shape=shape, batch_size=batch_size, half_precision=half_precision)
    require_none("R2 penalty", found)
