"""Steps of runs that have gone on for long: numbers that pass 24, 31, 32 and 40 bits, and what counts and draws by them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan import Trainer, optim, penalties
from fastgan.engines import cuda_graph
from fastgan.engines.autograd import LossScale
from fastgan.engines.cuda_graph import Captured
from fastgan.engines.game import at
from fastgan.mlp import MLP
from fastgan.ops import sample
from fastgan.ops.sample import Role

STEPS = [0, 2**24, 2**31 - 2, 2**31, 2**32 - 1, 2**32, 2**40]
DATA = torch.linspace(-1, 1, 80).sin().view(20, 4)
GAMES = [
    pytest.param(dict(loss="nonsaturating", ema=0.9), id="dropout in both, an average"),
    pytest.param(dict(loss="wgan-gp", d_steps=5), id="wgan-gp"),
    pytest.param(
        dict(loss="hinge", penalty=[penalties.R1(1.0, every=3), penalties.DRAGAN(2.0)], d_steps=2), id="lazy R1, noise"
    ),
]


def trainer_at(step: int, **options: Any) -> Trainer:
    """A trainer whose next step is this one: its counters are those of a run that has come so far."""
    torch.manual_seed(7)
    networks = MLP((3, 8, 4), output="tanh", dropout=0.2), MLP((4, 8, 1), activation="leaky_relu", dropout=0.25)
    given = dict(precision="fp64", device="cpu", seed=5) | options
    run = Trainer(*networks, **given)
    state = run.state_dict()
    state["step_count"] = step
    state["g_optimizer"]["count"].fill_(step)
    state["d_optimizer"]["count"].fill_(step * run.d_steps)
    run.load_state_dict(state)
    return run.attach(DATA, 8)


def weights(run: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in (*run.generator.parameters(), *run.discriminator.parameters())]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("options", GAMES)
def test_both_engines_play_the_same_steps(options: dict[str, Any], step: int) -> None:
    one, other = (trainer_at(step, engine=engine, **options) for engine in ("closed-form", "autograd"))
    for run in (one, other):
        run.step(3)
        assert run.step_count == step + 3 and run.skipped == 0
        assert run.state_dict()["g_optimizer"]["count"] == step + 3
        assert run.state_dict()["d_optimizer"]["count"] == (step + 3) * run.d_steps
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-9, atol=1e-12)


def replayed(run: Callable[[], Tensor], pool: Any, stream: Any) -> tuple[Callable[[], None], Tensor]:
    """A recorder that replays by running again."""
    values = torch.full((7,), torch.nan, dtype=torch.float64)
    return lambda: values.copy_(run()), values


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
def test_steps_that_count_on_the_device_are_the_hosts(engine: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "record", replayed)
    schedule = optim.Adam(optim.cosine(1e-3, 1e-4, steps=2**41))
    options = dict(engine=engine, loss="wgan-gp", d_steps=2, g_optimizer=schedule)
    one, other = (trainer_at(step, **options) for _ in range(2))
    other._runner.player = Captured(other._runner.engine, other._game, 2)
    for run in (one, other):
        run.step(5)
    assert other._runner.player.graphs and other._runner.player.problem is None
    assert all(torch.equal(mine, its) for mine, its in zip(weights(one), weights(other), strict=True))
    assert int(other._runner.player.counter) == step + 4 + 1


@pytest.mark.parametrize("apart", [1, 2**24, 2**31, 2**32, 2**33, 2**40])
@pytest.mark.parametrize("step", [0, 3, 2**24, 2**32 - 1])
def test_no_two_steps_draw_the_same(step: int, apart: int) -> None:
    """Latents, both networks' masks, a penalty's alphas and noise, and seeds of modules that draw for themselves."""
    game = trainer_at(0)._game

    def drawn(number: int) -> list[Tensor]:
        draws = game.draws(at(number), 0, 6)
        roles = [draws.latents(6, 8, role) for role in (Role.LATENT, Role.GENERATOR_LATENT)]
        masks = draws.dropout_scale(6, 32, 0.5, pass_=1, layer=0)
        return [*roles, masks, draws.alpha(6, 0), draws.noise(6, 4, 0)]

    assert all((one != other).double().mean() > 0.3 for one, other in zip(drawn(step), drawn(step + apart), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(drawn(step), drawn(step), strict=True))


class Noisy(nn.Module):
    """A generator that draws from torch's generator."""

    z_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z + torch.randn_like(z))


@pytest.mark.parametrize("apart", [2**31, 2**32, 2**40])
def test_torchs_own_draws_differ_as_well(apart: int) -> None:
    made = []
    for step in (3, 3 + apart):
        torch.manual_seed(7)
        run = Trainer(Noisy(), MLP((4, 8, 1)), device="cpu", seed=5, g_optimizer=optim.SGD(0.1)).attach(DATA, 8)
        state = copy.deepcopy(run.state_dict())
        run.load_state_dict(state | {"step_count": step})
        run._game.latents = lambda draws, rows, role=Role.LATENT: torch.zeros(rows, 3)  # type: ignore[method-assign]
        run._game.real_rows = lambda images, *_, **__: images[:8]  # type: ignore[method-assign]
        run.step()
        made.append(run.generator.linear.weight.detach().clone())
    assert not torch.equal(*made)


