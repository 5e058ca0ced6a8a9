"""Which numbers a game draws: known answers for its steps, its updates and its processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastgan import Trainer
from fastgan.engines.game import FAKE, FOR_CRITIC, GENERATOR, OWN_UPDATE, PENALTY, REAL, Game, at, mix
from fastgan.ops.sample import Role
from fastgan.runtime.distributed import World

# the first positions of the endless stream over forty samples, seed 2026, by Python's own integers
ORDER = [25, 10, 15, 21, 16, 38, 23, 11, 3, 31, 7, 5, 6, 17, 37, 28, 0, 2, 22, 14, 34, 20, 18, 1]


def game(rank: int = 0, size: int = 1, d_steps: int = 1) -> Game:
    networks = nn.Linear(3, 2), nn.Linear(2, 1)
    found = Trainer(*networks, d_steps=d_steps, seed=2026, precision="fp64", device="cpu")._game
    found.world = World(rank, size)
    return found


NUMBERED = torch.arange(40.0).unsqueeze(1) / 40


@pytest.mark.parametrize(("size", "d_steps"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 2)])
def test_updates_and_processes_share_one_stream_of_real_rows(size: int, d_steps: int) -> None:
    """Two rows each: process after process, update after update, step after step."""
    games = [game(rank, size, d_steps) for rank in range(size)]
    seen = [
        of.real_rows(NUMBERED, at(step), d_step, 2).flatten()
        for step in range(-(-12 // (size * d_steps)))
        for d_step in range(d_steps)
        for of in games
    ]
    assert (torch.cat(seen) * 40).round().int().tolist()[:24] == ORDER


def test_real_rows_go_where_they_are_asked_to() -> None:
    of, out = game(), torch.empty(2, 1, dtype=torch.float64)
    assert of.real_rows(NUMBERED, at(1), 0, 2, out=out) is out
    assert (out.flatten() * 40).round().int().tolist() == ORDER[2:4]


def test_latents_have_known_answers() -> None:
    """Those of the third process, whose two rows are the fourth and fifth of the batch."""
    of = game(rank=2, size=3, d_steps=2)
    draws = of.draws(at(3), 1, 2)
    expected: list[tuple[Role, list[list[float]]]] = [
        (Role.LATENT, [[1.650215578, 0.470877702, -0.882739947], [0.822633931, -0.645334558, 0.584918609]]),
        (Role.GENERATOR_LATENT, [[-0.076725182, 0.202491618, -0.413906894], [-1.379004326, -1.61613163, -1.328285841]]),
    ]
    for role, numbers in expected:
        torch.testing.assert_close(of.latents(draws, 2, role), torch.tensor(numbers).double(), rtol=0, atol=1e-7)
    assert (draws.seed, draws.step, draws.d_step, draws.first_row) == (2026, 3, 1, 4)


def test_latents_have_the_generators_shape() -> None:
    of = game()
    of.latent_shape = (2, 1, 3)
    draws = of.draws(at(0), 0, 5)
    assert torch.equal(of.latents(draws, 5), draws.latents(5, 6).view(5, 2, 1, 3))


def test_passes_keep_their_numbers() -> None:
    """They are in the words of dropout masks."""
    assert (REAL, FAKE, GENERATOR, PENALTY, OWN_UPDATE, FOR_CRITIC) == (0, 1, 2, 3, 14, 15)


def test_seeds_of_torchs_generator_have_known_answers() -> None:
    assert mix(3, 0, 0, 0) == 3358255771007962306 and mix(3, 5, 1, 1) == 8842340867758222006
    numbers = [(seed, step, d_step, rank) for seed in range(3) for step in range(3) for d_step in range(3) for rank in range(3)]
    seeds = {mix(*each) for each in numbers}
    assert len(seeds) == len(numbers) and all(0 <= seed < 2**63 for seed in seeds)


class Echo(nn.Module):
    """A generator that returns its latents."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.scale = 3, nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * z


def test_preview_latents_have_known_answers() -> None:
    """Whatever step the run is at, and none that training draws."""
    trainer = Trainer(Echo(), nn.Linear(3, 1), seed=2026, precision="fp64", device="cpu")
    expected = torch.tensor([[0.009289687, 0.383988323, 0.228566071], [0.399957635, 1.172925819, 1.222905175]]).double()
    for step in (0, 5):
        trainer.step_count = step
        torch.testing.assert_close(trainer.sample(2), expected, rtol=0, atol=1e-7)
    other = torch.tensor([[-0.11416636, -1.853127436, 0.452506223]]).double()
    torch.testing.assert_close(trainer.sample(1, seed=9), other, rtol=0, atol=1e-7)
