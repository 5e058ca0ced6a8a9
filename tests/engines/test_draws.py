"""Networks that draw for themselves: a run is a function of its seed, beside other threads too, and disturbs nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan import Trainer, penalties
from fastgan.engines.autograd import AutogradStep
from fastgan.engines.game import StepIndex

pytestmark = pytest.mark.usefixtures("one_thread")

POINTS = torch.linspace(-1, 1, 96).view(12, 8)


class NoisyGenerator(nn.Module):
    """Noise at every pass, in evaluation mode too, as StyleGAN's."""

    z_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 8)

    def forward(self, z: Tensor) -> Tensor:
        hidden = F.silu(self.first(z))
        return torch.tanh(self.last(hidden + 0.3 * torch.randn_like(hidden)))


class Critic(nn.Module):
    """Dropout as a function, and a layer that a checkpoint may replay."""

    def __init__(self, replays: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.replays = nn.Linear(8, 16), nn.Linear(16, 1), replays

    def hidden(self, x: Tensor) -> Tensor:
        return F.dropout(F.silu(self.first(x)), 0.4, self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.hidden, x, use_reentrant=False) if self.replays else self.hidden(x))


def torchs_critic() -> nn.Module:
    layers = (
        nn.Linear(8, 16),
        nn.RReLU(),
        nn.AlphaDropout(0.2),
        nn.Linear(16, 16),
        nn.SiLU(),
        nn.Dropout(0.3),
        nn.Linear(16, 1),
    )
    return nn.Sequential(*layers)


def attention_critic() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, dropout=0.3, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.Linear(8, 1))


@dataclass(frozen=True)
class NoisyPoints(penalties.Penalty):
    """R1 at real rows with noise, drawn as people draw it."""

    weight: float = 0.5
    every: int = 1

    def points(self, real, fake, draws, index):
        return real + 0.1 * torch.randn_like(real)

    def value(self, gradient):
        return self.weight * gradient.square().sum() / len(gradient)


GAMES: dict[str, tuple[Callable[[], nn.Module], dict]] = {
    "torch's layers": (torchs_critic, {}),
    "dropout as a function, two updates": (Critic, dict(d_steps=2, loss="hinge")),
    "attention, relativistic": (attention_critic, dict(loss="relativistic", penalty=())),
    "wgan-gp": (Critic, dict(loss="wgan-gp", d_steps=2)),
    "a penalty that draws": (Critic, dict(penalty=NoisyPoints())),
    "fp16": (Critic, dict(precision="fp16")),
}


def trainer_of(critic: Callable[[], nn.Module], generator: Callable[[], nn.Module] = NoisyGenerator, **options) -> Trainer:
    torch.manual_seed(0)
    pair = generator(), critic()
    return Trainer(*pair, **{"device": "cpu", "precision": "fp32", "seed": 3} | options).attach(POINTS, 4)


