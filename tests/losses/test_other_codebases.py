"""What docs/migration.md says of other codebases' losses beside its blocks: values and slopes in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import losses, penalties


def two_sides(*shape: int) -> tuple[Tensor, Tensor]:
    """Standard normal logits in fp64."""
    torch.manual_seed(0)
    real, fake = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return real, fake


def slopes(value: Tensor, *sides: Tensor) -> Tensor:
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(value, sides, materialize_grads=True)])


def test_slopes_of_esrgans_means() -> None:
    r, f = two_sides(6, 1, 3, 3)
    averaging = 0.5 * losses.relativistic_average_d_loss(r, f)
    detached = 0.5 * losses.nonsaturating_d_loss(r - f.detach().mean(), f - r.detach().mean())
    rows = 0.5 * losses.nonsaturating_d_loss(r - f.mean(0, keepdim=True), f - r.mean(0, keepdim=True))
    torch.testing.assert_close(averaging, detached, rtol=1e-14, atol=0)
    ours, *others = (slopes(value, r, f) for value in (averaging, detached, rows))
    off = [((ours - other).norm() / other.norm()).item() for other in others]
    assert off == pytest.approx([0.94, 0.19], abs=0.005)
    r, f = two_sides(6, 1)
    rows = F.softplus(f.mean(0, keepdim=True) - r).mean() + F.softplus(f - r.mean(0, keepdim=True)).mean()
    torch.testing.assert_close(slopes(losses.relativistic_average_d_loss(r, f), r, f), slopes(rows, r, f), rtol=1e-12, atol=0)
    one_term = F.binary_cross_entropy_with_logits(f - r.mean(), torch.ones_like(f))
    torch.testing.assert_close(slopes(losses.nonsaturating_g_loss(f - r.mean()), f), slopes(one_term, f), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("label", "other"), [(0.9, 0.0), (1.0, 0.0), (0.9, 0.1)])
def test_pix2pixs_labels(label: float, other: float) -> None:
    """Its GANLoss(mode, target_real_label, target_fake_label), as the page's table has it; and the three kinds' generator."""
    r, f = two_sides(4, 1, 3, 3)
    for mode, loss in (("vanilla", F.binary_cross_entropy_with_logits), ("lsgan", F.mse_loss)):
        theirs = loss(r, torch.full_like(r, label)) + loss(f, torch.full_like(f, other))
        expected = slopes(theirs, r, f)
        criterion = losses.GANLoss(mode)
        found = [criterion(r, label) + criterion(f, other)]
        if other == 0.0:
            smoothed = losses.GANLoss(mode, label_smoothing=1 - label)
            found += [smoothed(r, True) + smoothed(f, False), smoothed.d(r, f)]
        for ours in found:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
            torch.testing.assert_close(slopes(ours, r, f), expected, rtol=1e-12, atol=1e-15)
    for mode in ("vanilla", "lsgan", "wgan"):
        criterion = losses.GANLoss(mode)
        of_critic = slopes(criterion(f, True), f)
        for turn in (criterion(f, True, for_discriminator=False), criterion.g(f)):
            torch.testing.assert_close(slopes(turn, f), of_critic)
    assert losses.resolve_kind("vanilla") == losses.resolve_kind("nonsaturating") == "nonsaturating"
    with pytest.raises(ValueError, match=r"penalties\.gradient_penalty"):
        losses.GANLoss("wgangp")


def test_halves_beside_a_penalty() -> None:
    """Half the loss with a gamma of 10 has half the gradient of the whole with 20, to the last bit."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    real, fake = torch.randn(2, 5, 6)
    gradients = []
    for half, weight in ((0.5, 10.0), (1.0, 20.0)):
        torch.manual_seed(1)
        penalty = penalties.gradient_penalty(critic, real, fake, weight=weight)
        gradients.append(slopes(half * losses.d_loss(critic(real), critic(fake)) + penalty, *critic.parameters()))
    assert torch.equal(2 * gradients[0], gradients[1])


def test_a_hinge_loss_of_the_generator_that_rests() -> None:
    hinge, x = losses.GANLoss("hinge"), torch.linspace(-3, 3, 8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(slopes(hinge(x, True), x), slopes(F.relu(1 - x).mean(), x))
    for paper in (hinge(x, True, for_discriminator=False), hinge.g(x), losses.hinge_g_loss(x)):
        torch.testing.assert_close(slopes(paper, x), slopes(-x.mean(), x))
