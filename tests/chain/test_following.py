"""Penalties and trainers follow a network that changes after it was read, or refuse it: each change one by one."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import Trainer, penalties
from fastgan.chain.recognition import read, recognise
from fastgan.chain.tracing import NotAnMLP
from fastgan.layers import FusedLinear

FEATURES = 6


class Patched(nn.LeakyReLU):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


class Critic(nn.Module):
    """A chain as people write them: a class whose forward reads attributes of many kinds."""

    gain = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.act, self.inner = nn.LeakyReLU(0.2), nn.Sequential(nn.Identity())
        self.slopes, self.options = [0.1, 0.4], SimpleNamespace(scale=(0.2,))
        self.spare: Tensor | None = None

    def middle(self, h: Tensor) -> Tensor:
        return self.inner(F.leaky_relu(h, self.gain * self.slopes[1] / self.options.scale[0]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x.flatten(1)))
        h = h if self.spare is None else h * self.spare
        return self.last(self.middle(self.second(h)))


def hook(*_: Any) -> Tensor:
    return 3.0 * _[-1]


def set_spare(critic: Any) -> None:
    critic.spare = torch.tensor(2.0)


def replace_options(critic: Any) -> None:
    critic.options.scale = (0.1,)


def patch_class(critic: Any) -> None:
    type(critic).middle = lambda self, h: 2.0 * h


def normalize(critic: Any) -> None:
    nn.utils.parametrizations.weight_norm(critic.second)
    with torch.no_grad():
        critic.second.parametrizations.weight.original0.mul_(2.0)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a slope": lambda c: setattr(c.act, "negative_slope", 0.9),
    "a number in a list": lambda c: c.slopes.__setitem__(1, 0.9),
    "a number in an object": replace_options,
    "an attribute of the class": lambda c: setattr(type(c), "gain", 0.9),
    "a method of the class": patch_class,
    "an attribute that was None": set_spare,
    "a layer": lambda c: setattr(c, "first", nn.Linear(FEATURES, 8, dtype=torch.float64)),
    "a layer's weight": lambda c: setattr(c.second, "weight", nn.Parameter(torch.randn(8, 8, dtype=torch.float64))),
    "an activation": lambda c: setattr(c, "act", nn.GELU()),
    "an activation of the same kind": lambda c: setattr(c, "act", nn.LeakyReLU(0.7)),
    "a subclass": lambda c: setattr(c, "act", Patched(0.2)),
    "an activation's class": lambda c: setattr(c.act, "__class__", Patched),
    "a module in a Sequential": lambda c: c.inner.append(nn.LeakyReLU(0.5)),
    "a forward hook": lambda c: c.first.register_forward_hook(hook),
    "a pre-forward hook": lambda c: c.last.register_forward_pre_hook(lambda module, inputs: (3.0 * inputs[0],)),
    "a forward of its own": lambda c: setattr(c.act, "forward", lambda x: 2.0 * x),
    "a forward of its own, of the whole": lambda c: setattr(c, "forward", lambda x: c.last(c.act(c.first(x.flatten(1))))),
    "weight norm": normalize,
}


@pytest.fixture
def own_class() -> type[nn.Module]:
    """A class that a test may patch."""
    return type("Own", (Critic,), dict(vars(Critic)))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_penalty_sees_a_change(change: Callable[[Any], Any], own_class: type[nn.Module]) -> None:
    torch.manual_seed(0)
    critic, x = own_class().double(), torch.randn(4, 2, 3, dtype=torch.float64)
    assert is_closed(penalties.r1_penalty(critic, x))
    before = penalties.r1_penalty(critic, x)
    change(critic)
    now, exact = penalties.r1_penalty(critic, x), penalties.r1_penalty(critic, x, method="autograd")
    assert not torch.isclose(exact, before)
    torch.testing.assert_close(now, exact)


def is_closed(value: Tensor) -> bool:
    return type(value.grad_fn).__name__ == "_PenaltyBackward"


@pytest.mark.parametrize("hooks", ["forward", "forward_pre"])
def test_hooks_of_all_modules_are_seen(hooks: str) -> None:
    critic, x = Critic(), torch.randn(4, 6)
    assert is_closed(penalties.r1_penalty(critic, x))
    register = getattr(nn.modules.module, f"register_module_{hooks}_hook")
    handle = register(lambda module, inputs, *output: None)
    try:
        assert not is_closed(penalties.r1_penalty(critic, x))
    finally:
        handle.remove()
    assert is_closed(penalties.r1_penalty(critic, x))


class ReadsItsMemory(nn.Module):
    """Its first call is a chain, and the next reads what that one left."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(6, 6), nn.Linear(6, 1), None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        h = h if self.last is None else h + self.last.mean()
        self.last = h
        return self.b(h)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.calls = nn.Linear(6, 6), nn.Linear(6, 1), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = self.b(F.relu(self.a(x)))
        return 2.0 * h if self.calls > 3 else h


