"""The closed form against the autograd step: free runs in fp64, other precisions one update at a time from the same state."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import Trainer, optim, penalties
from fastgan.mlp import MLP
from fastgan.runtime import instruction_sets

# precisions, and FASTGAN_CPU for each kind of products that they have
PRODUCTS = {
    "fp32": ("off", "portable", "avx2", "avx512"),
    "bf16": ("off", "avx512-bf16"),
}
ROWS, PIXELS, Z = 8, 4, 3  # 8 rows: means are exact sums, so that a bias whose gradient is 0 keeps one of exactly 0


def forced(request: pytest.FixtureRequest, precision: str, name: str) -> Iterator[str]:
    """Inside, products of a precision are those of an instruction set, or torch's ("off"); skips what is not here."""
    if name != "off":
        request.getfixturevalue("requires_extension")
        if name not in instruction_sets.available():
            pytest.skip(f"this processor, or the compiler, has no {name}")
    with instruction_sets.forced(name):
        yield precision


@pytest.fixture(params=[(precision, name) for precision in PRODUCTS for name in PRODUCTS[precision]], ids="-".join)
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """A precision, with each kind of products that it has."""
    yield from forced(request, *request.param)


@pytest.fixture(params=PRODUCTS["fp32"][1:])
def packed_fp32(request: pytest.FixtureRequest) -> Iterator[str]:
    """fp32, with each kind of packed products that it has."""
    yield from forced(request, "fp32", request.param)


def data() -> Tensor:
    return torch.linspace(-1, 1, 20 * PIXELS).sin().view(20, PIXELS)


def networks(d_dropout: float | None = 0.25, g_dropout: float | None = None, output: str = "tanh") -> tuple[MLP, MLP]:
    torch.manual_seed(7)
    generator = MLP((Z, 9, 7, PIXELS), output=output, dropout=g_dropout)
    return generator, MLP((PIXELS, 8, 6, 1), activation="leaky_relu", dropout=d_dropout)


def trained(engine: str, options: dict[str, Any], shape: dict[str, Any], steps: int) -> tuple[Trainer, dict[str, Tensor]]:
    trainer = Trainer(*networks(**shape), precision="fp64", device="cpu", engine=engine, **options).attach(data(), ROWS)
    return trainer, trainer.step(steps)


ADAM = optim.Adam(1e-3, betas=(0.5, 0.999))
GAMES = [
    pytest.param(dict(loss="nonsaturating"), dict(d_dropout=None), id="the article's game, no dropout"),
    pytest.param(dict(loss="nonsaturating", ema=0.9), dict(g_dropout=0.2), id="dropout in both networks, an average"),
    pytest.param(
        dict(
            loss="minimax",
            d_steps=3,
            g_optimizer=optim.SGD(0.05, momentum=0.5),
            d_optimizer=optim.SGD(0.05, nesterov=True, momentum=0.9),
        ),
        {},
        id="minimax, momentum, three D updates",
    ),
    pytest.param(
        dict(loss="lsgan", g_optimizer=optim.RMSprop(1e-3, centered=True), d_optimizer=optim.RMSprop(1e-3, momentum=0.5)),
        dict(output="sigmoid"),
        id="lsgan, RMSprop, a sigmoid at G's end",
    ),
    pytest.param(dict(loss="wgan"), dict(output="identity"), id="wgan: clipping, nothing at G's end"),
    pytest.param(dict(loss="wgan-gp"), {}, id="wgan-gp"),
    pytest.param(
        dict(
            loss="wgan",
            penalty=penalties.GradientPenalty(5.0, target=0.5, one_sided=True, every=3),
            g_optimizer=ADAM,
            d_optimizer=ADAM,
            d_steps=2,
        ),
        dict(d_dropout=None),
        id="a one-sided penalty at each third update",
    ),
    pytest.param(
        dict(
            loss="hinge",
            penalty=[penalties.DRAGAN(), penalties.WeightClip(0.5)],
            g_optimizer=optim.Adam(optim.cosine(1e-3, 1e-4, steps=30), betas=(0.0, 0.9), weight_decay=0.01),
            d_optimizer=optim.Adam(optim.linear(4e-3, 1e-3, steps=40), betas=(0.0, 0.9)),
        ),
        {},
        id="hinge, DRAGAN, clipping, two schedules",
    ),
    pytest.param(
        dict(loss="relativistic", penalty=[penalties.R1(2.0, every=3), penalties.R2(4.0)], d_steps=2),
        {},
        id="relativistic, lazy R1, R2",
    ),
    pytest.param(
        dict(
            loss="relativistic-average",
            penalty=[
                penalties.R1(0.5),
                penalties.GradientPenalty(3.0),
                penalties.R2(0.5),
                penalties.DRAGAN(2.0, every=2),
                penalties.R1(0.3),
            ],
            ema=0.5,
        ),
        {},
        id="relativistic average, five penalties",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "shape"), GAMES)
