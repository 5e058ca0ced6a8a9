"""Gradient penalties as functions for a training loop of one's own."""

from __future__ import annotations

from typing import Never

import torch
from torch import Tensor

from ..chain import penalty as closed_form
from ..ops.reference import wide
from ..ops.sample import interpolate
from ..runtime import misfit
from ..runtime.arguments import shown_without
from ..runtime.input_gradient import Critic, input_gradient, under_autocast
from .arguments import (
    Select,
    as_alpha,
    as_select,
    check_critic,
    check_generator,
    check_method,
    check_pairs,
    check_rows,
    refuse_others,
    require,
)
from .specs import DRAGAN, R1, R2, GradientPenalty, Penalty


def _penalize(critic: Critic, points: Tensor, spec: Penalty, method: str, select: Select | None, **rows: Tensor) -> Tensor:
    """The penalty at points that were made of these rows."""
    pick = as_select(select)
    points = under_autocast(critic, points)
    if method == "auto" and select is None and (layers := closed_form.read(critic, points)):
        return closed_form.penalty(layers, points, spec)
    if torch.compiler.is_compiling():
        return spec.value(input_gradient(critic, points, pick))
    try:
        gradient = input_gradient(critic, points, pick)
    except Exception as error:  # a critic may raise anything
        if (better := misfit.explain(critic, rows, error)) is None:
            raise
        raise better from error
    return spec.value(gradient)


def _check(critic: Critic, method: str, name: str, rows: Tensor) -> None:
    check_critic(critic)
    check_method(method)
    check_rows(name, rows)


