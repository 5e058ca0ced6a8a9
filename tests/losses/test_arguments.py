"""What losses are asked for: the names of kinds, and arguments that are refused with words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgan import losses
from fastgan.losses import KINDS, GANLoss, d_loss, g_loss

PAIRED, AVERAGE = "relativistic", "relativistic-average"
SMOOTHED = ("minimax", "nonsaturating", "lsgan")
NAMES = {
    "minimax": ("mm", "saturating", "Minimax"),
    "nonsaturating": ("ns", "nsgan", "non_saturating", "non-saturating", "modified", "vanilla", "gan", "logistic", "standard"),
    "lsgan": ("ls", "LSGAN", "least_squares", "least_square", "mse"),
    "wgan": ("w", "WGAN", "wasserstein"),
    "hinge": ("wasserstein_hinge", "geometric"),
    PAIRED: ("rsgan", "rpgan", "relativistic_paired"),
    AVERAGE: ("ragan", "RaGAN", "relativistic_average"),
}


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3.0 * torch.randn(shape, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_names_resolve(kind: str) -> None:
    for name in (kind, *NAMES[kind]):
        assert losses.resolve_kind(name) == GANLoss(name).kind == kind


def test_an_unknown_kind_is_told_all_of_them() -> None:
    x = logits(2)
    for call in (lambda: d_loss(x, x, "began"), lambda: g_loss(x, kind="began"), lambda: GANLoss("began")):
        with pytest.raises(ValueError, match="began") as caught:
            call()
        assert all(kind in str(caught.value) for kind in KINDS)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    ("real", "fake"),
    [
        pytest.param((4, 1), (4,), id="a column and a row would broadcast to a square"),
        pytest.param((4, 1), (4, 2), id="trailing size"),
        pytest.param((1,), (), id="no dimension"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(real: tuple[int, ...], fake: tuple[int, ...], reduction: str) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match="real and fake"):
            d_loss(logits(*real), logits(*fake), kind, reduction=reduction)
    for kind in (PAIRED, AVERAGE):
        with pytest.raises(ValueError, match="real and fake"):
            g_loss(logits(*fake), logits(*real), kind, reduction=reduction)


def test_rows_that_pair_must_be_as_many() -> None:
    real, fake = logits(1, 1), logits(4, 1)
    for call in (
        lambda: d_loss(real, fake, PAIRED),
        lambda: g_loss(fake, real, PAIRED),
        lambda: d_loss(real, fake, "wgan", reduction="none"),
        lambda: g_loss(fake, real, AVERAGE, reduction="none"),
    ):
        with pytest.raises(ValueError, match="1 rows and fake 4"):
            call()


@pytest.mark.parametrize("kind", KINDS)
def test_only_floating_point_batches_with_rows_are_taken(kind: str) -> None:
    good = logits(3)
    for bad in (torch.ones(3, dtype=torch.long), torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.complex64)):
        for call, pair in ((d_loss, (bad, good)), (d_loss, (good, bad)), (g_loss, (bad, good))):
            with pytest.raises(TypeError, match="floating-point"):
                call(*pair, kind)
    with pytest.raises(TypeError, match="list"):
        d_loss([0.0, 1.0, 2.0], good, kind)
    for empty in (torch.empty(0), torch.empty(0, 1), torch.empty(3, 0)):
        for call in (d_loss, g_loss):
            with pytest.raises(ValueError, match="empty"):
                call(empty, empty, kind)


def test_options_that_have_no_meaning_are_refused() -> None:
    real, fake = logits(3), logits(3)
    for kind in set(KINDS) - set(SMOOTHED):
        with pytest.raises(ValueError, match="smoothing"):
            d_loss(real, fake, kind, label_smoothing=0.1)
        with pytest.raises(ValueError, match="smoothing"):
            GANLoss(kind, label_smoothing=0.1)
    for e in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="label_smoothing"):
            d_loss(real, fake, label_smoothing=e)
    with pytest.raises(ValueError, match="scale"):
        d_loss(real, fake, "wgan", scale=0.5)
    for call in (lambda: d_loss(real, fake, reduction="max"), lambda: g_loss(fake, reduction="max")):
        with pytest.raises(ValueError, match="mean"):
            call()


@pytest.mark.parametrize("kind", [PAIRED, AVERAGE])
def test_a_relativistic_generator_needs_the_real_logits(kind: str) -> None:
    with pytest.raises(ValueError, match="real="):
        g_loss(logits(3), kind=kind)
    with pytest.raises(ValueError, match="real="):
        GANLoss(kind).g(logits(3))
    with pytest.raises(ValueError, match=r"\.d\(real, fake\)"):
        GANLoss(kind)(logits(3), True)