def weights_of(trainer: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for net in (trainer.generator, trainer.discriminator) for parameter in net.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@contextmanager
def somebody_draws() -> Iterator[list[Tensor]]:
    """Inside, another thread draws from torch's generator."""
    numbers: list[Tensor] = []
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            numbers.append(torch.rand(3))

    thread = threading.Thread(target=draw)
    thread.start()
    while not numbers:
        pass
    try:
        yield numbers
    finally:
        stop.set()
        thread.join()


def has_own_draws(trainer: Trainer) -> bool:
    assert isinstance(trainer._runner.engine, AutogradStep)
    return trainer._runner.engine.own_draws is not None


@pytest.mark.parametrize(("critic", "options"), GAMES.values(), ids=GAMES)
def test_a_run_beside_a_thread_that_draws_is_the_run_alone(critic: Callable[[], nn.Module], options: dict) -> None:
    alone, beside = trainer_of(critic, **options), trainer_of(critic, **options)
    assert has_own_draws(alone)
    alone.step(12)
    with somebody_draws():
        beside.attach(POINTS, 4)  # that is looked at beside it, too
        beside.step(12)
    assert same(weights_of(alone), weights_of(beside))


@pytest.mark.parametrize(("critic", "options"), GAMES.values(), ids=GAMES)
def test_the_draws_are_those_of_torchs_generator_under_the_updates_seeds(critic: Callable, options: dict) -> None:
    own, seeded = trainer_of(critic, **options), trainer_of(critic, **options)
    seeded._runner.engine.own_draws = None  # each update then seeds torch's generator
    before = torch.get_rng_state()
    own.step(3)
    seeded.step(3)
    assert same(weights_of(own), weights_of(seeded))
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_does_not_disturb_the_thread_beside_it() -> None:
    trainer = trainer_of(Critic)
    torch.manual_seed(21)
    with somebody_draws() as numbers:
        trainer.attach(POINTS, 4)
        trainer.step(6)
        trainer.sample(3)
    torch.manual_seed(21)
    assert all(torch.equal(number, torch.rand(3)) for number in numbers)


def test_updates_and_networks_draw_other_numbers() -> None:
    trainer, masks = trainer_of(Critic, d_steps=2), []
    trainer.discriminator.last.register_forward_pre_hook(lambda module, inputs: masks.append(inputs[0].detach() == 0))
    trainer.attach(POINTS, 4)
    masks.clear()
    trainer.step(2)
    seen = {tuple(mask.flatten().tolist()) for mask in masks}
    assert len(masks) == len(seen) == 10  # real and fake rows of two updates, and the generator's, twice


def quiet_generator() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 8))


@pytest.mark.parametrize(
    ("critic", "draws"),
    [
        pytest.param(lambda: nn.Sequential(nn.Linear(8, 4), nn.SiLU(), nn.Linear(4, 1)), False, id="nothing random"),
        pytest.param(lambda: nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.0), nn.SiLU(), nn.Linear(4, 1)), False, id="p = 0"),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5).eval(), nn.SiLU(), nn.Linear(4, 1)), False, id="eval"
        ),
        pytest.param(lambda: fastgan.Discriminator(image_size=8), False, id="fastgan's dropout"),
        pytest.param(Critic, True, id="dropout"),
    ],
)
def test_only_networks_that_draw_pay(critic: Callable[[], nn.Module], draws: bool) -> None:
    assert has_own_draws(trainer_of(critic, quiet_generator, engine="autograd")) == draws


