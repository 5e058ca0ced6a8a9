"""Losses and penalties as public code writes them, from their formulas: none of them is blamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, autograd, nn
from torch.nn import functional as F

from fastgan import testing

pytestmark = pytest.mark.usefixtures("one_thread")

Call = Callable[..., Any]
Case = tuple[str, Call, dict[str, Any]]
AVERAGE = "relativistic-average"
bce = F.binary_cross_entropy_with_logits
ones, zeros, mean = torch.ones_like, torch.zeros_like, torch.mean


def least(x: Tensor) -> Tensor:
    """min(x, 0), a hinge of the other sign."""
    return torch.min(x, zeros(x))


class PerSide(nn.Module):
    """The image-translation call: a prediction, and whether it is of a real image."""

    def __init__(self, loss: Call) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("label", torch.tensor(1.0))

    def forward(self, prediction: Tensor, is_real: bool) -> Tensor:
        label = self.label if is_real else 1 - self.label
        return self.loss(prediction, label.expand_as(prediction).to(prediction.dtype))


def per_side(loss: Call) -> Call:
    criterion = PerSide(loss)
    return lambda r, f: criterion(r, True) + criterion(f, False)


def in_a_list(loss: Call) -> Call:
    """Sums over the outputs of several critics, of which there is one here, into torch.zeros(1)."""

    def call(*sides: Tensor) -> Tensor:
        total = torch.zeros(1)
        for outputs in zip(*([side] for side in sides), strict=True):
            total = total + loss(*outputs)
        return total

    return call


D_LOSSES: dict[str, Case] = {
    "DCGAN, columns of labels": (
        "vanilla",
        lambda r, f: bce(r, torch.ones(len(r), 1)) + bce(f, torch.zeros(len(f), 1)),
        {},
    ),
    "DCGAN, view(-1)": (
        "vanilla",
        lambda r, f: bce(r.view(-1), torch.full((len(r),), 1.0)) + bce(f.view(-1), torch.full((len(f),), 0.0)),
        {},
    ),
    "pix2pix vanilla": ("vanilla", per_side(bce), {}),
    "pix2pix lsgan": ("lsgan", per_side(F.mse_loss), {}),
    "StyleGAN2": ("logistic", lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(), {}),
    "StudioGAN logistic": ("vanilla", lambda r, f: mean(F.softplus(-r) + F.softplus(f)), {}),
    "StudioGAN least squares": (
        "lsgan",
        lambda r, f: 0.5 * (r - ones(r)).square().mean() + 0.5 * f.square().mean(),
        {"scale": 0.5},
    ),
    "StudioGAN wasserstein": ("wasserstein", lambda r, f: mean(f - r), {}),
    "StudioGAN hinge": ("hinge", lambda r, f: mean(F.relu(1.0 - r) + F.relu(1.0 + f)), {}),
    "SNGAN, by the minimum": ("hinge", lambda r, f: -least(r - 1).mean() - least(-f - 1).mean(), {}),
    "SPADE, over a list": (
        "hinge",
        lambda r, f: mean((-least(r - 1).mean() - least(-f - 1).mean()).view(1, -1), dim=1),
        {},
    ),
    "AudioCraft hinge": ("hinge", in_a_list(lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean()), {}),
    "EnCodec hinge": ("hinge", in_a_list(lambda r, f: mean(F.relu(1 - r)) + mean(F.relu(1 + f))), {}),
    "HiFi-GAN": ("lsgan", lambda r, f: (mean((1 - r) ** 2) + mean(f**2), [mean((1 - r) ** 2).item()], []), {}),
    "MUNIT lsgan": ("lsgan", lambda r, f: mean((f - 0) ** 2) + mean((r - 1) ** 2), {}),
    "LSGAN's paper": ("lsgan", lambda r, f: 0.5 * mean((r - 1) ** 2) + 0.5 * mean((f + 1) ** 2), {"scale": 0.5}),
    "mmgeneration hinge": ("hinge", lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(), {}),
    "mmgeneration wgan": ("wgan", lambda r, f: -r.mean() + f.mean(), {}),
    "caogang's wgan, by backward of one and minus one": ("wgan", lambda r, f: (f.mean() - r.mean()).view(1), {}),
    "progressive growing": ("wgan", lambda r, f: mean(f) - mean(r) + 0.001 * mean(r**2), {}),
    "R3GAN": ("relativistic", lambda r, f: F.softplus(-(r - f)).mean(), {}),
    "relativistic by BCE": ("relativistic", lambda r, f: bce(r - f, ones(r)), {}),
    "ESRGAN": (AVERAGE, lambda r, f: bce(r - f.detach().mean(), ones(r)) + bce(f - r.detach().mean(), zeros(f)), {}),
    "relativistic averages over rows": (
        AVERAGE,
        lambda r, f: bce(r - f.mean(0, keepdim=True), ones(r)) + bce(f - r.mean(0, keepdim=True), zeros(f)),
        {},
    ),
    "RaGAN's author": (AVERAGE, lambda r, f: bce(r - mean(f), ones(r)) + bce(f - mean(r), zeros(f)), {}),
    "TF-GAN, smoothed by 0.25": (
        "vanilla",
        lambda r, f: bce(r, torch.full_like(r, 0.75)) + bce(f, zeros(f)),
        {"label_smoothing": 0.25},
    ),
}

G_LOSSES: dict[str, Case] = {
    "pix2pix": ("vanilla", lambda f: PerSide(bce)(f, True), {}),
    "StyleGAN2": ("logistic", lambda f: F.softplus(-f).mean(), {}),
    "torchgan, saturating": ("minimax", lambda f: -bce(f, zeros(f)), {}),
    "SNGAN": ("hinge", lambda f: -mean(f), {}),
    "Vocos": ("hinge", in_a_list(lambda f: mean(torch.clamp(1 - f, min=0))), {}),
    "AudioCraft hinge2": ("hinge", lambda f: F.relu(1 - f).mean(), {}),
    "HiFi-GAN": ("lsgan", lambda f: mean((1 - f) ** 2), {}),
    "LSGAN's paper": ("lsgan", lambda f: 0.5 * mean(f**2), {"scale": 0.5}),
    "R3GAN": ("relativistic", lambda f, r: F.softplus(-(f - r)).mean(), {}),
    "ESRGAN": (
        AVERAGE,
        lambda f, r: bce(r.detach() - f.mean(), zeros(r)) + bce(f - r.detach().mean(), ones(f)),
        {},
    ),
}


@pytest.mark.parametrize(("kind", "loss", "options"), D_LOSSES.values(), ids=D_LOSSES)
def test_no_discriminators_loss_is_blamed(kind: str, loss: Call, options: dict[str, Any]) -> None:
    assert [fault for fault in testing.diagnose_d_loss(loss, kind, **options) if not fault.is_note] == []
    testing.check_d_loss(loss, kind, **options)


@pytest.mark.parametrize(("kind", "loss", "options"), G_LOSSES.values(), ids=G_LOSSES)
def test_no_generators_loss_is_blamed(kind: str, loss: Call, options: dict[str, Any]) -> None:
    assert [fault for fault in testing.diagnose_g_loss(loss, kind, **options) if not fault.is_note] == []
    testing.check_g_loss(loss, kind, **options)


def differentiate(critic: Call, x: Tensor) -> Tensor:
    scores = critic(x)
    return autograd.grad(scores, x, torch.ones(scores.size()), create_graph=True, retain_graph=True, only_inputs=True)[0]


def by_the_nelement(critic: Call, real: Tensor, fake: Tensor, size: int, *shape: int) -> Tensor:
    """The first ports of WGAN-GP: the batch and the images are constants of the script."""
    alpha = torch.rand(size, 1).expand(size, real.nelement() // size).contiguous().view(size, *shape)
    x = autograd.Variable(alpha * real + (1 - alpha) * fake, requires_grad=True)
    gradient = differentiate(critic, x).view(size, -1)
    return ((gradient.norm(2, dim=1) - 1) ** 2).mean() * 10


def of_digits(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    """Flat rows: the norm over dim=1 is the whole one."""
    alpha = torch.rand(real.size(0), 1).expand(real.size())
    x = (alpha * real + (1 - alpha) * fake).requires_grad_()
    return ((differentiate(critic, x).norm(2, dim=1) - 1) ** 2).mean() * 10


def of_a_language_model(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.rand(real.size(0), 1, 1).expand(real.size())
    x = (alpha * real + (1 - alpha) * fake).requires_grad_()
    return ((differentiate(critic, x).reshape(len(x), -1).norm(2, dim=1) - 1) ** 2).mean() * 10


def pytorch_gan(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.rand(real.size(0), 1, 1, 1)
    x = (alpha * real + ((1 - alpha) * fake)).requires_grad_(True)
    gradient = autograd.grad(critic(x), x, torch.ones(real.shape[0], 1), create_graph=True, retain_graph=True)[0]
    return 10 * ((gradient.view(gradient.size(0), -1).norm(2, dim=1) - 1) ** 2).mean()


def image_translation(critic: Call, real: Tensor, fake: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Returns the gradients beside the penalty."""
    alpha = torch.rand(real.shape[0], 1).expand(real.shape[0], real.nelement() // real.shape[0]).contiguous().view(*real.shape)
    x = (alpha * real + ((1 - alpha) * fake)).requires_grad_(True)
    gradient = differentiate(critic, x)
    return (((gradient.view(real.size(0), -1) + 1e-16).norm(2, dim=1) - 1.0) ** 2).mean() * 10.0, (gradient,)


def with_eps(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    assert real.dim() == 4 and real.shape == fake.shape
    x = torch.lerp(fake, real, torch.rand(len(real), 1, 1, 1, dtype=real.dtype)).requires_grad_()
    squares = torch.sum(differentiate(critic, x).view(len(real), -1) ** 2, dim=1)
    return 10 * ((torch.sqrt(squares + 1e-12) - 1) ** 2).mean()


def three_channels(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    rows = real.shape[0]
    alpha = torch.rand(rows, 1).expand(rows, int(real.nelement() / rows)).contiguous().view(rows, 3, *real.shape[2:])
    x = (alpha * real.detach() + (1 - alpha) * fake.detach()).requires_grad_(True)
    return ((differentiate(critic, x).view(rows, -1).norm(2, dim=1) - 1) ** 2).mean() * 10


def that_logs(critic: Call, real: Tensor, fake: Tensor) -> Tensor:
    """Asks the critic again, for numbers of the log alone."""
    value = pytorch_gan(critic, real, fake)
    with torch.no_grad():
        _ = critic(real).mean() - critic(fake).mean()
    return value


GRADIENT_PENALTIES: dict[str, Call] = {
    "asked again": that_logs,
    "MNIST, 50 flat rows": lambda c, r, f: by_the_nelement(c, r, f, 50, 784),
    "CIFAR, 64 images": lambda c, r, f: by_the_nelement(c, r, f, 64, 3, 32, 32),
    "toy data, 256 points": lambda c, r, f: by_the_nelement(c, r, f, 256, 2),
    "digits": of_digits,
    "language model": of_a_language_model,
    "PyTorch-GAN": pytorch_gan,
    "pix2pix": image_translation,
    "eps in the root": with_eps,
    "mimicry": three_channels,
}


@pytest.mark.parametrize("penalty", GRADIENT_PENALTIES.values(), ids=GRADIENT_PENALTIES)
def test_no_gradient_penalty_is_blamed(penalty: Call) -> None:
    found = testing.diagnose_gradient_penalty(penalty)
    assert [fault.name for fault in found] == ["a tuple, whose first element is the value"] * (penalty is image_translation)
    testing.check_gradient_penalty(penalty)


def squared(reduce: Call) -> Call:
    def penalty(critic: Call, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (gradient,) = autograd.grad([critic(x).sum()], [x], create_graph=True, only_inputs=True)
        return reduce(gradient)

    return penalty


SQUARED_PENALTIES: dict[str, Call] = {
    "StyleGAN2-ADA, R3GAN": squared(lambda g: (g.square().sum([1, 2, 3]) * (10.0 / 2)).mean()),
    "rosinality": squared(lambda g: 10.0 / 2 * g.pow(2).reshape(g.shape[0], -1).sum(1).mean()),
    "GAN stability": squared(lambda g: 10.0 * 0.5 * g.pow(2).view(g.size(0), -1).sum(1).mean(0)),
    "norm, then its square": squared(lambda g: 5.0 * (torch.linalg.vector_norm(g.flatten(1), dim=1) ** 2).mean()),
}


@pytest.mark.parametrize("penalty", SQUARED_PENALTIES.values(), ids=SQUARED_PENALTIES)
def test_no_squared_penalty_is_blamed(penalty: Call) -> None:
    assert testing.diagnose_r1_penalty(penalty) == testing.diagnose_r2_penalty(penalty) == ()


def noisy(points: Call) -> Call:
    def penalty(critic: Call, real: Tensor) -> Tensor:
        x = points(real, 0.5 * real.std() * torch.rand(real.size())).detach().requires_grad_()
        return 10 * ((differentiate(critic, x).view(len(real), -1).norm(2, dim=1) - 1) ** 2).mean()

    return penalty


def uniform(real: Tensor) -> Tensor:
    return torch.rand(real.size(0), 1, 1, 1)


DRAGAN_PENALTIES: dict[str, Call] = {
    "noise": noisy(lambda real, noise: real + noise),
    "StudioGAN": noisy(lambda real, noise: real + uniform(real) * noise),
    "the authors' notebook": noisy(lambda real, noise: real + uniform(real) * ((real + noise) - real)),
    "mixed": noisy(lambda real, noise: (a := uniform(real)) * real + (1 - a) * (real + noise)),
}


@pytest.mark.parametrize("penalty", DRAGAN_PENALTIES.values(), ids=DRAGAN_PENALTIES)
def test_no_form_of_dragan_is_blamed(penalty: Call) -> None:
    assert testing.diagnose_dragan_penalty(penalty) == ()
