"""Captured steps on a CUDA device: a replay is the eager step bit for bit, waits for nothing, and repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan import Trainer, optim, penalties
from fastgan.chain.triton_tiles import TritonProducts
from fastgan.engines.cuda_graph import Captured
from fastgan.mlp import MLP

pytestmark = pytest.mark.cuda
ROWS, STEPS = 24, 16


def pictures(*shape: int) -> Tensor:
    return torch.randint(0, 256, (100, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def mlps() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(7)
    return MLP((20, 70, 130, 784), output="tanh"), MLP((784, 150, 66, 1), activation="leaky_relu", dropout=0.3)


class ConvGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 8 * 7 * 7)
        self.up = nn.Sequential(
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.up(self.fc(z).view(-1, 8, 7, 7))


def convolutions(dropout: float = 0.0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(7)
    critic = nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Dropout(dropout),
        nn.Conv2d(8, 8, 4, 2, 1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(8 * 7 * 7, 1),
    )
    return ConvGenerator(), critic


def trainer_of(networks: Any, capture: str, **options: Any) -> Trainer:
    return Trainer(*networks(), device="cuda", capture=capture, **options).attach(pictures(1, 28, 28), ROWS)


def same(one: Trainer, other: Trainer) -> None:
    states, others = one.state_dict(), other.state_dict()
    for part in ("generator", "discriminator", "g_optimizer", "d_optimizer"):
        for name, value in states[part].items():
            assert torch.equal(others[part][name], value), f"{part} {name}"


LAZY = [penalties.R1(2.0, every=4), penalties.R2(1.0)]
GAMES = [
    pytest.param(mlps, dict(ema=0.9), id="the article's game"),
    pytest.param(mlps, dict(precision="fp32"), id="fp32"),
    pytest.param(mlps, dict(precision="tf32"), id="tf32"),
    pytest.param(mlps, dict(precision="fp64"), id="fp64: torch's products"),
    pytest.param(mlps, dict(loss="wgan-gp"), id="wgan-gp"),
    pytest.param(mlps, dict(loss="wgan"), id="wgan"),
    pytest.param(
        mlps,
        dict(loss="relativistic", penalty=LAZY, g_optimizer=optim.Adam(optim.cosine(1e-3, 1e-4, steps=30))),
        id="lazy penalties, a schedule",
    ),
    pytest.param(mlps, dict(engine="autograd"), id="autograd"),
    pytest.param(mlps, dict(engine="autograd", precision="fp16"), id="autograd, fp16"),
    pytest.param(convolutions, dict(loss="wgan-gp", precision="fp32"), id="convolutions, wgan-gp by autograd"),
    pytest.param(convolutions, dict(loss="hinge"), id="convolutions"),
]


@pytest.fixture(autouse=True)
def _deterministic_convolutions() -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


@pytest.mark.parametrize(("networks", "options"), GAMES)
def test_replay_equals_eager_bit_for_bit(networks: Any, options: dict) -> None:
    eager, captured = (trainer_of(networks, capture, **options) for capture in ("off", "auto"))
    count = 3 * STEPS + 3  # three graphs of sixteen, and single ones
    expected, found = eager.step(count), captured.step(count)
    player = captured._runner.player
    assert isinstance(player, Captured) and player.problem is None and player.graphs
    same(eager, captured)
    for name, value in expected.items():
        assert torch.equal(found[name].double(), value.double()), name
    assert captured.skipped == eager.skipped == 0
    if networks is mlps and options.get("engine") != "autograd" and options.get("precision") != "fp64":
        assert all(isinstance(products, TritonProducts) for products in captured._runner.engine.products)


@pytest.mark.parametrize("capture", ["off", "auto"])
@pytest.mark.parametrize(
    "options", [{}, dict(loss="wgan-gp"), dict(engine="autograd")], ids=["standard", "wgan-gp", "autograd"]
)
def test_no_step_waits_for_the_device(capture: str, options: dict) -> None:
    trainer = trainer_of(mlps, capture, **options)
    trainer.step(STEPS + 1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = trainer.step(STEPS + 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite() for value in metrics.values())


@pytest.mark.parametrize("options", [{}, dict(loss="wgan-gp")], ids=["standard", "wgan-gp"])
def test_two_thousand_steps_repeat_bit_for_bit(options: dict) -> None:
    """A missing barrier or a dependency between launches shows as an error that differs from run to run."""
    one, other = (trainer_of(mlps, "auto", **options) for _ in range(2))
    one.step(2000)
    other.step(2000)
    same(one, other)
    assert all(p.isfinite().all() for p in one.generator.parameters())


def test_an_interrupted_run_is_the_whole_one(tmp_path: Any) -> None:
    whole = trainer_of(mlps, "auto", ema=0.9)
    whole.step(45)
    half = trainer_of(mlps, "auto", ema=0.9)
    half.step(21)
    half.save(tmp_path / "half")
    other = trainer_of(mlps, "auto", ema=0.9)
    other.step(5)  # graphs of its own, which must see what is loaded
    other.restore(tmp_path / "half")
    other.step(24)
    same(whole, other)


def test_modules_with_randomness_of_their_own_go_on_from_a_checkpoint() -> None:
    whole = trainer_of(lambda: convolutions(0.5), "auto", precision="fp32")
    torch.cuda.manual_seed(5)
    whole.step(STEPS)
    state = whole.state_dict()
    kept = {name: {k: v.clone() for k, v in part.items()} if isinstance(part, dict) else part for name, part in state.items()}
    whole.step(STEPS)
    other = trainer_of(lambda: convolutions(0.5), "auto", precision="fp32")
    other.step(3)
    torch.cuda.manual_seed(6)
    other.load_state_dict(kept)
    other.step(STEPS)
    same(whole, other)


@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
def test_batch_sizes_that_come_and_go_are_captured_again(engine: str) -> None:
    eager, captured = (trainer_of(mlps, capture, engine=engine) for capture in ("off", "auto"))
    images = pictures(1, 28, 28).cuda()
    for rows in (ROWS, 8, ROWS):
        for trainer in (eager, captured):
            trainer.attach(images, rows).step(STEPS + 1)
        assert captured._runner.player.problem is None and captured._runner.player.graphs
    same(eager, captured)


class Looking(nn.Module):
    """A critic that looks at its numbers on the way, which no graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Dropout(0.5))
        self.last = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.last(features * (1.0 if features.sum().item() > 0 else 0.5))


