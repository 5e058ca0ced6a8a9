"""Losses, penalties and layers on a GPU: captured whole, never waited for, on a device that is not the current one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgan import losses, penalties
from fastgan.layers import FusedLinear
from fastgan.mlp import MLP
from tests.contexts.operators import OPERATORS, Operator, critic_of, rows

pytestmark = pytest.mark.cuda


def game(operator: Operator, device: str = "cuda") -> tuple[nn.Module, Tensor, Tensor]:
    return critic_of(operator, torch.float32).to(device), *(x.to(device) for x in rows(dtype=torch.float32))


def captured(call: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A call in a graph, after the warm-up that torch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return graph, outputs


def derivatives(operator: Operator, critic: nn.Module, real: Tensor, fake: Tensor) -> list[Tensor]:
    value = operator.fastgan(critic, real, fake)
    return [value.detach(), *torch.autograd.grad(value, list(critic.parameters()), materialize_grads=True)]


@pytest.mark.parametrize("name", OPERATORS)
def test_capture(name: str) -> None:
    """A replay gives what an eager call gives, for what the rows hold then."""
    operator = OPERATORS[name]
    critic, real, fake = game(operator)
    graph, outputs = captured(lambda: derivatives(operator, critic, real, fake))
    for factor in (1.0, -0.5):
        real.mul_(factor)
        graph.replay()
        torch.testing.assert_close(outputs, derivatives(operator, critic, real, fake), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_nothing_waits_for_the_device(name: str) -> None:
    operator = OPERATORS[name]
    critic, real, fake = game(operator)
    derivatives(operator, critic, real, fake)
    torch.cuda.set_sync_debug_mode("error")
    try:
        derivatives(operator, critic, real, fake)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", OPERATORS)
def test_autocast(name: str) -> None:
    operator = OPERATORS[name]
    critic, real, fake = game(operator)
    exact = derivatives(operator, critic, real, fake)
    for half in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", half):
            found = derivatives(operator, critic, real, fake)
        for mine, wanted in zip(found, exact, strict=True):
            assert (mine.float() - wanted).norm() <= 0.1 * wanted.norm() + 1e-2


def test_masks_of_a_captured_layer_are_drawn_at_each_replay() -> None:
    layer, x = FusedLinear(8, 64, dropout=0.5).cuda(), torch.ones(16, 8, device="cuda")
    graph, (y,) = captured(lambda: [layer(x)])
    masks = []
    for _ in range(3):
        graph.replay()
        masks.append((y != 0).clone())
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])
    assert all(0.4 < mask.float().mean().item() < 0.6 for mask in masks)


def test_masks_of_a_captured_penalty_are_drawn_at_each_replay() -> None:
    critic, real = MLP((32, 64, 64, 1), dropout=0.5).cuda(), torch.randn(16, 32, device="cuda")
    graph, (value,) = captured(lambda: [penalties.r1_penalty(critic, real)])
    values = []
    for _ in range(3):
        graph.replay()
        values.append(value.item())
    assert len(set(values)) == 3 and all(value > 0 for value in values)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device at most")
@pytest.mark.parametrize("name", OPERATORS)
def test_a_device_that_is_not_current(name: str) -> None:
    operator = OPERATORS[name]
    found = derivatives(operator, *game(operator, "cuda:1"))
    torch.testing.assert_close([x.cpu() for x in found], [x.cpu() for x in derivatives(operator, *game(operator))])


def test_a_loss_on_two_devices_is_refused() -> None:
    with pytest.raises(RuntimeError):
        losses.d_loss(torch.zeros(3, 1, device="cuda"), torch.zeros(3, 1))
