"""What recognising a module leaves alone, and that training the chain trains the module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.chain.recognition import NotAnMLP, recognise
from tests.chain.test_recognition import CRITIC, SequentialDiscriminator, branching, net, read


def untouched(module: nn.Module) -> list[Any]:
    """What recognising could change: modes, hooks, attributes, values and gradients."""
    parts = [(part.training, {name: str(value) for name, value in vars(part).items()}) for part in module.modules()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
    values = [(id(p), p.tolist(), p._version, p.grad, p.requires_grad) for p in module.parameters()]
    return [parts, hooks, values, torch.get_rng_state().tolist()]


def remembering(n: Any, x: Tensor) -> Tensor:
    n.features = n.a(x)
    torch.rand(3)
    return n.b(F.dropout(F.relu(n.features), 0.3))


def counting(n: Any, x: Tensor) -> Tensor:
    n.calls += 1
    n.seen.append(x)
    n.total.add_(torch.rand(3))
    return remembering(n, x)


@pytest.mark.parametrize("run", [remembering, counting, branching])
@pytest.mark.parametrize("training", [True, False])
def test_the_module_and_torchs_generator_are_left_alone(run: Callable, training: bool) -> None:
    module = net(run, calls=0, seen=[], total=torch.zeros(3), drop=nn.Dropout(0.5)).train(training)
    module.drop.train(not training)
    module(torch.randn(2, 6))  # leaves features behind
    module.seen.clear()
    before = untouched(module)
    try:
        assert recognise(module).training is training
    except NotAnMLP:
        assert run is not remembering
    assert untouched(module) == before


@pytest.mark.parametrize(
    "mode", [torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")], ids=lambda m: type(m).__name__
)
def test_the_callers_modes_do_not_matter(mode: Any) -> None:
    with mode:
        assert read(recognise(SequentialDiscriminator()))[:3] == CRITIC


def test_training_through_the_chain_trains_the_module() -> None:
    theirs = SequentialDiscriminator().eval()
    ours, twin, x = recognise(theirs), copy.deepcopy(theirs), torch.randn(4, 784)
    for module in (ours, twin):
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        module(x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(theirs(x), twin(x), rtol=1e-5, atol=1e-6)