@pytest.mark.parametrize("size", [1, 20, 60_000])
@pytest.mark.parametrize("epoch", [2**24, 2**31 - 1, 2**32 - 1, 2**40])
def test_every_epoch_has_an_order_of_its_own(epoch: int, size: int) -> None:
    """All samples once, in another order in the next epoch, and in the one 2^32 epochs before."""
    order = [sample.batch_indices(size, size, e * size, seed=5, stream=2) for e in (epoch, epoch + 1, epoch + 2**32)]
    assert all(torch.equal(each.sort().values, torch.arange(size)) for each in order)
    assert size == 1 or not any(torch.equal(one, other) for one, other in pairwise(order))
    place = torch.tensor(epoch * size)
    assert torch.equal(sample.batch_indices(size, size, place, seed=5, stream=2, backend="reference"), order[0])


def test_a_step_whose_rows_pass_63_bits_is_refused_before_anything_changes() -> None:
    for engine in ("closed-form", "autograd"):
        last = 2**63 // (5 * 8) - 2
        run = trainer_at(last, engine=engine, loss="wgan-gp", d_steps=5)
        run.step()
        before = weights(run)
        with pytest.raises(ValueError, match=rf"step {last + 1:,} is beyond the last one, {last:,}"):
            run.step()
        assert all(torch.equal(now, then) for now, then in zip(weights(run), before, strict=True))


@pytest.mark.parametrize("step", STEPS[1:])
@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
def test_rates_and_corrections_are_those_of_the_step(step: int, engine: str) -> None:
    """Adam's first step from moments of 0 at count n is lr (1 - b1) / (1 - b1^n) sqrt(1 - b2^n) / sqrt(1 - b2) times g's sign.

    With decays so near 1 that corrections are far from 1 even here.
    """
    betas = (0.5, 1 - 2.0**-40)
    end = 3 * step
    run = trainer_at(step, engine=engine, d_optimizer=optim.Adam(optim.linear(1.0, 0.0, steps=end), betas=betas, eps=0.0))
    before = [p.detach().clone() for p in run.discriminator.parameters()]
    run.step()
    correction = (0.5 / (1 - 0.5 ** (step + 1.0))) * ((1 - betas[1] ** (step + 1.0)) / 2.0**-40) ** 0.5
    expected = (1 - step / end) * correction
    moved = torch.cat([(p - old).abs().flatten() for p, old in zip(run.discriminator.parameters(), before, strict=True)])
    assert run._game.discriminator.lr.item() == pytest.approx(1 - step / end, rel=1e-12)
    torch.testing.assert_close(moved[moved > 0], torch.full_like(moved[moved > 0], expected), rtol=1e-6, atol=0)
    assert (moved > 0).sum() > 30


@pytest.mark.parametrize("every, count", [(7, 5), (1000, 2), (10_007, 5)])
def test_graphs_do_not_become_more_the_longer_a_run_is(every: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where a penalty is due so seldom that no two of its phases are alike for long."""
    monkeypatch.setattr(cuda_graph, "record", replayed)
    run = trainer_at(0, penalty=penalties.R1(1.0, every=every), engine="autograd")
    player = Captured(run._runner.engine, run._game, 4)
    due: dict[tuple[int, ...], set] = {}
    for step in range(0, 4 * every, 4):
        which = tuple(s for s in range(4) if run._game.due_penalties(at(step + s), 0))
        due.setdefault(tuple(player._first_due(step, 4)), set()).add(which)
    assert len(due) == count and all(len(arrangements) == 1 for arrangements in due.values())


@pytest.mark.parametrize("start", [2.0**16, 2.0**-31, 2.0**-149, 0.0])
def test_a_loss_scale_never_becomes_0(start: float) -> None:
    """And what overflows at the least one is a fault that is said, once for each update."""
    scale, gradient = LossScale(torch.device("cpu"), torch.float32), torch.tensor([torch.inf, 1.0])
    scale.scale.fill_(start)
    found = [tuple(map(bool, scale.unscale_(gradient.clone()))) for _ in range(200)]
    assert all(overflow for overflow, _ in found) and scale.scale == LossScale.LEAST
    first = [final for _, final in found].index(True)
    assert first == {2.0**16: 48, 2.0**-31: 1}.get(start, 0) and all(final for _, final in found[first:])
    assert [bool(flag) for flag in scale.unscale_(torch.ones(2))] == [False, False]


@pytest.mark.parametrize("start", [2.0**16, 2.0**127, torch.inf])
def test_a_loss_scale_never_becomes_infinite(start: float) -> None:
    scale = LossScale(torch.device("cpu"), torch.float32, growth_interval=1)
    scale.scale.fill_(start)
    for _ in range(200):
        gradient = torch.ones(2) * min(float(scale.scale), 2.0**126)
        overflow, final = scale.unscale_(gradient)
        assert not overflow and not final
    assert scale.scale == LossScale.MOST and scale.clean_updates <= 1


def test_gradients_that_no_loss_scale_mends_are_counted() -> None:
    """Of a discriminator whose backward pass makes infinities, whatever comes into it: 48 halvings, then each update counts."""
    run = trainer_at(0, engine="autograd", precision="fp16")
    next(run.discriminator.parameters()).register_hook(lambda gradient: gradient + torch.inf)
    before = [p.detach().clone() for p in run.discriminator.parameters()]
    run.step(48)
    assert run.skipped == 0
    run.step(5)
    assert run.skipped == 5 and run._runner.engine.scales[0].scale == LossScale.LEAST
    assert all(torch.equal(now, then) for now, then in zip(run.discriminator.parameters(), before, strict=True))


def test_counts_of_what_is_skipped_pass_32_bits() -> None:
    found = []
    for before in (0, 2**40):
        run = trainer_at(0)
        state = run.state_dict()
        state["skipped"].fill_(before)
        run.load_state_dict(state)
        with torch.no_grad():
            next(run.discriminator.parameters()).fill_(torch.nan)
        run.step()
        found.append(run.skipped - before)
    assert found[0] == found[1] > 0
