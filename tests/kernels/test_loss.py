"""loss by Triton: one program's gradients and value of given logits, of every form, on both sides of every kink."""

from __future__ import annotations

import pytest
import torch
from fastgan.kernels.loss import loss_and_gradients_kernel
from torch import Tensor

from fastgan.ops import reference
from fastgan.ops.loss import KINDS
from fastgan.ops.objective import Objective, d_objective, g_objective

REAL = torch.tensor([0.25, 1.5, -1.5, -30.0, 30.0, 0.75, -0.5])
FAKE = torch.tensor([-0.75, 1.75, -1.25, 25.0, -40.0, -0.25, 2.5])
BIAS, PARTS = 0.125, 3


def run(
    objective: Objective, real: bool, penalized: tuple[int, int], block: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The record and the coefficients [3, rows] that the program leaves."""
    logits = torch.cat((REAL, FAKE) if real else (FAKE,))
    all_rows, rows = len(logits) + 4, len(FAKE)
    partials = torch.full((PARTS, all_rows), torch.nan)
    partials[:, : len(logits)] = torch.stack(
        (logits - BIAS - 1.0, torch.full_like(logits, 0.75), torch.full_like(logits, 0.25))
    )
    record, coefficient = torch.full((4,), torch.nan, device=device), torch.full((3, all_rows), torch.nan, device=device)
    form, fake_target, real_target, scale = objective.terms
    places = record, coefficient, partials.to(device), PARTS, all_rows, torch.full((1,), BIAS, device=device), rows
    loss = *places, fake_target, real_target, scale, *penalized
    loss_and_gradients_kernel[(1,)](loss, FORM=form, REAL=real, LOSS_BLOCK=block, PDL=False)
    assert coefficient[:, len(logits) :].isnan().all(), "nothing else is written"
    return record.cpu(), coefficient[:, : len(logits)].cpu()


def check(objective: Objective, real: bool, block: int, device: torch.device) -> None:
    record, found = run(objective, real, (0, 1) if real else (0, 0), block, device)
    r, f = REAL.double().requires_grad_(), FAKE.double().requires_grad_()
    value = objective.define(r if real else None, f)
    slopes = torch.autograd.grad(value, (r, f) if real else (f,), materialize_grads=True)
    expected = torch.cat(slopes).float()
    torch.testing.assert_close(found[0], expected, rtol=2e-6, atol=1e-9)
    activations = expected.clone()
    if real:
        activations[len(REAL) :] = 1.0  # of a penalized side, whose tangent takes them over
    for kind in (1, 2):
        torch.testing.assert_close(found[kind], activations, rtol=2e-6, atol=1e-9)
    torch.testing.assert_close(record[0].double(), value.detach(), rtol=1e-6, atol=1e-6)
    means = torch.stack((REAL.mean() if real else torch.zeros(()), FAKE.mean()))
    torch.testing.assert_close(record[2:], means, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("block", [4, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_discriminators_loss(kind: str, block: int, device: torch.device) -> None:
    for smoothing in (0.0, 0.1) if kind in reference.SMOOTHED_KINDS else (0.0,):
        check(d_objective(kind, smoothing, 0.5 if kind == "lsgan" else 1.0), True, block, device)


@pytest.mark.parametrize("block", [4, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_generators_loss(kind: str, block: int, device: torch.device) -> None:
    check(g_objective(kind), kind in reference.RELATIVISTIC_KINDS, block, device)