class Remembers(nn.Module):
    """Leaves features behind, which nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.features = nn.Linear(6, 6), nn.Linear(6, 1), None

    def forward(self, x: Tensor) -> Tensor:
        self.features = F.relu(self.a(x))
        return self.b(self.features)


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        pytest.param(ReadsItsMemory, "", id="reads what it left"),
        pytest.param(Counts, "forward changes 'calls' of Counts", id="counts"),
    ],
)
def test_what_the_next_call_may_read_is_not_certain(build: Callable[[], nn.Module], problem: str) -> None:
    reading = read(build())
    assert reading.chain is None and problem in reading.problem


def test_features_left_behind_do_not_make_a_critic_another() -> None:
    critic, x = Remembers(), torch.randn(4, 6)
    for _ in range(3):
        critic(x)
        assert is_closed(penalties.r1_penalty(critic, x))
    assert read(critic) is read(critic)


def test_what_was_no_chain_may_become_one() -> None:
    critic, x = Critic(), torch.randn(4, 6)
    handle = critic.first.register_forward_hook(hook)
    assert not is_closed(penalties.r1_penalty(critic, x))
    with pytest.raises(NotAnMLP, match="Linear 'first' has hooks"):
        recognise(critic)
    handle.remove()
    assert is_closed(penalties.r1_penalty(critic, x))
    assert recognise(critic).layers[0].weight is critic.first.weight


def test_a_critic_that_changes_at_every_use_is_given_up() -> None:
    critic, x = Critic(), torch.randn(4, 6)
    closed = []
    for number in range(40):
        critic.act.negative_slope = 0.01 * number
        value = penalties.r1_penalty(critic, x)
        closed.append(is_closed(value))
        torch.testing.assert_close(value, penalties.r1_penalty(critic, x, method="autograd"), rtol=1e-5, atol=1e-7)
    assert closed == sorted(closed, reverse=True) and closed[0] and not closed[-1]


def test_modes_are_read_apart() -> None:
    critic = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    layers = lambda: [layer.dropout for layer in read(critic).chain.layers]  # type: ignore[union-attr]  # noqa: E731
    assert layers() == [0.5, 0.3, 0.0]
    training = read(critic)
    critic[2].eval()
    assert layers() == [0.0, 0.3, 0.0]
    critic.eval()
    assert layers() == [0.0, 0.0, 0.0]
    critic[4].train()  # dropout as in Monte Carlo estimates
    assert layers() == [0.0, 0.3, 0.0]
    critic.train()
    assert read(critic) is training


def test_a_fused_layer_in_evaluation_mode_drops_nothing() -> None:
    critic = nn.Sequential(FusedLinear(6, 8, activation="relu", dropout=0.5), nn.Linear(8, 1))
    critic[0].eval()
    assert [layer.dropout for layer in read(critic).chain.layers] == [0.0, 0.0]  # type: ignore[union-attr]
    assert critic[0].dropout == 0.5


def test_a_module_that_is_read_can_be_collected() -> None:
    critic = Remembers()
    critic(torch.randn(4, 6))
    assert read(critic).chain is not None
    gone = weakref.ref(critic)
    del critic
    gc.collect()
    assert gone() is None


class Equal(Critic):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 0


def test_modules_that_call_themselves_equal_are_read_apart() -> None:
    one, other = Equal(), Equal()
    other.act = nn.GELU()  # type: ignore[assignment]
    assert read(one).chain is not None and read(other).chain is None and read(one).chain is not None


def test_what_has_no_closed_form_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    critic = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1))
    with caplog.at_level(logging.INFO, logger="fastgan"):
        for _ in range(3):
            penalties.r1_penalty(critic, torch.randn(4, 6))
    (record,) = caplog.records
    assert "double backward: GELU '1' has no place" in record.getMessage()


class Folds(nn.Module):
    """A critic that makes two rows of one by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.view(-1, 8)).view(x.size(0), -1)


