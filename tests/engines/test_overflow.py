"""A learning rate at which steps overflow: no weight and no average is ever anything but finite, in memory or on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgan import NonFiniteError, Trainer, optim
from fastgan.mlp import MLP
from fastgan.optim import Optimizer
from fastgan.training import checkpoint

DATA = torch.linspace(-1, 1, 80).sin().view(20, 4)
RULES = [
    optim.SGD,
    lambda rate: optim.SGD(rate, momentum=0.9, nesterov=True, weight_decay=0.01),
    optim.RMSprop,
    lambda rate: optim.RMSprop(rate, momentum=0.5, centered=True),
    optim.Adam,
    lambda rate: optim.Adam(rate, betas=(0.0, 0.9), eps=0.0),
]
IDS = ["sgd", "nesterov", "rmsprop", "centered", "adam", "adam without an eps"]


def trainer(optimizer: Optimizer, **options: Any) -> Trainer:
    torch.manual_seed(0)
    networks = MLP((3, 8, 4), output="tanh"), MLP((4, 8, 1), activation="leaky_relu")
    given = dict(g_optimizer=optimizer, d_optimizer=optimizer, ema=0.5, device="cpu", seed=0) | options
    return Trainer(*networks, **given)


def all_tensors(state: Any) -> list[Tensor]:
    return [t for part in state.values() for t in part.values() if t.is_floating_point()]


@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
@pytest.mark.parametrize("precision, rate", [("fp32", 1e37), ("fp32", 1e39), ("fp64", 1.7e308)])
@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_the_checkpoint_of_a_run_whose_steps_overflow_is_finite(
    rule: Any, precision: str, rate: float, engine: str, tmp_path: Path
) -> None:
    run = trainer(rule(rate), engine=engine, precision=precision)
    with pytest.raises(NonFiniteError):
        run.fit(DATA, steps=30, batch_size=8, out=tmp_path / "run", log_every=1, sample_every=0, progress=False)
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert newest is not None and run.skipped > 0 and run.engine == engine
    weights = checkpoint.load(newest).weights
    assert {"generator", "discriminator", "average"} <= weights.keys()
    assert all(tensor.isfinite().all() for tensor in all_tensors(weights))


@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
@pytest.mark.parametrize("loss", ["nonsaturating", "wgan"])
def test_every_weight_is_counted_once_at_an_infinite_rate(loss: str, engine: str) -> None:
    """Parameters that fill no whole cache lines: what lies between them is not counted. A clip takes what has a sign."""
    run = trainer(optim.RMSprop(1e39), engine=engine, precision="fp32", loss=loss, d_steps=2, ema=None)
    before = [p.detach().clone() for p in (*run.generator.parameters(), *run.discriminator.parameters())]
    run.attach(DATA, 8).step()
    g, d = (sum(p.numel() for p in network.parameters()) for network in (run.generator, run.discriminator))
    parameters = [*run.generator.parameters(), *run.discriminator.parameters()]
    assert all(p.isfinite().all() for p in parameters)
    if loss == "nonsaturating":
        assert run.skipped == g + 2 * d
        assert all(torch.equal(now, then) for now, then in zip(parameters, before, strict=True))
    else:
        assert g <= run.skipped < g + 2 * d
        assert any((now != then).any() and now.abs().max() <= 0.01 for now, then in zip(parameters, before, strict=True))


@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
def test_a_run_without_an_eps_counts_nothing(engine: str) -> None:
    """Where gradients are 0 for ever: of pixels that never change, and between parameters in their buffer."""
    data = torch.cat((DATA, torch.zeros(20, 3)), dim=1)
    torch.manual_seed(0)
    networks = MLP((3, 8, 7), output="tanh", bias=False), MLP((7, 8, 1), activation="leaky_relu")
    with torch.no_grad():
        list(networks[0].parameters())[-1][4:] = 0.0
    run = Trainer(*networks, d_optimizer=optim.Adam(1e-3, eps=0.0), g_optimizer=optim.SGD(0.0), device="cpu", engine=engine)
    run.attach(data, 8).step(3)
    assert run.skipped == 0