def test_fifty_free_steps_equal_those_of_autograd(options: dict[str, Any], shape: dict[str, Any]) -> None:
    (closed, metrics), (autograd, expected) = (trained(engine, options, shape, 50) for engine in ("closed-form", "autograd"))
    assert (closed.engine, autograd.engine) == ("closed-form", "autograd")
    states, others = closed.state_dict(), autograd.state_dict()
    for part in ("generator", "discriminator", "g_optimizer", "d_optimizer"):
        for name, value in others[part].items():
            torch.testing.assert_close(
                states[part][name], value, rtol=1e-10, atol=1e-10, msg=lambda m, n=f"{part} {name}": f"{n}: {m}"
            )
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-8, atol=1e-9)
    start = torch.cat([p.flatten() for network in networks(**shape) for p in network.parameters()])
    end = torch.cat([p.flatten() for p in (*closed.generator.parameters(), *closed.discriminator.parameters())])
    assert (end - start).abs().max() > 1e-3, "the weights have moved"


def distance(options: dict[str, Any], shape: dict[str, Any], cpu: str, exact: list[Tensor]) -> float:
    """How far three steps in fp32 take the weights from where they belong."""
    with instruction_sets.forced(cpu):
        trainer = Trainer(*networks(**shape), precision="fp32", device="cpu", engine="closed-form", **options)
        trainer.attach(data(), ROWS).step(3)
    return math.hypot(*(float((a.double() - b).norm()) for a, b in zip(weights_of(trainer), exact, strict=True)))


def weights_of(trainer: Trainer) -> list[Tensor]:
    """All but the critic's last bias: where only differences of logits count, its gradient is what rounding leaves of 0."""
    return [p.detach() for p in (*trainer.generator.parameters(), *list(trainer.discriminator.parameters())[:-1])]


@pytest.mark.parametrize(("options", "shape"), GAMES)
def test_packed_steps_err_at_most_twice_as_much_as_torchs(
    packed_fp32: str, options: dict[str, Any], shape: dict[str, Any]
) -> None:
    trainer, _ = trained("autograd", options, shape, 3)
    exact = weights_of(trainer)
    size = math.hypot(*(float(p.norm()) for p in exact))
    assert distance(options, shape, instruction_sets.FORCED, exact) <= 2 * distance(options, shape, "off", exact) + 1e-6 * size


def gradient(engine: str, precision: str, options: dict[str, Any], rows: int, learns: str, seed: int) -> Tensor:
    """A network's gradient in the first step: gradient descent at a great rate moves weights by multiples of it."""
    torch.manual_seed(seed)
    pair = MLP((20, 64, 90, 130), output="tanh"), MLP((130, 96, 33, 1), activation="leaky_relu", dropout=0.3)
    rates = {name: optim.SGD(1024.0 if name == learns else 0.0) for name in ("g_optimizer", "d_optimizer")}
    trainer = Trainer(*pair, precision=precision, device="cpu", engine=engine, **options, **rates)
    network = trainer._game.generator if learns == "g_optimizer" else trainer._game.discriminator
    before = network.weight.double().clone()
    pictures = torch.linspace(-1, 1, 50 * 130).mul(7).sin().view(50, 130)
    trainer.attach(pictures, rows).step()
    return (before - network.weight.double()) / 1024.0


@pytest.mark.slow
@pytest.mark.parametrize("rows", [pytest.param(16, id="16 rows"), pytest.param(7, id="7 rows, an odd number")])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(loss="nonsaturating"), id="nonsaturating"),
        pytest.param(dict(loss="wgan-gp", d_steps=1), id="wgan-gp"),
        pytest.param(dict(loss="relativistic", penalty=[penalties.R1(2.0), penalties.R2(3.0)]), id="relativistic, R1, R2"),
    ],
)
@pytest.mark.parametrize("learns", ["g_optimizer", "d_optimizer"])
def test_gradients_err_at_most_twice_as_much_as_autograds(options: dict, precision: str, rows: int, learns: str) -> None:
    """Over five networks: where rounding moves a unit across its kink, one of them alone is a matter of luck."""
    errors = {"closed-form": 0.0, "autograd": 0.0}
    for seed in range(5):
        exact = gradient("autograd", "fp64", options, rows, learns, seed)
        assert exact.norm() > 0
        for engine in errors:
            found = gradient(engine, precision, options, rows, learns, seed)
            errors[engine] += float((found - exact).norm() / exact.norm()) ** 2
    assert errors["closed-form"] ** 0.5 <= 2 * errors["autograd"] ** 0.5 + 1e-6