def test_rows_that_a_view_folds_have_no_closed_form() -> None:
    critic = Folds().double()
    assert is_closed(penalties.r1_penalty(critic, torch.randn(5, 8).double()))
    x = torch.randn(5, 16).double()
    folded = penalties.r1_penalty(critic, x)
    assert not is_closed(folded)
    torch.testing.assert_close(folded, penalties.r1_penalty(critic, x, method="autograd"))


# -- trainers


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        yield caplog


def pair(own_class: type[nn.Module]) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, FEATURES), nn.Tanh()).double(), own_class().double()


ROWS = torch.rand(24, FEATURES, generator=torch.Generator().manual_seed(1)) * 2 - 1


def trained(change: Callable[[Any], Any], own_class: type[nn.Module], engine: str) -> list[Tensor]:
    """Both networks' parameters after two steps, a change, and three more."""
    generator, critic = pair(own_class)
    trainer = Trainer(generator, critic, loss="hinge", engine=engine, device="cpu", seed=3).attach(ROWS, 8)
    trainer.step(2)
    change(critic)
    trainer.step(3)
    return [p.detach().clone() for p in (*generator.parameters(), *critic.parameters())]


TRAINED = {name: change for name, change in CHANGES.items() if name != "weight norm"}  # other parameters: refused


@pytest.mark.parametrize("change", TRAINED.values(), ids=TRAINED)
def test_a_trainer_sees_a_change(change: Callable[[Any], Any], own_class: type[nn.Module]) -> None:
    def repeatable(critic: Any) -> None:
        torch.manual_seed(7)  # of new layers' weights
        change(critic)

    second = type("Second", (Critic,), dict(vars(Critic)))
    found, exact = trained(repeatable, own_class, "auto"), trained(repeatable, second, "autograd")
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_generator_that_changes_is_seen_too(own_class: type[nn.Module]) -> None:
    results = []
    for engine in ("auto", "autograd"):
        generator, critic = pair(own_class)
        trainer = Trainer(generator, critic, engine=engine, device="cpu").attach(ROWS, 8)
        trainer.step(1)
        generator[1] = nn.LeakyReLU(0.5)  # type: ignore[index]
        trainer.step(2)
        results.append(generator[0].weight.detach().clone())  # type: ignore[index]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


def test_auto_goes_on_by_autograd_and_says_why(own_class: type[nn.Module], said: pytest.LogCaptureFixture) -> None:
    trainer = Trainer(*pair(own_class), device="cpu").attach(ROWS, 8)
    trainer.step(2)
    assert trainer.engine == "closed-form" and not said.records
    trainer.discriminator.act = nn.GELU()
    trainer.step(2)
    assert trainer.engine == "autograd" and trainer.step_count == 4
    (record,) = said.records
    assert "the autograd engine goes on: GELU 'act'" in record.getMessage()


def test_the_closed_form_that_was_asked_for_is_refused(own_class: type[nn.Module]) -> None:
    trainer = Trainer(*pair(own_class), engine="closed-form", device="cpu").attach(ROWS, 8)
    trainer.step(2)
    weights = [p.detach().clone() for p in trainer.discriminator.parameters()]
    trainer.discriminator.first.register_forward_hook(hook)
    with pytest.raises(ValueError, match="Linear 'first' has hooks"):
        trainer.step(2)
    assert trainer.step_count == 2
    assert all(torch.equal(*both) for both in zip(weights, trainer.discriminator.parameters(), strict=True))


def test_a_parameters_hook_is_seen(own_class: type[nn.Module]) -> None:
    trainer = Trainer(*pair(own_class), device="cpu").attach(ROWS, 8)
    trainer.step(1)
    trainer.discriminator.first.weight.register_hook(lambda gradient: 0.0 * gradient)
    before = trainer.discriminator.first.weight.detach().clone()
    trainer.step(1)
    assert trainer.engine == "autograd"
    moved = (trainer.discriminator.first.weight - before).abs().max()
    assert moved < 1e-3  # Adam's momentum of the first step alone


def test_a_folding_critic_is_trained_by_autograd(said: pytest.LogCaptureFixture) -> None:
    generator = nn.Sequential(nn.Linear(3, 16), nn.Tanh())
    trainer = Trainer(generator, Folds(), device="cpu")
    assert trainer.engine == "closed-form"
    trainer.attach(torch.rand(24, 16) * 2 - 1, 8).step(2)
    assert trainer.engine == "autograd" and "takes rows of 8 numbers, and is given rows of 16" in said.text
    with pytest.raises(ValueError, match="takes rows of 8 numbers"):
        Trainer(generator, Folds(), engine="closed-form", device="cpu").attach(torch.rand(24, 16) * 2 - 1, 8)
