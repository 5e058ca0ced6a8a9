"""What an update is made under, in both engines: modes, graphs of autograd, and numbers that are not finite."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan import Trainer, optim, penalties
from fastgan.mlp import MLP

ENGINES = ["closed-form", "autograd"]
DATA = torch.linspace(-1, 1, 80).sin().view(20, 4)


def trainer(**options: Any) -> Trainer:
    torch.manual_seed(7)
    networks = MLP((3, 8, 4), output="tanh", dropout=0.2), MLP((4, 8, 1), activation="leaky_relu", dropout=0.25)
    return Trainer(*networks, **dict(precision="fp64", device="cpu") | options).attach(DATA, 8)


class Infinite(penalties.R1):
    """A penalty whose value is not finite, and whose slope is."""

    def __post_init__(self) -> None:
        """Any gamma is allowed."""

    def value(self, gradient: Tensor) -> Tensor:
        return 0.0 * gradient.sum() + self.gamma

    def penalty_gradient(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]:
        return self.value(gradient), torch.zeros_like(gradient)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_penalty_that_is_not_finite_withholds_the_update(value: float, engine: str) -> None:
    run = trainer(engine=engine, penalty=Infinite(1.0), d_optimizer=optim.SGD(0.1, momentum=0.9))
    run.step(2)
    assert run.engine == engine and run.skipped == 0
    object.__setattr__(run.penalties[0], "gamma", value)
    before = copy.deepcopy(run.state_dict())
    metrics = run.step()
    after = run.state_dict()
    for part in ("discriminator", "d_optimizer"):
        assert all(torch.equal(after[part][name], tensor) for name, tensor in before[part].items())
    assert not torch.equal(after["generator"]["0.weight"], before["generator"]["0.weight"]), "whose update is another one"
    assert run.skipped == 1 and not metrics["penalty"].isfinite() and not metrics["d_loss"].isfinite()


@pytest.mark.parametrize("engine", ENGINES)
def test_networks_in_evaluation_mode_train_as_in_training_mode(engine: str) -> None:
    """And are in evaluation mode afterwards, whatever happens in a step."""
    runs = [trainer(engine=engine), trainer(engine=engine)]
    for network in (runs[0].generator, runs[0].discriminator):
        network.eval()
    for run in runs:
        run.step(2)
    assert torch.equal(runs[0]._game.generator.weight, runs[1]._game.generator.weight)
    assert torch.equal(runs[0]._game.discriminator.weight, runs[1]._game.discriminator.weight)
    assert not any(part.training for part in (*runs[0].generator.modules(), *runs[0].discriminator.modules()))
    assert all(part.training for part in (*runs[1].generator.modules(), *runs[1].discriminator.modules()))


class Watched(nn.Module):
    """A network that notes, for each of its passes, whether a graph is made and whether its rows have one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(inputs, outputs), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((torch.is_grad_enabled(), x.requires_grad))
        return self.linear(x).sin()


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_graphs_are_made_of_what_is_differentiated_alone(loss: str) -> None:
    generator, critic = Watched(3, 4), Watched(4, 1)
    run = Trainer(generator, critic, loss=loss, penalty=penalties.R1(1.0), d_steps=2, device="cpu").attach(DATA, 8)
    run.step()
    for network in (generator, critic):
        network.seen.clear()
    run.step()
    made, constant, of_generator = (True, False), (False, False), (True, True)
    assert generator.seen == [constant, constant, made], "fake rows of the critic's updates are constants"
    update = [made, made, of_generator]  # real and fake rows, and those at which a penalty takes the gradient
    real = [constant] if loss == "relativistic" else []
    assert critic.seen == [*update, *update, of_generator, *real]
