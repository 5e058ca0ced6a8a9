"""The kernels that benchmarks.micro times: what is timed is what it is called."""

from __future__ import annotations

import pytest
import torch
from fastgan.kernels.launch import Launcher

from benchmarks.micro.kernels import adam_kernel, barrier_kernel, node_kernel
from benchmarks.micro.nodes import chain


def words_on(device: torch.device, programs: int) -> torch.Tensor:
    return torch.zeros(2, programs, dtype=torch.int32, device=device)


@pytest.mark.parametrize("programs", [1, 5])
def test_a_chain_passes_its_word_on(programs: int, device: torch.device) -> None:
    words = words_on(device, programs)
    chain(Launcher(device), words, 7, word=True)
    assert words.tolist() == [[6] * programs, [7] * programs]


def test_a_launch_that_is_left_out_shows(device: torch.device) -> None:
    words, launch = words_on(device, 3), Launcher(device)
    for round_ in (1, 2, 4, 5):
        launch(node_kernel, (3,), words=words, round_=round_, WORD=True)
    assert not torch.all(words[5 % 2] == 5)


def test_a_chain_without_words_writes_nothing(device: torch.device) -> None:
    words = words_on(device, 3)
    chain(Launcher(device), words, 4, word=False)
    assert not words.any()


def test_barriers_pass_the_word_on(device: torch.device) -> None:
    # the interpreter runs one program after the other, so that one must be enough there
    programs = 1 if device.type == "cpu" else 16
    words, arrived = words_on(device, programs), torch.zeros(1, dtype=torch.int32, device=device)
    options = {} if device.type == "cpu" else dict(launch_cooperative_grid=True)
    barrier_kernel[(programs,)](words, arrived, 9, WORD=True, **options)
    assert words.tolist() == [[8] * programs, [9] * programs] and arrived.item() == 9 * programs


@pytest.mark.parametrize("gradient", [True, False])
def test_adam_is_adam(gradient: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    size = 1500
    w, m, v, g = (torch.rand(size).to(device) for _ in range(4))
    step = g.double() if gradient else m.double()
    mean, square = 0.5 * m.double() + 0.5 * step, 0.9 * v.double() + 0.1 * step.square()
    expected = w.double() - 0.01 * mean / (square.sqrt() + 1e-8), mean, square
    given = dict(w=w, m=m, v=v, g=g, size=size, beta1=0.5, beta2=0.9, rate=0.01)
    Launcher(device)(adam_kernel, (2,), **given, GRADIENT=gradient, BLOCK=1024)
    for found, wanted in zip((w, m, v), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
