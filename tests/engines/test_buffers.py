"""Buffers and modes: a withheld update leaves batch norm's statistics alone, and a module stays in the mode its owner chose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan import Trainer, penalties
from fastgan.engines.buffers import KeptBuffers
from fastgan.engines.flat_network import FlatNetwork
from fastgan.optim import SGD

ROWS = torch.rand(32, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Spike(nn.Module):
    """Passes its input on, but for one call in training mode."""

    def __init__(self, at: int, value: float = float("inf")) -> None:
        super().__init__()
        self.at, self.value, self.calls = at, value, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * self.value if self.training and self.calls == self.at else x


def networks(g_spike: int = 0, d_spike: int = 0, value: float = float("inf")) -> tuple[Any, Any]:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 8), Spike(g_spike, value), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 12))
    critic = nn.Sequential(nn.Linear(12, 8), Spike(d_spike, value), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1))
    return generator, critic


def buffers(*modules: nn.Module) -> list[Tensor]:
    return [buffer.detach().clone() for module in modules for buffer in module.buffers()]


# of a step's passes the generator has two, for the critic's update and its own; the critic three
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("spikes", [(3, 0), (4, 0), (0, 4), (0, 5), (0, 6)], ids=str)
def test_a_withheld_update_leaves_statistics_finite(spikes: tuple[int, int], value: float) -> None:
    generator, critic = networks(*spikes, value)
    trainer = Trainer(generator, critic, device="cpu").attach(ROWS, 8)
    trainer.step(4)
    assert trainer.skipped > 0
    assert all(buffer.isfinite().all() for buffer in buffers(generator, critic))
    assert trainer.sample(4).isfinite().all()
    assert generator[2].num_batches_tracked == 7 and critic[2].num_batches_tracked in (10, 11)


def test_the_statistics_are_those_of_the_updates_that_were_made() -> None:
    """The last update's spike leaves everything of the steps before it, and the critic's update of its own step."""
    generator, critic = networks(g_spike=4)
    trainer = Trainer(generator, critic, device="cpu").attach(ROWS, 8)
    trainer.step(2)
    exact, exact_critic = networks()
    other = Trainer(exact, exact_critic, device="cpu").attach(ROWS, 8)
    other.step(1)
    before = buffers(exact)
    other.step(1)
    after = buffers(exact)
    found = buffers(generator)
    assert found[2] == 3 and before[2] == 2 and after[2] == 4
    assert not torch.equal(found[0], before[0]) and not torch.equal(found[0], after[0])
    # the running mean moves by a tenth of the way to each batch's; the critic's update took its part alone
    assert (found[0] - before[0]).norm() < (after[0] - before[0]).norm()


def test_buffers_of_every_kind_are_put_back() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("numbers", torch.tensor([1.0, float("inf"), 3.0]))
    module.register_buffer("count", torch.tensor(3))
    module.register_buffer("mask", torch.tensor([True, False]))
    module.register_buffer("empty", torch.zeros(0, 2))
    network = FlatNetwork(module, SGD(0.1))

    def change() -> KeptBuffers:
        kept = KeptBuffers([network])
        module.numbers.copy_(torch.tensor([2.0, float("inf"), float("nan")]))
        module.count.add_(1)
        module.mask.logical_not_()
        return kept

    change().restore(torch.tensor(False))  # the number that is not finite goes back, the infinity was there before
    assert module.numbers.tolist() == [2.0, float("inf"), 3.0]
    assert module.count == 4 and module.mask.tolist() == [False, True]
    change().restore(torch.tensor(True))
    assert module.numbers.tolist() == [2.0, float("inf"), 3.0]
    assert module.count == 4 and module.mask.tolist() == [False, True]


class Normalised(nn.Module):
    """A norm as people write it: the mean is another tensor after each batch."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("order", torch.arange(features))
        self.register_buffer("scale", torch.ones(1).expand(features))
        self.register_buffer("mixing", torch.eye(features).to_sparse())
        self.register_buffer("eighths", torch.ones(features).to(torch.float8_e4m3fn))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        x = (x - self.mean)[:, self.order] * self.scale * self.eighths.float()
        return x @ self.mixing.to_dense()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("spikes", [(3, 0), (0, 4)], ids=str)
