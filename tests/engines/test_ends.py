"""What networks end in: a sigmoid is read as logits, however it is called, and what cannot be read is said."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import Trainer, penalties
from fastgan.engines.autograd import AutogradStep
from fastgan.optim import SGD

ROWS = torch.rand(24, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1

End = Callable[[nn.Module, Tensor], Tensor]


class Critic(nn.Module):
    """A network without a closed form, and some end."""

    def __init__(self, end: End) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.last, self.end = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 1)), nn.Sigmoid(), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, self.net(x.flatten(1)))


def generator() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh())


def trained(end: End, **options: object) -> Tensor:
    """The critic's weights after three steps."""
    trainer = Trainer(generator(), Critic(end), device="cpu", **options).attach(ROWS, 8)  # type: ignore[arg-type]
    assert trainer.engine == "autograd"
    trainer.step(3)
    return torch.cat([p.detach().reshape(-1) for p in trainer.discriminator.parameters()])


SIGMOIDS: dict[str, End] = {
    "torch.sigmoid": lambda n, x: torch.sigmoid(x),
    "by keyword": lambda n, x: torch.sigmoid(input=x),
    "a method": lambda n, x: x.sigmoid(),
    "F.sigmoid": lambda n, x: F.sigmoid(x),
    "torch.special.expit": lambda n, x: torch.special.expit(x),
    "in place": lambda n, x: torch.sigmoid_(x + 0.0),
    "in place, the input returned": lambda n, x: (y := x + 0.0, y.sigmoid_())[0],
    "a module": lambda n, x: n.last(x),
    "a module that is called twice": lambda n, x: n.last(x + 0.0 * n.last(x).detach()),
    "a module made on the spot": lambda n, x: nn.Sigmoid()(x),
    "a view": lambda n, x: torch.sigmoid(x).squeeze(1),
    "a view of a module's": lambda n, x: n.last(x).view(-1),
    "a row for all": lambda n, x: torch.sigmoid(x).t().reshape(-1),
    "a cast that does nothing": lambda n, x: torch.sigmoid(x).float(),
    "while evaluated only": lambda n, x: x if n.training else torch.sigmoid(x),
    "a sigmoid of another kind before": lambda n, x: torch.sigmoid(x + 0.0 * torch.sigmoid(x).detach()),
}


