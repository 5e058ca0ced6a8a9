"""Logits and labels that inference mode has made, beside logits that are differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan import losses

LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "d": (lambda r, f: losses.d_loss(r, f), lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean()),
    "d of a critic that is frozen on the fakes": (
        lambda r, f: losses.d_loss(f, r, "lsgan"),
        lambda r, f: (f - 1).square().mean() + r.square().mean(),
    ),
    "d with statistics": (
        lambda r, f: losses.d_loss_with_statistics(r, f, "hinge")[0],
        lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(),
    ),
    "paired g": (lambda r, f: losses.g_loss(f, r, "relativistic"), lambda r, f: F.softplus(r - f).mean()),
    "average g by keyword": (
        lambda r, f: losses.g_loss(f, kind="relativistic-average", real=r),
        lambda r, f: F.softplus(r - f.mean()).mean() + F.softplus(r.mean() - f).mean(),
    ),
    "rows": (lambda r, f: losses.d_loss(r, f, reduction="none").sum(), lambda r, f: (F.softplus(-r) + F.softplus(f)).sum()),
    "a module": (lambda r, f: losses.GANLoss("wgan").d(r, f), lambda r, f: f.mean() - r.mean()),
    "labels": (lambda r, f: losses.GANLoss()(f, r), lambda r, f: F.softplus(f).mean() - (r * f).mean()),
    "labels of BCE": (
        lambda r, f: losses.BCEWithLogitsLoss(reduction="sum")(f, r),
        lambda r, f: F.softplus(f).sum() - (r * f).sum(),
    ),
}


@pytest.mark.parametrize("again", [False, True], ids=["once", "differentiated again"])
@pytest.mark.parametrize("rows", [3, 4000])
@pytest.mark.parametrize(("ours", "theirs"), LOSSES.values(), ids=LOSSES)
def test_values_and_slopes(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], rows: int, again: bool) -> None:
    fake: Any = torch.randn(rows, 1, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        made = torch.randn(rows, 1, dtype=torch.float64)
    found, exact = ours(made, fake), theirs(made.clone(), fake)
    torch.testing.assert_close(found, exact)
    slopes = [torch.autograd.grad(value, fake, create_graph=again)[0] for value in (found, exact)]
    torch.testing.assert_close(*slopes)
