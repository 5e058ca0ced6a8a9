"""Every option of a loss, through every form in which the loss can be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgan import losses
from fastgan.losses import GANLoss, d_loss, d_loss_with_statistics, g_loss
from fastgan.ops.backend import BackendUnavailable

REAL, FAKE = (torch.tensor(values, dtype=torch.float64) for values in ([0.5, -1.0, 2.0], [1.5, 0.25, -3.0]))

D_FORMS: dict[str, Callable[..., Tensor]] = {
    "d_loss": lambda **options: d_loss(REAL, FAKE, "lsgan", **options),
    "lsgan_d_loss": lambda **options: losses.lsgan_d_loss(REAL, FAKE, **options),
    "d_loss_with_statistics": lambda **options: d_loss_with_statistics(REAL, FAKE, "lsgan", **options)[0],
    "GANLoss.d": lambda **options: GANLoss("lsgan", **options).d(REAL, FAKE),
    "GANLoss.d_with_statistics": lambda **options: GANLoss("lsgan", **options).d_with_statistics(REAL, FAKE)[0],
    "GANLoss": lambda **options: GANLoss("lsgan", **options)(REAL, True) + GANLoss("lsgan", **options)(FAKE, False),
}
G_FORMS: dict[str, Callable[..., Tensor]] = {
    "g_loss": lambda **options: g_loss(FAKE, kind="lsgan", **options),
    "lsgan_g_loss": lambda **options: losses.lsgan_g_loss(FAKE, **options),
    "GANLoss.g": lambda **options: GANLoss("lsgan", **options).g(FAKE),
    "GANLoss": lambda **options: GANLoss("lsgan", **options)(FAKE, True, False),
}
COMPARING: dict[str, Callable[..., Tensor]] = {
    "g_loss": lambda **options: g_loss(FAKE, REAL, "relativistic", **options),
    "relativistic_g_loss": lambda **options: losses.relativistic_g_loss(FAKE, real=REAL, **options),
    "GANLoss.g": lambda **options: GANLoss("relativistic", **options).g(FAKE, real=REAL),
}
LABELS: dict[str, Callable[..., Tensor]] = {
    "GANLoss lsgan": lambda **options: GANLoss("lsgan", **options)(FAKE, 0.75),
    "GANLoss nonsaturating": lambda **options: GANLoss("nonsaturating", **options)(FAKE, 0.75),
}
OPTIONS: list[dict[str, Any]] = [
    dict(scale=0.5),
    dict(reduction="sum"),
    dict(reduction="none"),
    dict(scale=0.5, reduction="sum"),
]


def reduced(terms: Tensor, reduction: str = "mean") -> Tensor:
    return {"mean": terms.mean(), "sum": terms.sum(), "none": terms}[reduction]


@pytest.mark.parametrize("options", [*OPTIONS, dict(label_smoothing=0.25), dict(label_smoothing=0.25, scale=0.5)], ids=str)
@pytest.mark.parametrize("form", D_FORMS)
def test_an_option_reaches_the_discriminators_loss(form: str, options: dict[str, Any]) -> None:
    scale, target = options.get("scale", 1.0), 1.0 - options.get("label_smoothing", 0.0)
    expected = reduced(scale * ((REAL - target).square() + FAKE.square()), options.get("reduction", "mean"))
    torch.testing.assert_close(D_FORMS[form](**options), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("form", G_FORMS)
def test_an_option_reaches_the_generators_loss(form: str, options: dict[str, Any]) -> None:
    expected = reduced(options.get("scale", 1.0) * (FAKE - 1.0).square(), options.get("reduction", "mean"))
    torch.testing.assert_close(G_FORMS[form](**options), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", COMPARING)
def test_the_reduction_reaches_a_loss_that_compares(form: str, reduction: str) -> None:
    expected = reduced(torch.log1p(torch.exp(REAL - FAKE)), reduction)
    torch.testing.assert_close(COMPARING[form](reduction=reduction), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("forms", [D_FORMS, G_FORMS, COMPARING, LABELS], ids=["d", "g", "relativistic", "labels"])
def test_a_backend_that_is_named_must_run(forms: dict[str, Callable[..., Tensor]]) -> None:
    for call in forms.values():
        torch.testing.assert_close(call(backend="reference"), call(), rtol=1e-14, atol=0)
        with pytest.raises(BackendUnavailable):  # no loss has a version for Triton
            call(backend="triton")
