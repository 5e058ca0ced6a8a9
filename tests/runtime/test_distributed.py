"""Two processes of half a batch each against one of the whole batch: every loss, penalty and engine, and what both share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgan import Trainer, optim, penalties
from fastgan.engines.game import at
from fastgan.mlp import MLP
from fastgan.runtime import distributed
from fastgan.runtime.distributed import World
from fastgan.training.presets import PRESETS

pytestmark = pytest.mark.slow

ROWS, STEPS = 8, 3
DATA = torch.linspace(-1, 1, 120).sin().view(30, 4)
HIGH = 0.8  # in DATA's first column a few rows are above


class Cubed(penalties.R1):
    """A penalty of one's own, at points of its own: both engines play it."""

    at = None

    def points(self, real: Tensor, fake: Tensor, draws: Any, index: int) -> Tensor:
        return 0.5 * real + draws.noise(real.shape[0], real[0].numel(), index).view_as(real)

    def value(self, gradient: Tensor) -> Tensor:
        return self.gamma * gradient.abs().pow(3).sum() / len(gradient)

    def penalty_gradient(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]:
        slope = 3 * self.gamma / len(gradient) * gradient.square() * gradient.sign()
        return times * self.value(gradient), times * slope


class Modules(nn.Module):
    """Networks that autograd alone plays, with buffers and a frozen matrix that were drawn."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.z_dim = inputs
        self.register_buffer("shift", torch.randn(inputs))
        self.register_buffer("order", torch.randperm(inputs))
        self.first, self.last = nn.Linear(inputs, 6), nn.Linear(6, outputs)
        self.frozen = nn.Parameter(torch.randn(6, 6).T, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.silu(self.first(x[:, self.order] + self.shift)) @ self.frozen)


class Unscored(Modules):
    """A critic that has no finite logit for a high row."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > HIGH, math.inf, super().forward(x))


class Unsloped(Modules):
    """A critic whose logits are finite, but not its gradient at a high row."""

    def forward(self, x: Tensor) -> Tensor:
        below = HIGH - x[:, :1]
        return super().forward(x) + 0.1 * (below.abs() + below).sqrt()


class Noisy(Modules):
    """A network that draws for itself, and remembers what."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        self.drawn: list[Tensor] = [*getattr(self, "drawn", []), noise]
        return super().forward(x + noise)


def mlps() -> tuple[MLP, MLP]:
    return MLP((3, 8, 4), output="tanh", dropout=0.1), MLP((4, 8, 6, 1), activation="leaky_relu", dropout=0.25)


SHAPES = {
    "closed-form": (mlps, dict(engine="closed-form")),
    "autograd": (mlps, dict(engine="autograd")),
    "modules": (lambda: (Modules(3, 4), Modules(4, 1)), {}),
}
FAST = dict(g_optimizer=optim.Adam(1e-2), d_optimizer=optim.Adam(2e-2))
OPTIONS: dict[str, dict[str, Any]] = {
    **{loss: dict(loss=loss, **FAST) for loss in PRESETS},
    "an average, schedules": dict(
        ema=0.9,
        g_optimizer=optim.Adam(optim.cosine(1e-2, 1e-3, steps=3), betas=(0.0, 0.9)),
        d_optimizer=optim.SGD(optim.linear(0.1, 0.01, steps=4), momentum=0.9),
    ),
    "clipped": dict(loss="wgan", penalty=[penalties.WeightClip(0.2), penalties.R2(0.5)], d_optimizer=optim.RMSprop(1e-2)),
    "one-sided": dict(penalty=penalties.GradientPenalty(10.0, 0.2, one_sided=True), **FAST),
    "dragan": dict(loss="hinge", penalty=penalties.DRAGAN(), **FAST),
    "r1 lazily, r2": dict(penalty=[penalties.R1(2.0, every=3), penalties.R2(4.0)], d_steps=2, **FAST),
    "many penalties": dict(
        loss="relativistic",
        penalty=[penalties.DRAGAN(3.0), penalties.GradientPenalty(2.0), Cubed(0.5), penalties.DRAGAN(1.0, every=2)],
        **FAST,
    ),
}
OF_MODULES = ("nonsaturating", "relativistic", "an average, schedules", "many penalties")
GAMES = {
    f"{shape}, {name}": (make, options | engine)
    for shape, (make, engine) in SHAPES.items()
    for name, options in OPTIONS.items()
    if shape != "modules" or name in OF_MODULES
} | {
    "a logit that is not finite": (lambda: (Modules(3, 4), Unscored(4, 1)), dict(ema=0.5, **FAST)),
    "a logit that is not finite, relativistic": (lambda: (Modules(3, 4), Unscored(4, 1)), dict(loss="relativistic", **FAST)),
    "a penalty that is not finite": (lambda: (Modules(3, 4), Unsloped(4, 1)), dict(penalty=penalties.R1(1.0), **FAST)),
    "fp16": (lambda: (Modules(3, 4), Modules(4, 1)), dict(precision="fp16", **FAST)),
}
NOT_FINITE = [name for name in GAMES if "not finite" in name]


def trainer(name: str, seed: int) -> Trainer:
    """The trainer of a game, with initial weights and buffers of this seed."""
    make, options = GAMES[name]
    torch.manual_seed(seed)
    return Trainer(*make(), **(dict(precision="fp64", device="cpu", seed=3) | options)).attach(DATA, ROWS)


def played(name: str, seed: int) -> dict[str, Any]:
    """What a game ends with."""
    game = trainer(name, seed)
    learnt = [next(p for p in net.parameters() if p.requires_grad) for net in (game.generator, game.discriminator)]
    before = [parameter.detach().clone() for parameter in learnt]
    metrics = dict(game.step(STEPS))
    assert not any(map(torch.equal, before, learnt)), "two processes that do nothing would be one that does nothing"
    return {"state": game.state_dict(), "metrics": metrics, "skipped": game.skipped, "sample": game.sample(3)}


def draws_of_modules() -> dict[str, list[Tensor]]:
    """What modules of a game drew from torch's generator, by network, and where it stood afterwards."""
    torch.manual_seed(0)
    networks = Noisy(3, 4), Noisy(4, 1)
    game = Trainer(*networks, penalty=penalties.R1(1.0), d_steps=2, seed=3, device="cpu").attach(DATA, ROWS)
    game.step()  # from here on what a forward notes is no change of the network
    for network in networks:
        network.drawn = []
    game.step(2)
    return {"generator": networks[0].drawn, "critic": networks[1].drawn, "after": [torch.rand(3)]}


