"""penalty by C++: a penalty's value and its derivative from one visit of each row, and how autograd sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..backend import fake, implementation, is_transformed
from ..penalty import PenaltyForm, penalty_gradient


@implementation("penalty.norm_penalty_gradient", "cpp", "cpu", "cuda")
def _norm_penalty_gradient_cpp(gradient: Tensor, *, weight: float, target: float, one_sided: bool) -> tuple[Tensor, Tensor]:
    return torch.ops.fastgan.norm_penalty_gradient.default(gradient, weight, target, one_sided)


@implementation("penalty.square_penalty_gradient", "cpp", "cpu", "cuda")
def _square_penalty_gradient_cpp(gradient: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    return torch.ops.fastgan.square_penalty_gradient.default(gradient, gamma)


class _PenaltyValue(torch.autograd.Function):
    """A penalty's value, and its derivative from the same visit of each row, which the backward pass multiplies.

    A backward that is itself differentiated takes the reference's.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, form: PenaltyForm) -> Tensor:
        value, derivative = penalty_gradient(gradient, form)
        ctx.save_for_backward(gradient, derivative)
        ctx.form = form
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        gradient, derivative = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return derivative * upstream, None
        alias = gradient.view_as(gradient)
        value = _value_by_reference(alias, ctx.form)
        return torch.autograd.grad(value, alias, upstream, create_graph=True, materialize_grads=True)[0], None


def _value_by_reference(gradient: Tensor, form: PenaltyForm) -> Tensor:
    if form.squared:
        return reference.square_penalty(gradient, gamma=form.weight)
    return reference.norm_penalty(gradient, weight=form.weight, target=form.target, one_sided=form.one_sided)


def _penalty_value(gradient: Tensor, form: PenaltyForm) -> Tensor:
    gradient = reference.wide(gradient)
    if type(gradient) is not Tensor or is_transformed() or gradient.dim() == 0:
        return _value_by_reference(gradient, form)
    if torch.is_grad_enabled() and gradient.requires_grad:
        return _PenaltyValue.apply(gradient, form)
    return penalty_gradient(gradient, form)[0]


@implementation("penalty.norm_penalty", "cpp", "cpu", "cuda")
def _norm_penalty_cpp(gradient: Tensor, *, weight: float, target: float = 1.0, one_sided: bool = False) -> Tensor:
    return _penalty_value(gradient, PenaltyForm(False, weight, target, one_sided))


@implementation("penalty.square_penalty", "cpp", "cpu", "cuda")
def _square_penalty_cpp(gradient: Tensor, *, gamma: float) -> Tensor:
    return _penalty_value(gradient, PenaltyForm(True, gamma))


@fake("norm_penalty_gradient", "square_penalty_gradient")
def _fake_penalty_gradient(gradient: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return gradient.new_empty(()), gradient.new_empty(gradient.shape)