def test_what_cannot_be_captured_trains_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    looking, plain = (trainer_of(lambda: (ConvGenerator(), Looking()), capture) for capture in ("auto", "off"))
    plain.generator.load_state_dict(looking.generator.state_dict())
    plain.discriminator.load_state_dict(looking.discriminator.state_dict())
    looking.step(STEPS + 2)
    plain.step(STEPS + 2)
    assert looking._runner.player.problem and "could not be captured" in caplog.text
    assert torch.randn(4, device="cuda").isfinite().all(), "torch's generator works on"
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    same(plain, looking)


def test_steps_learn_on_a_side_stream_too() -> None:
    one, other = (trainer_of(mlps, "auto") for _ in range(2))
    one.step(20)
    with torch.cuda.stream(torch.cuda.Stream()):
        other.step(20)
    torch.cuda.synchronize()
    same(one, other)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("loss", ["nonsaturating", "wgan-gp", "relativistic"])
@pytest.mark.parametrize("learns", ["g_optimizer", "d_optimizer"])
def test_gradients_err_at_most_twice_as_much_as_autograds(precision: str, loss: str, learns: str) -> None:
    """A great learning rate of plain descent shows gradients; over five networks, units at their kinks even out."""
    errors = {"closed-form": 0.0, "autograd": 0.0}
    for seed in range(5):
        exact = gradient("autograd", "fp64", loss, learns, seed)
        for engine in errors:
            errors[engine] += float((gradient(engine, precision, loss, learns, seed) - exact).norm() / exact.norm()) ** 2
    assert errors["closed-form"] ** 0.5 <= 2 * errors["autograd"] ** 0.5 + 1e-6


def gradient(engine: str, precision: str, loss: str, learns: str, seed: int) -> Tensor:
    torch.manual_seed(seed)
    pair = MLP((20, 64, 90, 784), output="tanh"), MLP((784, 96, 33, 1), activation="leaky_relu", dropout=0.3)
    rates = {name: optim.SGD(1024.0 if name == learns else 0.0) for name in ("g_optimizer", "d_optimizer")}
    trainer = Trainer(*pair, device="cuda", precision=precision, engine=engine, loss=loss, d_steps=1, capture="off", **rates)
    network = trainer._game.generator if learns == "g_optimizer" else trainer._game.discriminator
    before = network.weight.double().clone()
    trainer.attach(pictures(1, 28, 28), ROWS).step()
    return (before - network.weight.double()) / 1024.0