def on_rank(folder: Path, world: World) -> dict[str, Any]:
    """What a process finds; it begins with weights and buffers of its own."""
    found = {name: played(name, world.rank) for name in GAMES}
    return found | {"collectives": collectives(folder, world), "draws of modules": draws_of_modules()}


def collectives(folder: Path, world: World) -> dict[str, Any]:
    """What every collective operation returns."""
    own = torch.arange(4.0) + 10 * world.rank
    rows = own.view(2, 2).clone().requires_grad_()
    everyones = distributed.all_rows(rows, world)
    (everyones * torch.arange(8.0).view(4, 2)).sum().backward()
    with distributed.first_process_first():
        first = folder / "first"
        came_first = not first.exists()
        first.touch()
    return {
        "world": tuple(distributed.world()),
        "sum": distributed.sum_(own.clone(), world.size),
        "max": distributed.max_(-own, world.size),
        "broadcast": distributed.broadcast_(own.clone(), world.size),
        "broadcast of columns": distributed.broadcast_(own.view(2, 2).clone().T, world.size),
        "std": distributed.std(own.view(2, 2), world),
        "rows": everyones.detach(),
        "gradient of rows": rows.grad,
        "came first": came_first,
        "backend": dist.get_backend(),
    }


def flat(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """Nested results as tensors by their names."""
    if not isinstance(value, dict):
        return {prefix: torch.as_tensor(value)}
    return {name: tensor for key, inner in value.items() for name, tensor in flat(inner, f"{prefix}/{key}").items()}


@pytest.mark.parametrize("name", [name for name in GAMES if name != "fp16"])
def test_two_processes_are_one(name: str, ranks: list[dict]) -> None:
    """They begin with weights and buffers of their own, and play the first one's."""
    alone = flat(played(name, seed=0))
    for rank in ranks:
        found = flat(rank[name])
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-8, atol=1e-10, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("name", GAMES)
def test_both_processes_have_the_same_bits(name: str, ranks: list[dict]) -> None:
    one, other = (flat(rank[name]) for rank in ranks)
    assert not [key for key in one if not torch.equal(one[key].nan_to_num(7.0), other[key].nan_to_num(7.0))]


@pytest.mark.parametrize("name", NOT_FINITE)
def test_what_one_process_has_that_is_not_finite_withholds_the_update_on_both(name: str, ranks: list[dict]) -> None:
    bad = DATA[:, 0] > HIGH
    game = trainer(name, seed=0)
    halves = [game._game.real_rows(DATA, index, 0, ROWS)[:, 0].view(2, -1) > HIGH for index in map(at, range(STEPS))]
    assert bad.any() and any(half.any(1).sum() == 1 for half in halves), "a batch with such rows in one half alone"
    assert 0 < ranks[0][name]["skipped"] == ranks[1][name]["skipped"]


def test_modules_draw_numbers_of_their_own_on_every_process(ranks: list[dict]) -> None:
    """In every update, and every process others; torch's own generator is left where it was."""
    one, other = (rank["draws of modules"] for rank in ranks)
    alone = draws_of_modules()
    for network in ("generator", "critic"):
        first, second = ([tuple(row) for noise in found[network] for row in noise.tolist()] for found in (one, other))
        assert len(first) == len(second) > 0
        assert len({*first, *second}) == 2 * len(first), "no row is drawn twice"
    assert torch.equal(one["after"][0], alone["after"][0]) and torch.equal(other["after"][0], alone["after"][0])


def test_collectives(ranks: list[dict]) -> None:
    one, other = (rank["collectives"] for rank in ranks)
    assert [one.pop("world"), other.pop("world")] == [(0, 2), (1, 2)]
    assert [one.pop("came first"), other.pop("came first")] == [True, False]
    assert one.pop("backend") == other.pop("backend") == "gloo"
    halves = one.pop("gradient of rows"), other.pop("gradient of rows")
    assert torch.equal(torch.cat(halves), torch.arange(8.0).view(4, 2)), "of its own rows alone"
    own = torch.arange(4.0)
    whole = torch.cat([own, own + 10])
    expected = {"sum": 2 * own + 10, "max": -own, "broadcast": own, "std": whole.std(), "rows": whole.view(4, 2)}
    expected["broadcast of columns"] = own.view(2, 2).T
    for found in (one, other):
        torch.testing.assert_close(found, expected)
