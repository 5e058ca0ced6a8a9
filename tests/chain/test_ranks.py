"""Critics that ask how many dimensions their rows have, or how many rows there are: read for what they are given."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import Trainer, penalties
from fastgan.chain.recognition import NotAnMLP, read, recognise

FEATURES = 16
SHAPES = {"flat": (FEATURES,), "signals": (2, 8), "images": (1, 4, 4), "voxels": (1, 2, 2, 4)}


class Critic(nn.Module):
    def __init__(self, prepare: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.prepare = nn.Linear(FEATURES, 8), nn.Linear(8, 1), prepare

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.leaky_relu(self.first(self.prepare(x)), 0.2))


def by_dim(x: Tensor) -> Tensor:
    if x.dim() > 2:
        x = x.flatten(1)
    return x


def by_ndim(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else x.view(x.size(0), -1)


def by_length_of_shape(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1) if len(x.shape) != 2 else x


def by_length_of_size(x: Tensor) -> Tensor:
    return x.view(x.size()[0], -1) if len(x.size()[1:]) > 1 else x


def images_alone(x: Tensor) -> Tensor:
    assert x.dim() == 4
    return x.view(x.size(0), -1)


def from_the_end(x: Tensor) -> Tensor:
    return x.flatten(-3, -1)


def starred(x: Tensor) -> Tensor:
    return x.view(*x.shape[:1], -1)


def rejoined(x: Tensor) -> Tensor:
    return x.view(*x.shape).flatten(1)


ASKING = [rejoined, by_dim, by_ndim, by_length_of_shape, by_length_of_size, images_alone, from_the_end, starred]


def is_closed(value: Tensor) -> bool:
    return type(value.grad_fn).__name__ == "_PenaltyBackward"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("prepare", ASKING)
def test_penalties_of_every_rank(prepare: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    critic, x = Critic(prepare).double(), torch.randn(5, *shape, dtype=torch.float64)
    if (prepare is images_alone and x.dim() != 4) or (prepare is from_the_end and x.dim() < 4):
        with pytest.raises((AssertionError, IndexError, RuntimeError, ValueError)):
            penalties.r1_penalty(critic, x)
        return
    found, exact = penalties.r1_penalty(critic, x), penalties.r1_penalty(critic, x, method="autograd")
    assert is_closed(found) == (prepare is not from_the_end or x.dim() == 4)  # of voxels it joins but the last three
    parameters = [critic.first.weight, critic.last.weight]
    for ours, theirs in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(exact, parameters), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found, exact)


def other_slopes_for(rank: int) -> Callable[[Tensor], Tensor]:
    return lambda x: 3.0 * x.flatten(1) if x.dim() == rank else x.flatten(1)


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_what_is_read_for_a_rank_holds_for_no_other(rank: int) -> None:
    critic = Critic(other_slopes_for(rank)).double()
    for shape in SHAPES.values():
        x = torch.randn(5, *shape, dtype=torch.float64)
        found = penalties.r1_penalty(critic, x)
        assert is_closed(found) == (x.dim() != rank)
        torch.testing.assert_close(found, penalties.r1_penalty(critic, x, method="autograd"))
    with pytest.raises(NotAnMLP, match=f"computes something else for rows of {rank} dimensions"):
        recognise(critic)


def test_another_layer_for_another_rank_is_another_critic() -> None:
    class Two(Critic):
        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x.flatten(1))
            return self.last(F.relu(h) if x.ndim == 4 else F.leaky_relu(h, 0.1))

    critic = Two(nn.Identity())
    flat, images = read(critic, 2), read(critic, 4)
    assert flat.chain is not None and images.chain is not None
    assert [flat.chain.layers[0].activation, images.chain.layers[0].activation] == ["leaky_relu", "relu"]
    assert read(critic, 2) is flat and read(critic, 4) is images
    with pytest.raises(NotAnMLP, match="something else for rows of 4 dimensions"):
        recognise(critic)


def test_the_rank_of_what_is_computed_is_not_known() -> None:
    class Late(Critic):
        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x.flatten(1))
            return self.last(F.relu(h) if len(h.shape) == 2 else h)

    assert "asks for the rank of what it computes" in read(Late(nn.Identity())).problem


def flat_by_len(x: Tensor) -> Tensor:
    return x.view(len(x), -1)


@pytest.mark.parametrize("prepare", [flat_by_len, *ASKING])
def test_trainers_play_them_in_closed_form(prepare: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    trained = []
    for engine in ("auto", "autograd"):
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(3, FEATURES), nn.Tanh(), nn.Unflatten(1, (1, 4, 4))).double()
        trainer = Trainer(generator, Critic(prepare).double(), engine=engine, device="cpu", seed=3).attach(images, 8)
        trainer.step(3)
        assert trainer.engine == ("closed-form" if engine == "auto" else "autograd")
        trained.append([p.detach().clone() for p in trainer.discriminator.parameters()])
    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_number_of_rows_is_no_constant(rows: int) -> None:
    critic, x = Critic(flat_by_len).double(), torch.randn(rows, 4, 4, dtype=torch.float64)
    found = penalties.r1_penalty(critic, x)
    assert is_closed(found)
    torch.testing.assert_close(found, penalties.r1_penalty(critic, x, method="autograd"))


def test_len_is_pythons_own_afterwards() -> None:
    before = builtins.len
    assert read(Critic(flat_by_len)).chain is not None
    assert read(Critic(lambda x: x.unknown())).chain is None
    assert builtins.len is before and len([1, 2]) == 2


def test_threads_that_read_and_run_critics_do_not_disturb_each_other() -> None:
    call, wrong = nn.Module.__call__, []
    shared, x = Critic(flat_by_len), torch.randn(4, FEATURES)
    expected = shared(x).detach()

    def run() -> None:
        for _ in range(20):
            critic = Critic(flat_by_len)
            critic.first, critic.last = shared.first, shared.last
            if read(critic).chain is None or not torch.equal(shared(x), expected):
                wrong.append(read(critic).problem)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and nn.Module.__call__ is call