def test_a_buffer_that_is_replaced_is_put_back_too(spikes: tuple[int, int], precision: str) -> None:
    """And constants of kinds that nobody writes into are left alone."""
    generator, critic = networks(*spikes)
    generator[2], critic[2] = Normalised(8), Normalised(8)
    trainer = Trainer(generator, critic, precision=precision, device="cpu").attach(ROWS, 8)
    trainer.step(4)
    assert trainer.skipped > 0
    assert all(network[2].mean.isfinite().all() and network[2].mean.any() for network in (generator, critic))
    assert trainer.sample(4).isfinite().all()


def test_a_buffer_is_put_back_where_it_is_now() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("mean", torch.tensor([1.0, 2.0]))
    module.register_buffer("gone", torch.zeros(2))
    module.register_buffer("longer", torch.zeros(2))
    network = FlatNetwork(module, SGD(0.1))
    kept = KeptBuffers([network])
    module.mean, module.longer = torch.tensor([float("nan"), 5.0], requires_grad=True) * 1.0, torch.ones(3)
    del module.gone
    kept.restore(torch.tensor(False))
    assert module.mean.tolist() == [1.0, 5.0]
    kept.restore(torch.tensor(True))
    assert module.mean.tolist() == [1.0, 2.0] and module.longer.tolist() == [1.0, 1.0, 1.0]


def modes(*modules: nn.Module) -> list[bool]:
    return [part.training for module in modules for part in module.modules()]


@pytest.mark.parametrize("frozen_first", [True, False], ids=["before the trainer", "after it"])
def test_a_submodule_in_evaluation_mode_stays_in_it(frozen_first: bool) -> None:
    generator, critic = networks()
    if frozen_first:
        critic[2].eval()
    trainer = Trainer(generator, critic, device="cpu")
    critic[2].eval()
    before, statistics = modes(generator, critic), buffers(critic)
    trainer.attach(ROWS, 8)
    trainer.step(2)
    trainer.sample(3)
    assert modes(generator, critic) == before
    assert all(map(torch.equal, buffers(critic), statistics))
    assert not torch.equal(buffers(generator)[0], torch.zeros(8))  # the generator's move


def test_networks_that_are_evaluated_between_steps_train_as_before() -> None:
    def run(evaluated: bool) -> list[Tensor]:
        generator, critic = networks()
        critic[2].eval()
        trainer = Trainer(generator, critic, device="cpu").attach(ROWS, 8)
        for _ in range(3):
            trainer.step(1)
            if evaluated:  # for samples of one's own
                generator.eval()
                critic.eval()
        assert modes(critic)[0] is not evaluated
        return [*buffers(generator, critic), *generator.parameters(), *critic.parameters()]

    assert all(map(torch.equal, run(True), run(False)))


@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
def test_dropout_that_is_switched_off_alone_is_off(engine: str) -> None:
    """By its mode it is what it is by its probability."""

    def run(probability: float, evaluate: bool) -> Tensor:
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 12), nn.Tanh())
        critic = nn.Sequential(nn.Linear(12, 8), nn.LeakyReLU(0.2), nn.Dropout(probability), nn.Linear(8, 1))
        trainer = Trainer(generator, critic, engine=engine, device="cpu", penalty=penalties.R1(0.1)).attach(ROWS, 8)
        if evaluate:
            critic[2].eval()
        trainer.step(3)
        return critic[0].weight.detach().clone()

    torch.testing.assert_close(run(0.5, True), run(0.0, False), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(run(0.5, False), run(0.0, False), rtol=1e-3)