def test_runs_repeat_bit_for_bit(precision: str) -> None:
    runs = []
    for _ in range(2):
        trainer = Trainer(*networks(), loss="wgan-gp", precision=precision, device="cpu").attach(data(), ROWS)
        trainer.step(5)
        runs.append([p.clone() for p in (*trainer.generator.parameters(), *trainer.discriminator.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_weights_that_somebody_changes_between_steps_are_seen(precision: str) -> None:
    """Packed products keep copies of the weights, and so do torch's in bf16."""
    other = [copy.deepcopy(network.state_dict()) for network in networks()]
    runs = []
    for way in ("from the start", "load_state_dict", "in place"):
        generator, discriminator = networks()
        trainer = Trainer(generator, discriminator, precision=precision, device="cpu").attach(data(), ROWS)
        if way != "from the start":
            trainer.step(3)
            trainer.step_count = 0
            for network in (trainer._game.generator, trainer._game.discriminator):
                network.load_state_dict({name: torch.zeros_like(value) for name, value in network.state_dict().items()})
        if way == "load_state_dict":
            generator.load_state_dict(other[0])
            discriminator.load_state_dict(other[1])
        elif way == "in place":
            with torch.no_grad():
                for network, state in ((generator, other[0]), (discriminator, other[1])):
                    for name, parameter in network.named_parameters():
                        parameter.copy_(state[name])
        trainer.step()
        runs.append([p.clone() for p in (*generator.parameters(), *discriminator.parameters())])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*runs, strict=True))


def test_a_batch_of_another_size_can_follow() -> None:
    trainer = Trainer(*networks(), precision="bf16", device="cpu")
    for rows in (8, 3, 1, 20):
        assert all(value.isfinite() for value in trainer.attach(data(), rows).step(2).values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("where", ["a bias of D", "a weight of G"])
def test_an_update_with_something_not_finite_is_withheld(precision: str, where: str) -> None:
    generator, discriminator = networks()
    trainer = Trainer(generator, discriminator, precision=precision, device="cpu", ema=0.5, engine="closed-form")
    trainer.attach(data(), ROWS).step(2)
    with torch.no_grad():
        if where == "a bias of D":
            discriminator.layers[-1].bias.fill_(math.inf)
        else:
            generator.layers[0].weight[0, 0] = math.nan
    state = copy.deepcopy(trainer.state_dict())
    trainer.step()
    for part in ("generator", "discriminator", "g_optimizer", "d_optimizer"):
        for name, value in trainer.state_dict()[part].items():
            torch.testing.assert_close(value, state[part][name], rtol=0, atol=0, equal_nan=True)
    assert trainer.skipped > 0 and trainer.step_count == 3


class ArticleGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Linear(100, 64), nn.ReLU(True), nn.Linear(64, 784), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z).view(-1, 1, 28, 28)


class ArticleDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.leaky_relu(self.fc1(x.view(x.size(0), -1)), 0.2), 0.3, self.training)
        return torch.sigmoid(self.fc2(x))


def pictures() -> Tensor:
    return torch.linspace(-1, 1, 30 * 784).mul(9).sin().view(30, 1, 28, 28)


def test_a_persons_own_mlps_train_in_place(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    generator, discriminator = ArticleGenerator(), ArticleDiscriminator()
    weights = {id(p): p.detach().clone() for p in (*generator.parameters(), *discriminator.parameters())}
    trainer = Trainer(generator, discriminator, device="cpu", precision="bf16").attach(pictures(), 8)
    assert trainer.engine == "closed-form"
    assert sum("Sigmoid" in record.message for record in caplog.records) == 1
    trainer.step(3)
    after = {id(p): p for p in (*generator.parameters(), *discriminator.parameters())}
    assert after.keys() == weights.keys() and all((after[key] != weights[key]).any() for key in weights)
    flat = trainer._game.generator.weight
    assert torch.equal(generator.state_dict()["main.0.weight"].flatten(), flat[: 64 * 100])
    assert trainer.sample(2).shape == (2, 1, 28, 28) and discriminator(pictures()[:2]).min() >= 0


@pytest.mark.parametrize(
    ("discriminator", "options", "reason"),
    [
        pytest.param(
            nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.GELU(), nn.Linear(8, 1)), {}, "GELU", id="a smooth unit"
        ),
        pytest.param(nn.Sequential(nn.Conv2d(1, 2, 4), nn.Flatten(), nn.Linear(1250, 1)), {}, "Conv2d", id="a convolution"),
        pytest.param(ArticleDiscriminator(), dict(loss="lsgan"), "sigmoid", id="probabilities that lsgan keeps"),
        pytest.param(nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), {}, "2 outputs", id="two outputs"),
        pytest.param(ArticleDiscriminator(), dict(precision="fp16"), "fp16", id="fp16"),
    ],
)
def test_other_games_are_played_by_autograd_and_the_log_says_why(
    discriminator: nn.Module, options: dict, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="fastgan")
    trainer = Trainer(ArticleGenerator(), discriminator, device="cpu", **options)
    assert trainer.engine == "autograd" and any(reason in record.message for record in caplog.records)
    with pytest.raises(ValueError, match=reason):
        Trainer(ArticleGenerator(), copy.deepcopy(discriminator), device="cpu", engine="closed-form", **options)


def test_a_penalty_that_only_has_a_value_is_played_by_autograd() -> None:
    class Odd(penalties.R1):
        def penalty_gradient(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]:
            raise AssertionError

    class Plain(penalties.Penalty):
        every = 1

        def points(self, real: Tensor, fake: Tensor, draws: object, index: int) -> Tensor:
            return real

        def value(self, gradient: Tensor) -> Tensor:
            return gradient.abs().mean()

    assert Trainer(*networks(), penalty=Plain(), device="cpu").engine == "autograd"
    assert Trainer(*networks(), penalty=Odd(), device="cpu").engine == "closed-form"