def _uniforms(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), fp32 or wider."""
    check_generator(generator)
    device, dtype = like.device, torch.promote_types(like.dtype, torch.float32)
    if generator is None:  # an overload of its own: the other one keeps torch.compile from shapes that it does not know
        return torch.rand(shape, device=device, dtype=dtype)
    return torch.rand(shape, generator=generator, device=device, dtype=dtype)


@shown_without("others", "foreign")
def gradient_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *others: Never,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    alpha: Tensor | float | None = None,
    generator: torch.Generator | None = None,
    select: Select | None = None,
    method: str = "auto",
    **foreign: Never,
) -> Tensor:
    """weight * mean over rows of (|grad D at real + alpha (fake - real)| - target)^2.

    Args:
        critic: any callable, rows [B, ...] -> logits of every row, [B], [B, ...] or maps flattened to [B * L, ...].
        real: [B, ...], floating point; taken as a constant.
        fake: the same, of the same shape.
        weight: the penalty's factor, >= 0.
        target: the norm that is not penalized, >= 0.
        one_sided: whether only norms above the target are penalized (WGAN-LP).
        alpha: one weight in [0, 1] per sample, [B] or [B, 1, ...], or a number or 0-d tensor for all; None to draw them.
        generator: what draws them; None for torch's own.
        select: picks the logits out of what the critic returns, where that is not logits alone: a function, a key such as
            "logits", or a place such as 0.
        method: "auto" for the closed form where the critic has one, "autograd" for double backward.

    Returns:
        0-d, fp32 or wider; differentiable by the critic's parameters, at zero gradient with a derivative of 0, not nan.

    Raises:
        ValueError: shapes that differ, no rows, an amount out of range, logits that are not each a row's.
        TypeError: an argument of another kind, such as integer rows, or no logits.

    Example:
        >>> critic = fastgan.mlp.MLP((4, 16, 1), activation="leaky_relu")
        >>> gradient_penalty(critic, torch.zeros(8, 4), torch.ones(8, 4), weight=10.0).backward()
        >>> critic.layers[0].weight.grad.shape
        torch.Size([16, 4])
        >>> gradient_penalty(lambda x: 3 * x.sum(1), torch.zeros(8, 4), torch.ones(8, 4)).item()
        250.0
    """
    if others or foreign:
        refuse_others(gradient_penalty, others, foreign)
    _check(critic, method, "real", real)
    check_rows("fake", fake)
    check_pairs(real, fake)
    spec = GradientPenalty(weight, target, one_sided)
    alpha = _uniforms(real.shape[:1], real, generator) if alpha is None else as_alpha(alpha, real)
    between = interpolate(real.detach(), fake.detach(), alpha)
    points = between.to(torch.promote_types(real.dtype, fake.dtype))  # alpha is fp32 where rows are half
    return _penalize(critic, points, spec, method, select, real=real, fake=fake)


@shown_without("others", "foreign")
def r1_penalty(
    critic: Critic,
    real: Tensor,
    *others: Never,
    gamma: float = 10.0,
    select: Select | None = None,
    method: str = "auto",
    **foreign: Never,
) -> Tensor:
    """gamma / 2 * mean over rows of |grad D at real|^2.

    Args:
        critic: any callable, rows [B, ...] -> logits of every row, [B], [B, ...] or maps flattened to [B * L, ...].
        real: [B, ...], floating point; taken as a constant.
        gamma: twice the penalty's factor, >= 0.
        select: picks the logits out of what the critic returns, where that is not logits alone: a function, a key such as
            "logits", or a place such as 0.
        method: "auto" for the closed form where the critic has one, "autograd" for double backward.

    Returns:
        0-d, fp32 or wider; differentiable by the critic's parameters, at zero gradient with a derivative of 0, not nan.

    Raises:
        ValueError: no rows, an amount out of range, logits that are not each a row's.
        TypeError: an argument of another kind, such as integer rows, or no logits.

    Example:
        >>> r1_penalty(lambda x: 3 * x.sum(1), torch.zeros(8, 4), gamma=10.0).item()
        180.0
    """
    if others or foreign:
        refuse_others(r1_penalty, others, foreign)
    _check(critic, method, "real", real)
    return _penalize(critic, real, R1(gamma), method, select, real=real)


@shown_without("others", "foreign")
def r2_penalty(
    critic: Critic,
    fake: Tensor,
    *others: Never,
    gamma: float = 10.0,
    select: Select | None = None,
    method: str = "auto",
    **foreign: Never,
) -> Tensor:
    """gamma / 2 * mean over rows of |grad D at fake|^2.

    Args:
        critic: any callable, rows [B, ...] -> logits of every row, [B], [B, ...] or maps flattened to [B * L, ...].
        fake: [B, ...], floating point; taken as a constant.
        gamma: twice the penalty's factor, >= 0.
        select: picks the logits out of what the critic returns, where that is not logits alone: a function, a key such as
            "logits", or a place such as 0.
        method: "auto" for the closed form where the critic has one, "autograd" for double backward.

    Returns:
        0-d, fp32 or wider; differentiable by the critic's parameters, at zero gradient with a derivative of 0, not nan.

    Raises:
        ValueError: no rows, an amount out of range, logits that are not each a row's.
        TypeError: an argument of another kind, such as integer rows, or no logits.

    Example:
        >>> r2_penalty(lambda x: 3 * x.sum(1), torch.zeros(8, 4), gamma=10.0).item()
        180.0
    """
    if others or foreign:
        refuse_others(r2_penalty, others, foreign)
    _check(critic, method, "fake", fake)
    return _penalize(critic, fake, R2(gamma), method, select, fake=fake)


@shown_without("others", "foreign")
def dragan_penalty(
    critic: Critic,
    real: Tensor,
    *others: Never,
    weight: float = 10.0,
    std_scale: float = 0.5,
    generator: torch.Generator | None = None,
    select: Select | None = None,
    method: str = "auto",
    **foreign: Never,
) -> Tensor:
    """weight * mean over rows of (|grad D at real + std_scale * std(real) * u| - 1)^2 with u uniform in [0, 1).

    The std is that of all elements of this process's batch.

    Args:
        critic: any callable, rows [B, ...] -> logits of every row, [B], [B, ...] or maps flattened to [B * L, ...].
        real: [B, ...], floating point; taken as a constant.
        weight: the penalty's factor, >= 0.
        std_scale: the noise's factor, >= 0.
        generator: what draws u; None for torch's own.
        select: picks the logits out of what the critic returns, where that is not logits alone: a function, a key such as
            "logits", or a place such as 0.
        method: "auto" for the closed form where the critic has one, "autograd" for double backward.

    Returns:
        0-d, fp32 or wider; differentiable by the critic's parameters, at zero gradient with a derivative of 0, not nan.

    Raises:
        ValueError: no rows, an amount out of range, logits that are not each a row's.
        TypeError: an argument of another kind, such as integer rows, or no logits.

    Example:
        >>> dragan_penalty(lambda x: 3 * x.sum(1), torch.rand(8, 4)).item()
        250.0
    """
    if others or foreign:
        refuse_others(dragan_penalty, others, foreign)
    _check(critic, method, "real", real)
    require(real.numel() > 1, "real is one number, which has no std: a batch of more is what DRAGAN needs")
    spec = DRAGAN(weight, std_scale=std_scale)
    rows = wide(real.detach())
    points = (rows + std_scale * rows.std() * _uniforms(real.shape, real, generator)).to(real.dtype)
    return _penalize(critic, points, spec, method, select, real=real)