class Sometimes(nn.Module):
    """Draws from its third pass in training on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 1)), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        return self.inner(x + 0.1 * torch.randn_like(x) if self.passes > 8 else x)


def test_a_network_that_draws_only_at_times_is_a_function_of_the_seed() -> None:
    runs = []
    for start in (1, 2):
        trainer = trainer_of(Sometimes, quiet_generator)
        assert not has_own_draws(trainer) and trainer.discriminator.passes == 0, "copies are looked at"
        torch.manual_seed(start)
        before = torch.get_rng_state()
        trainer.step(6)
        assert torch.equal(before, torch.get_rng_state())
        runs.append(weights_of(trainer))
    assert same(*runs)


def test_checkpointed_networks_replay_their_draws() -> None:
    plain, replaying = trainer_of(Critic), trainer_of(lambda: Critic(replays=True))
    assert has_own_draws(plain) and not has_own_draws(replaying)
    plain.step(4)
    replaying.step(4)
    assert same(weights_of(plain), weights_of(replaying))


def test_a_network_that_begins_to_replay_is_followed() -> None:
    trainer, whole = trainer_of(Critic), trainer_of(Critic)
    trainer.discriminator.replays = True
    trainer.step(2)
    whole.step(2)
    assert not has_own_draws(trainer) and same(weights_of(trainer), weights_of(whole))


class Hidden(Critic):
    """A critic that does what is said elsewhere, where nobody sees it."""

    @property
    def replays(self) -> bool:  # type: ignore[override]
        return bool(SAID)

    @replays.setter
    def replays(self, value: bool) -> None:
        pass


SAID: list[bool] = []


def test_a_change_that_is_not_seen_is_refused_until_data_are_attached_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, whole = trainer_of(Hidden), trainer_of(Critic)
    before = weights_of(trainer)
    monkeypatch.setattr(f"{__name__}.SAID", [True])
    with pytest.raises(RuntimeError, match="attach the data again"):
        trainer.step()
    assert same(before, weights_of(trainer))
    trainer.attach(POINTS, 4).step(2)
    whole.step(2)
    assert same(weights_of(trainer), weights_of(whole))


@pytest.mark.parametrize("draws", [True, False])
def test_a_penalty_sees_the_critic_behind_the_draws(draws: bool, caplog: pytest.LogCaptureFixture) -> None:
    def mixing() -> nn.Module:
        layers = (nn.Linear(8, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Dropout(0.3 * draws), nn.Linear(8, 1))
        return nn.Sequential(*layers)

    for number in (1, 2):
        trainer = trainer_of(mixing, quiet_generator, penalty=penalties.R1(0.1))
        assert has_own_draws(trainer) == draws
        trainer.step(2)
        said = [record.message for record in caplog.records if "has batch norm in training mode" in record.message]
        assert len(said) == number and said[0].startswith("Sequential"), "once of each critic, and not of its copy"


def test_a_captured_step_draws_from_torchs_generator_which_replays_move_on() -> None:
    trainer = trainer_of(Critic)
    engine, images = trainer._runner.engine, trainer._data.images
    for _ in range(2):
        before = torch.get_rng_state()
        engine(images, StepIndex(0, torch.tensor(0)), 4)
        assert not torch.equal(before, torch.get_rng_state())


def test_compiled_networks_share_torchs_generator() -> None:
    trainer = trainer_of(lambda: torch.compile(Critic(), backend="eager"))
    plain = trainer_of(Critic)
    assert not has_own_draws(trainer)
    trainer.step(2)
    plain.step(2)
    assert same(weights_of(trainer), weights_of(plain))


def test_a_network_that_cannot_be_copied_is_a_function_of_the_seed() -> None:
    class Alone(Critic):
        def __deepcopy__(self, memo: dict) -> Alone:
            raise TypeError("there is one of me")

    trainer, plain = trainer_of(Alone), trainer_of(Critic)
    assert not has_own_draws(trainer)
    trainer.step(2)
    plain.step(2)
    assert same(weights_of(trainer), weights_of(plain))


def test_samples_of_a_generator_with_noise_are_fixed() -> None:
    trainer = trainer_of(Critic, ema=0.5)
    trainer.step(2)
    before = torch.get_rng_state()
    samples = trainer.sample(5)
    torch.manual_seed(7)
    assert torch.equal(samples, trainer.sample(5)) and not torch.equal(samples, trainer.sample(5, seed=1))
    torch.set_rng_state(before)
    trainer.sample(5)
    assert torch.equal(before, torch.get_rng_state())


def test_resumed_draws_go_on(tmp_path) -> None:
    whole, part = trainer_of(attention_critic), trainer_of(attention_critic)
    whole.step(5)
    part.step(2)
    part.save(tmp_path / "saved")
    resumed = Trainer.load(tmp_path / "saved", NoisyGenerator(), attention_critic(), device="cpu").attach(POINTS, 4)
    resumed.step(3)
    assert same(weights_of(whole), weights_of(resumed))


def test_a_subclass_of_the_articles_critic_that_draws_is_seen() -> None:
    class Noisy(fastgan.Discriminator):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + 0.1 * torch.randn_like(images))

    runs = [trainer_of(lambda: Noisy(8, seed=1), lambda: fastgan.Generator(4, image_size=8, seed=2)) for _ in range(2)]
    assert all(map(has_own_draws, runs))
    for number, run in enumerate(runs):
        torch.manual_seed(number)
        run.step(2)
    assert same(*map(weights_of, runs))
