"""The autograd step against plain torch lines that use none of fastgan's losses, penalties, optimizers or layers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan import Trainer, optim, penalties
from fastgan.engines.game import at
from fastgan.mlp import MLP
from fastgan.ops.sample import Draws, Role

ROWS, PIXELS, Z, SAMPLES = 6, 4, 3, 20
KEEP = 0.75


def data() -> torch.Tensor:
    return torch.linspace(-1, 1, SAMPLES * PIXELS).sin().view(SAMPLES, PIXELS)


def networks(dropout: float | None = None) -> tuple[MLP, MLP]:
    torch.manual_seed(7)
    generator = MLP((Z, 8, PIXELS), output="tanh")
    discriminator = MLP((PIXELS, 8, 6, 1), activation="leaky_relu", dropout=dropout)
    return generator, discriminator


class Oracle:
    """The same game in plain torch: modules, torch.optim, textbook losses. Only the random numbers come from fastgan."""

    def __init__(self, d_loss, g_loss, penalty=None, d_steps=1, clip=None, ema_decay=None, dropout=False) -> None:
        generator, discriminator = networks(1 - KEEP if dropout else None)
        self.g, self.d = generator.to_sequential().double(), discriminator.to_sequential().double()
        self.d_loss, self.g_loss, self.penalty = d_loss, g_loss, penalty
        self.d_steps, self.clip, self.ema_decay, self.dropout = d_steps, clip, ema_decay, dropout
        self.images = data().double()
        self.ema = [p.detach().clone() for p in self.g.parameters()]

    def logits_of(self, x, draws, pass_):
        layer = 0
        for module in self.d:
            if not isinstance(module, nn.Dropout):
                x = module(x)
            elif self.dropout:
                x = x * draws.dropout_scale(len(x), x.shape[1], 1 - KEEP, pass_=pass_, layer=layer)
                layer += 1
        return x

    def run(self, steps, g_optimizer, d_optimizer, g_schedule=None):
        from fastgan.ops import sample

        for step in range(steps):
            for d_step in range(self.d_steps):
                draws = Draws(0, step, d_step, dtype=torch.float64)
                position = (step * self.d_steps + d_step) * ROWS
                word = sample.stream(Role.BATCH)
                real = self.images[sample.batch_indices(ROWS, SAMPLES, position, seed=0, stream=word)]
                fake = self.g(draws.latents(ROWS, Z)).detach()
                loss = self.d_loss(self.logits_of(real, draws, 0), self.logits_of(fake, draws, 1))
                if self.penalty:
                    loss = loss + self.penalty(self, real, fake, draws, step * self.d_steps + d_step)
                d_optimizer.zero_grad()
                loss.backward()
                d_optimizer.step()
                if self.clip:
                    with torch.no_grad():
                        for p in self.d.parameters():
                            p.clamp_(-self.clip, self.clip)
            fake = self.g(draws.latents(ROWS, Z, Role.GENERATOR_LATENT))
            loss = self.g_loss(self.logits_of(fake, draws, 2), self.logits_of(real, draws, 0).detach())
            g_optimizer.zero_grad()
            loss.backward()
            if g_schedule:
                g_optimizer.param_groups[0]["lr"] = g_schedule(step)
            g_optimizer.step()
            if self.ema_decay is not None:
                for mean, p in zip(self.ema, self.g.parameters(), strict=True):
                    mean.mul_(self.ema_decay).add_(p.detach(), alpha=1 - self.ema_decay)


def bce(logits, label):
    return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, label))


def norm_at(oracle, points, draws, pass_):
    points = points.detach().requires_grad_()
    (g,) = torch.autograd.grad(oracle.logits_of(points, draws, pass_).sum(), points, create_graph=True)
    return g.pow(2).sum(1).sqrt()


def wgan_gp(oracle, real, fake, draws, update):
    alpha = draws.alpha(ROWS, 0)[:, None]
    return 10 * (norm_at(oracle, real + alpha * (fake - real), draws, 3) - 1).pow(2).mean()


def lazy_r1_and_r2(oracle, real, fake, draws, update):
    # with the masks of the loss's own passes
    r1 = 3 * 0.5 * 2.0 * norm_at(oracle, real, draws, 0).pow(2).mean() if update % 3 == 0 else 0.0
    return r1 + 0.5 * 4.0 * norm_at(oracle, fake, draws, 1).pow(2).mean()


def dragan(oracle, real, fake, draws, update):
    points = real + 0.5 * real.std() * draws.noise(ROWS, PIXELS, 0)
    return 10 * (norm_at(oracle, points, draws, 3) - 1).pow(2).mean()


CASES = [
    pytest.param(
        dict(loss="nonsaturating"),
        dict(d_loss=lambda r, f: bce(r, 1) + bce(f, 0), g_loss=lambda f, r: bce(f, 1)),
        lambda p: torch.optim.Adam(p, 2e-4, betas=(0.5, 0.999)),
        id="the article's game, Adam",
    ),
    pytest.param(
        dict(loss="nonsaturating", ema=0.9),
        dict(d_loss=lambda r, f: bce(r, 1) + bce(f, 0), g_loss=lambda f, r: bce(f, 1), dropout=True, ema_decay=0.9),
        lambda p: torch.optim.Adam(p, 2e-4, betas=(0.5, 0.999)),
        id="dropout and an average",
    ),
    pytest.param(
        dict(loss="minimax", d_steps=3, g_optimizer=optim.SGD(0.05), d_optimizer=optim.SGD(0.05)),
        dict(d_loss=lambda r, f: bce(r, 1) + bce(f, 0), g_loss=lambda f, r: -bce(f, 0), d_steps=3),
        lambda p: torch.optim.SGD(p, 0.05),
        id="minimax, three D updates, gradient descent",
    ),
    pytest.param(
        dict(loss="lsgan", g_optimizer=optim.RMSprop(1e-3, momentum=0.5), d_optimizer=optim.RMSprop(1e-3, momentum=0.5)),
        dict(d_loss=lambda r, f: (r - 1).pow(2).mean() + f.pow(2).mean(), g_loss=lambda f, r: (f - 1).pow(2).mean()),
        lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.5),
        id="lsgan, RMSprop with momentum",
    ),
    pytest.param(
        dict(loss="wgan"),
        dict(d_loss=lambda r, f: f.mean() - r.mean(), g_loss=lambda f, r: -f.mean(), d_steps=5, clip=0.01),
        lambda p: torch.optim.RMSprop(p, 5e-5),
        id="wgan: five D updates, clipping",
    ),
    pytest.param(
        dict(loss="wgan-gp"),
        dict(d_loss=lambda r, f: f.mean() - r.mean(), g_loss=lambda f, r: -f.mean(), d_steps=5, penalty=wgan_gp, dropout=True),
        lambda p: torch.optim.Adam(p, 1e-4, betas=(0.5, 0.9)),
        id="wgan-gp under dropout",
    ),
    pytest.param(
        dict(loss="hinge", penalty=penalties.DRAGAN()),
        dict(d_loss=lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(), g_loss=lambda f, r: -f.mean(), penalty=dragan),
        lambda p: torch.optim.Adam(p, 2e-4, betas=(0.5, 0.999)),
        id="hinge with DRAGAN",
    ),
    pytest.param(
        dict(loss="relativistic", penalty=[penalties.R1(2.0, every=3), penalties.R2(4.0)], d_steps=2),
        dict(
            d_loss=lambda r, f: bce(r - f, 1),
            g_loss=lambda f, r: bce(f - r, 1),
            penalty=lazy_r1_and_r2,
            d_steps=2,
            dropout=True,
        ),
        lambda p: torch.optim.Adam(p, 2e-4, betas=(0.5, 0.999)),
        id="relativistic with a lazy R1 and an R2",
    ),
    pytest.param(
        dict(loss="relativistic-average", penalty=()),
        dict(
            d_loss=lambda r, f: bce(r - f.mean(), 1) + bce(f - r.mean(), 0),
            g_loss=lambda f, r: bce(f - r.mean(), 1) + bce(r - f.mean(), 0),
        ),
        lambda p: torch.optim.Adam(p, 2e-4, betas=(0.5, 0.999)),
        id="relativistic average",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["autograd", "closed-form"])
@pytest.mark.parametrize(("ours", "theirs", "optimizer"), CASES)
def test_step_equals_plain_torch_lines(ours, theirs, optimizer, engine):
    oracle = Oracle(**theirs)
    generator, discriminator = networks(1 - KEEP if oracle.dropout else None)
    trainer = Trainer(generator, discriminator, precision="fp64", device="cpu", engine=engine, **ours).attach(data(), ROWS)
    trainer.step(12)
    oracle.run(12, optimizer(oracle.g.parameters()), optimizer(oracle.d.parameters()))
    for mine, theirs in ((generator, oracle.g), (discriminator, oracle.d)):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    if oracle.ema_decay is not None:
        for view, value in zip(trainer._game.generator.views(trainer._game.generator.ema), oracle.ema, strict=True):
            torch.testing.assert_close(view, value, rtol=1e-9, atol=1e-11)


def test_two_learning_rates_and_a_schedule():
    oracle = Oracle(d_loss=lambda r, f: bce(r, 1) + bce(f, 0), g_loss=lambda f, r: bce(f, 1))
    generator, discriminator = networks()
    rates = dict(g_optimizer=optim.Adam(optim.cosine(1e-3, 1e-4, steps=8)), d_optimizer=optim.Adam(4e-3))
    Trainer(generator, discriminator, precision="fp64", device="cpu", **rates).attach(data(), ROWS).step(10)
    cosine = lambda step: 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * min(step / 8, 1)))  # noqa: E731
    oracle.run(10, torch.optim.Adam(oracle.g.parameters()), torch.optim.Adam(oracle.d.parameters(), 4e-3), cosine)
    for mine, theirs in zip(generator.parameters(), oracle.g.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_metrics_are_those_of_the_step():
    generator, discriminator = networks()
    trainer = Trainer(generator, discriminator, precision="fp64", device="cpu").attach(data(), ROWS)
    draws = Draws(0, 0, dtype=torch.float64)
    with torch.no_grad():
        real = trainer._game.real_rows(trainer._data.images, at(0), 0, ROWS)
        r, f = discriminator(real), discriminator(generator(draws.latents(ROWS, Z)))
    metrics = trainer.step()
    torch.testing.assert_close(metrics["d_real"], r.mean())
    torch.testing.assert_close(metrics["d_fake"], f.mean())
    torch.testing.assert_close(metrics["d_loss"], bce(r, 1) + bce(f, 0))
    assert metrics["penalty"] == 0 and metrics["d_grad_norm"] > 0 and metrics["g_grad_norm"] > 0
    assert all(value.dim() == 0 and not value.requires_grad for value in metrics.values())


class ConvGenerator(nn.Module):
    z_dim = (5, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(5, 4, 4), nn.BatchNorm2d(4), nn.SiLU(), nn.ConvTranspose2d(4, 1, 2, 2), nn.Tanh()
        )

    def forward(self, z):
        return self.main(z)


def conv_pair(*, end: nn.Module | None = None):
    torch.manual_seed(3)
    critic = nn.Sequential(nn.Conv2d(1, 4, 4, 2), nn.GELU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 1))
    if end is not None:
        critic.append(end)
    return ConvGenerator(), critic


def test_any_modules_train_reproducibly_and_leave_torchs_generator_alone():
    pictures = torch.rand(30, 1, 8, 8) * 2 - 1
    runs = []
    for start in (0, 99):
        generator, critic = conv_pair()
        trainer = Trainer(generator, critic, loss="wgan-gp", d_steps=2, device="cpu", precision="fp32").attach(pictures, 4)
        torch.manual_seed(start)
        before = torch.get_rng_state()
        trainer.step(3)
        assert torch.equal(before, torch.get_rng_state())
        assert trainer.sample(3).shape == (3, 1, 8, 8)
        runs.append([p.clone() for p in critic.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert all(a.isfinite().all() for a in runs[0])


@pytest.mark.parametrize("loss", ["nonsaturating", "minimax", "relativistic"])
def test_a_sigmoid_at_the_end_is_read_as_logits(loss):
    pictures = torch.rand(30, 1, 8, 8) * 2 - 1
    weights = []
    for end in (None, nn.Sigmoid()):
        generator, critic = conv_pair(end=end)
        Trainer(generator, critic, loss=loss, device="cpu", precision="fp32").attach(pictures, 4).step(2)
        weights.append([p.clone() for p in critic.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert critic(pictures[:2]).min() >= 0 and critic(pictures[:2]).max() <= 1, "the person's own forward keeps its Sigmoid"


def test_a_sigmoid_at_the_end_is_said_once_and_kept_for_other_losses(caplog):
    pictures = torch.rand(30, 1, 8, 8) * 2 - 1
    generator, critic = conv_pair(end=nn.Sigmoid())
    trainer = Trainer(generator, critic, device="cpu").attach(pictures, 4)
    trainer.attach(pictures, 4)
    assert sum("Sigmoid" in record.message for record in caplog.records) == 1
    generator, critic = conv_pair(end=nn.Sigmoid())
    metrics = Trainer(generator, critic, loss="lsgan", device="cpu", precision="fp32").attach(pictures, 4).step()
    assert 0 < metrics["d_real"] < 1


@pytest.mark.parametrize("made", ["fastgan's", "torch's"])
def test_a_saturated_tanh_keeps_its_slope_in_bf16(made):
    generator, discriminator = networks()
    with torch.no_grad():
        generator.layers[-1].bias.fill_(-4.0)  # tanh(-4) is -1 in bf16, with a slope of 0.001 in truth
    if made == "torch's":
        generator = nn.Sequential(generator.to_sequential(), nn.Unflatten(1, (2, 2)))
        discriminator = nn.Sequential(nn.Flatten(), discriminator)
    gradients = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(copy.deepcopy(generator), discriminator, precision=precision, device="cpu", engine="autograd")
        trainer.attach(data(), ROWS)
        trainer.step()
        gradients[precision] = trainer._game.generator.gradient.clone()
    assert gradients["fp32"].abs().max() > 0
    torch.testing.assert_close(gradients["bf16"], gradients["fp32"], rtol=0.1, atol=0.1 * float(gradients["fp32"].abs().max()))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_stay_near_fp32(precision):
    gradients = {}
    for name in ("fp32", precision):
        generator, discriminator = networks()
        options = dict(loss="wgan-gp", d_steps=1, precision=name, device="cpu", engine="autograd")
        trainer = Trainer(generator, discriminator, **options).attach(data(), ROWS)
        for scale in trainer._runner.engine.scales or ():
            scale.scale.fill_(128.0)  # the first guess, 65536, overflows here and is lowered, as it should be
        trainer.step()
        gradients[name] = trainer._game.discriminator.gradient.clone()
    error = (gradients[precision] - gradients["fp32"]).norm() / gradients["fp32"].norm()
    assert 0 < error < 0.05


def test_an_update_with_a_logit_that_is_not_finite_is_withheld():
    generator, discriminator = networks()
    trainer = Trainer(generator, discriminator, precision="fp32", device="cpu", ema=0.5).attach(data(), ROWS)
    trainer.step(2)
    with torch.no_grad():
        discriminator.layers[-1].bias.fill_(math.inf)
    before = {name: value.clone() for name, value in trainer.state_dict()["d_optimizer"].items()}
    weights = [p.clone() for p in (*generator.parameters(), *discriminator.parameters())]
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, (*generator.parameters(), *discriminator.parameters()), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in trainer.state_dict()["d_optimizer"].items())
    assert trainer.skipped > 0 and trainer.step_count == 3


def test_fp16_overflow_lowers_the_loss_scale_and_is_no_fault():
    generator, discriminator = networks()
    trainer = Trainer(generator, discriminator, precision="fp16", device="cpu").attach(data() * 1.0, ROWS)
    trainer._runner.engine.scales[0].scale.fill_(2.0**40)
    weights = [p.clone() for p in discriminator.parameters()]
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, discriminator.parameters(), strict=True))
    assert trainer._runner.engine.scales[0].scale == 2.0**39 and trainer.skipped == 0


def test_the_real_rows_are_one_endless_shuffled_stream():
    generator, discriminator = networks()
    numbered = torch.arange(SAMPLES).float().div(SAMPLES).unsqueeze(1).expand(-1, PIXELS).contiguous()
    trainer = Trainer(generator, discriminator, precision="fp32", device="cpu", d_steps=2).attach(numbered, ROWS)
    rows = [trainer._game.real_rows(trainer._data.images, at(step), d, ROWS)[:, 0] for step in range(10) for d in range(2)]
    seen = (torch.cat(rows) * SAMPLES).round().long()  # 120 rows: six epochs of 20
    for epoch in seen.view(6, SAMPLES):
        assert epoch.sort().values.tolist() == list(range(SAMPLES))
    assert seen[:SAMPLES].tolist() != seen[SAMPLES : 2 * SAMPLES].tolist()


def test_each_network_has_a_loss_scale_of_its_own():
    """Whatever they are, a step's gradients are the same, but for what fp16 rounds."""
    weights = []
    for scales in ((2.0**6, 2.0**12), (2.0**12, 2.0**6)):
        generator, discriminator = networks()
        options = dict(g_optimizer=optim.SGD(0.1), d_optimizer=optim.SGD(0.1), precision="fp16", device="cpu")
        trainer = Trainer(generator, discriminator, **options).attach(data() * 1.0, ROWS)
        for scale, value in zip(trainer._runner.engine.scales, scales, strict=True):
            scale.scale.fill_(value)
        trainer.step(2)
        assert [scale.scale.item() for scale in trainer._runner.engine.scales] == list(scales)
        weights.append([p.detach().clone() for network in (generator, discriminator) for p in network.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