@pytest.mark.parametrize("penalty", [None, penalties.R1(1.0)], ids=["no penalty", "R1"])
@pytest.mark.parametrize("end", SIGMOIDS.values(), ids=SIGMOIDS)
def test_a_sigmoid_at_the_end_is_read_as_logits(
    end: End, penalty: penalties.Penalty | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        found = trained(end, penalty=penalty)
    assert "ends in a Sigmoid: nonsaturating is computed on the logits" in caplog.text
    torch.testing.assert_close(found, trained(lambda n, x: x, penalty=penalty), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["lsgan", "hinge", "wgan-gp"])
def test_losses_that_read_no_logits_take_the_sigmoid_as_it_is(loss: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        found = trained(SIGMOIDS["torch.sigmoid"], loss=loss)
    assert not caplog.records
    assert torch.equal(found, trained(SIGMOIDS["a module"], loss=loss))
    assert not torch.allclose(found, trained(lambda n, x: x, loss=loss))


def clamped_in_place(x: Tensor) -> Tensor:
    x.data.clamp_(1e-6, 1 - 1e-6)
    return x


PROBABILITIES: dict[str, End] = {
    "clamped": lambda n, x: torch.sigmoid(x).clamp(1e-6, 1 - 1e-6),
    "clamped in place": lambda n, x: clamped_in_place(torch.sigmoid(x)),
    "a module's, clamped in place": lambda n, x: clamped_in_place(n.last(x)),
    "averaged": lambda n, x: torch.sigmoid(x.expand(-1, 3)).mean(1),
    "written out": lambda n, x: 1 / (1 + torch.exp(-x)),
    "by tanh": lambda n, x: 0.5 * (torch.tanh(x / 2) + 1),
    "by logsigmoid": lambda n, x: F.logsigmoid(x).exp(),
    "a softmax's column": lambda n, x: torch.softmax(torch.cat([x, -x], 1), 1)[:, :1],
    "hard": lambda n, x: F.hardsigmoid(x),
    "an operator": lambda n, x: torch.ops.aten.sigmoid(x),
    "logits, clamped": lambda n, x: x.clamp(0, 1),
}
TWICE: End = lambda n, x: torch.sigmoid(torch.sigmoid(x))  # noqa: E731
LOGITS: dict[str, End] = {
    "a gate": lambda n, x: 10.0 * x * torch.sigmoid(x) - 5.0,
    "small ones": lambda n, x: 1e-3 * x + 0.5,
    "no negative ones": lambda n, x: F.relu(x),
    "none at first": lambda n, x: 0.0 * x,
    "one number at first": lambda n, x: 0.0 * x + 0.3,
    "bounded": lambda n, x: 0.2 * torch.tanh(x) + 0.5,
    "a sigmoid's multiple": lambda n, x: 3.0 * torch.sigmoid(x),
}


@pytest.mark.parametrize("end", PROBABILITIES.values(), ids=PROBABILITIES)
def test_probabilities_that_cannot_be_read_are_said(end: End, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        trained(end)
    (record,) = caplog.records
    assert "returns numbers in [0, 1]" in record.getMessage() and "nonsaturating" in record.getMessage()


def test_probabilities_before_a_sigmoid_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        trained(TWICE)
    first, second = (record.getMessage() for record in caplog.records)
    assert "returns numbers in [0, 1] before its last Sigmoid" in first and "computed on the logits" in second


@pytest.mark.parametrize("end", LOGITS.values(), ids=LOGITS)
def test_small_logits_are_no_probabilities(end: End, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        Trainer(generator(), Critic(end), device="cpu").attach(ROWS, 8)
    assert not caplog.records


@pytest.mark.parametrize(
    ("end", "said"), [(PROBABILITIES["clamped"], 1), (PROBABILITIES["written out"], 0)], ids=["a sigmoid", "unknown"]
)
def test_a_critic_that_refuses_rows_far_away_is_read_by_the_others(
    end: End, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    def within(n: nn.Module, x: Tensor) -> Tensor:
        if x.abs().max() > 100:
            raise ValueError("rows are images in [-1, 1]")
        return end(n, x)

    with caplog.at_level(logging.WARNING, logger="fastgan"):
        trained(within)
    assert len(caplog.records) == said


def test_a_pass_that_goes_another_way_is_refused() -> None:
    def end(n: nn.Module, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(x) if n.training else x
        return torch.sigmoid(x)

    with pytest.raises(RuntimeError, match=r"ended in a sigmoid when data were attached, the last of 1, and calls 2 now"):
        trained(end)


class Generator(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net, self.last, self.function = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 6)), nn.Tanh(), function

    def forward(self, z: Tensor) -> Tensor:
        x = 6.0 * self.net(z)
        return self.last(x) if self.function is None else self.function(x)


@pytest.mark.parametrize("function", [torch.tanh, F.tanh, Tensor.tanh, lambda x: x.tanh_()])
def test_a_tanh_at_the_end_runs_in_fp32_however_it_is_called(function: Callable[[Tensor], Tensor]) -> None:
    weights = []
    for network in (Generator(function), Generator(None)):
        trainer = Trainer(network, Critic(lambda n, x: x), precision="bf16", device="cpu").attach(ROWS, 8)
        trainer.step(3)
        weights.append(network.net[0].weight.detach().clone())
    assert torch.equal(*weights)


def appended(*ends: nn.Module) -> Callable[[Critic], None]:
    return lambda critic: critic.net.extend(ends)


def function(end: End) -> Callable[[Critic], None]:
    return lambda critic: setattr(critic, "end", end)


def last(x: nn.Module) -> Callable[[Critic], None]:
    return lambda critic: setattr(critic, "last", x)


def hooked(critic: Critic) -> None:
    critic.last.register_forward_hook(lambda module, inputs, output: 2.0 * output - 0.5)


def hooked_at_the_root(critic: Critic) -> None:
    critic.register_forward_hook(lambda module, inputs, output: 3.0 * output)


SIGMOID_MODULE = SIGMOIDS["a module"]
CHANGES: dict[str, tuple[End, Callable[[Critic], None]]] = {
    "a sigmoid is appended": (lambda n, x: x, appended(nn.Sigmoid())),
    "a function is called": (lambda n, x: x, function(SIGMOIDS["torch.sigmoid"])),
    "another module is called": (SIGMOID_MODULE, last(nn.Sigmoid())),
    "it is no sigmoid any more": (SIGMOID_MODULE, last(nn.Hardtanh())),
    "something stands before it": (SIGMOID_MODULE, appended(nn.Tanh())),
    "something follows it": (SIGMOID_MODULE, last(nn.Sequential(nn.Sigmoid(), nn.Hardtanh(0.1, 0.6)))),
    "a function is called twice": (SIGMOIDS["torch.sigmoid"], function(lambda n, x: torch.sigmoid(torch.sigmoid(x)))),
    "the module has a hook": (SIGMOID_MODULE, hooked),
    "the network has a hook": (SIGMOID_MODULE, hooked_at_the_root),
    "nothing": (SIGMOID_MODULE, lambda critic: None),
}


@pytest.mark.parametrize(("end", "change"), CHANGES.values(), ids=CHANGES)
def test_an_end_that_changes_after_attach_is_followed(end: End, change: Callable[[Critic], None]) -> None:
    """A step is that of a trainer that took the network as it is now."""
    still = dict(g_optimizer=SGD(0.0), d_optimizer=SGD(0.0), device="cpu", engine="autograd")
    critic = Critic(end)
    trainer = Trainer(generator(), critic, **still).attach(ROWS, 8)
    trainer.step(2)
    change(critic)
    found = trainer.step(1)
    other = Critic(end)
    change(other)
    wanted = Trainer(generator(), other, **still).attach(ROWS, 8).step(3)
    assert {name: value.item() for name, value in found.items()} == {name: value.item() for name, value in wanted.items()}


class Counting(Critic):
    """A critic that notes what it does: in attributes, in a list, in a buffer that it replaces."""

    def __init__(self) -> None:
        super().__init__(SIGMOID_MODULE)
        self.calls, self.seen = 0, [0.0]
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.features = self.calls + 1, x
        self.seen.append(x.detach().mean().item())
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return super().forward(x)


def test_what_a_forward_notes_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    find_ends = AutogradStep.find_ends
    monkeypatch.setattr(AutogradStep, "find_ends", lambda *args, **given: looks.append(1) or find_ends(*args, **given))
    critic = Counting()
    trainer = Trainer(generator(), critic, device="cpu").attach(ROWS, 8)
    for _ in range(4):
        trainer.step(1)
    assert len(looks) == 1 and critic.calls > 12
    critic.last = nn.Sigmoid()
    trainer.step(2)
    assert len(looks) == 2
