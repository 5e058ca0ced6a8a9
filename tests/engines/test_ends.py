"""What networks end in: a sigmoid is read as logits, however it is called, and what cannot be read is said."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import Trainer, penalties

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
}


@pytest.mark.parametrize("end", PROBABILITIES.values(), ids=PROBABILITIES)
def test_probabilities_that_cannot_be_read_are_said(end: End, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        trained(end)
    (record,) = caplog.records
    assert "returns numbers in [0, 1]" in record.getMessage() and "nonsaturating" in record.getMessage()


def test_a_gate_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastgan"):
        trained(lambda n, x: 10.0 * x * torch.sigmoid(x) - 5.0)
    assert not caplog.records


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
