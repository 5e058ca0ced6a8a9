"""The closed form over Triton's kernels: the same steps as over torch's own products, in every game, at odd shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fastgan.kernels import tiles
from fastgan.kernels.launch import INTERPRETED
from torch import Tensor

from fastgan import Trainer, optim, penalties
from fastgan.chain.triton_tiles import TritonProducts
from fastgan.engines import cuda_graph
from fastgan.engines.closed_form.fused_passes import FusedPasses
from fastgan.mlp import MLP
from fastgan.ops import backend
from fastgan.ops.sample import Draws

PIXELS, Z = 43, 5


class Odd(penalties.R1):
    """A penalty with a derivative of its own, which no kernel knows."""

    def value(self, gradient: Tensor) -> Tensor:
        return self.gamma * gradient.pow(4).sum(1).mean()

    def penalty_gradient(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]:
        return times * self.value(gradient), times * self.gamma * 4 / len(gradient) * gradient.pow(3)


class Halfway(penalties.GradientPenalty):
    """A penalty at points of its own choice."""

    def points(self, real: Tensor, fake: Tensor, draws: Draws, index: int) -> Tensor:
        return 0.5 * (real + fake)


def networks(d_hidden: tuple[int, ...] = (70, 33), g_hidden: tuple[int, ...] = (20, 65), **options: Any) -> tuple[MLP, MLP]:
    torch.manual_seed(7)
    critic = dict(activation="leaky_relu", dropout=0.25) | options.get("d", {})
    generator = MLP((Z, *g_hidden, PIXELS), **(dict(output="tanh") | options.get("g", {})))
    return generator, MLP((PIXELS, *d_hidden, 1), **critic)


def data(dtype: torch.dtype) -> Tensor:
    images = torch.linspace(0, 40 * PIXELS, 29 * PIXELS).sin().view(29, PIXELS)
    return images if dtype == torch.float32 else ((images + 1) * 127).to(dtype)


def trainer_of(
    monkeypatch: pytest.MonkeyPatch, name: str, device: torch.device, precision: str, rows: int, options: dict, shape: dict
) -> Trainer:
    monkeypatch.setattr(backend, "FORCED", name)  # until the test ends: a trainer asks when it makes buffers, too
    given = options | dict(precision=precision, device=device, engine="closed-form", capture="off")
    return Trainer(*networks(**shape), **given).attach(data(options.get("dtype", torch.float32)), rows)


def poison(trainer: Trainer) -> None:
    """Fills what a step should write before it reads it with nan; the zeros around it stay."""
    step = trainer._runner.engine
    step._make_buffers(trainer._rows)
    for passes in (step.generator, step.critic, *step.critic_passes):
        assert isinstance(passes, FusedPasses)
        sizes = [passes.products.shapes[0][1], *(outputs for outputs, _ in passes.products.shapes)]
        for operand, width in zip(passes.inputs, sizes[:-1], strict=True):
            operand[:, :width] = math.nan
        last = None if not passes.is_critic else -1  # a critic's U_L is a constant
        for operand, width in zip(passes.adjoints[:last], sizes[1:last], strict=False):
            operand[:, :width] = math.nan
        if passes.is_critic:
            passes.critic.gradient[:, :PIXELS] = math.nan
            for operand, width in zip(passes.critic.tangents, sizes[1:-1], strict=True):
                operand[:, :width] = math.nan
            for part in passes.critic.partials:
                part.fill_(math.nan)
        else:
            passes.output.fill_(math.nan)
        passes.log.records.fill_(math.nan)


# for what does not depend on the sizes: the interpreter's time does
SMALL: dict = dict(d_hidden=(20, 9), g_hidden=(12,))
SGD = dict(g_optimizer=optim.SGD(0.05), d_optimizer=optim.SGD(0.05))
GAMES = [
    pytest.param(dict(loss="nonsaturating", ema=0.9, **SGD), {}, id="the article's game, an average"),
    pytest.param(dict(loss="nonsaturating", dtype=torch.uint8), dict(g=dict(dropout=0.3)), id="pixels, dropout in both"),
    pytest.param(dict(loss="minimax", d_steps=3, **SGD), dict(d=dict(dropout=None)), id="minimax, three D updates"),
    pytest.param(dict(loss="lsgan", **SGD), dict(g=dict(output="sigmoid"), d_hidden=(50,)), id="lsgan, one hidden layer"),
    pytest.param(dict(loss="hinge", **SGD), dict(g=dict(output="identity"), d_hidden=(40, 30, 20, 140)), id="hinge, deep"),
    pytest.param(dict(loss="wgan", d_steps=2), dict(d=dict(bias=False)), id="wgan: RMSprop and clipping, no biases"),
    pytest.param(dict(loss="wgan-gp", d_steps=3, dtype=torch.uint8, **SGD), {}, id="wgan-gp"),
    pytest.param(
        dict(loss="wgan", penalty=penalties.GradientPenalty(5.0, 0.02, True, every=2), d_steps=3, **SGD),
        dict(d_hidden=(50,)),
        id="a one-sided penalty at each second update",
    ),
    pytest.param(
        dict(loss="relativistic", penalty=[penalties.R1(2.0, every=3), penalties.R2(4.0), penalties.R1(3.0)], **SGD),
        {},
        id="relativistic, R1 twice and lazily, R2",
    ),
    pytest.param(
        dict(
            loss="relativistic-average",
            penalty=[penalties.DRAGAN(2.0, every=2), penalties.GradientPenalty(3.0), Odd(0.5), Halfway(2.0)],
            d_steps=2,
            **SGD,
        ),
        {},
        id="relativistic average, DRAGAN, penalties that no kernel knows",
    ),
    pytest.param(
        dict(loss="nonsaturating", g_optimizer=optim.Adam(optim.cosine(1e-3, 1e-4, steps=5)), d_optimizer=optim.Adam(1e-3)),
        dict(g=dict(activation="leaky_relu", negative_slope=0.4, dropout=0.1), d=dict(activation="relu")),
        id="Adam, a schedule, other units",
    ),
]


def check_steps(
    options: dict, shape: dict, rows: int, device: torch.device, monkeypatch: pytest.MonkeyPatch, steps: int = 3
) -> None:
    """Steps over Triton's kernels, on poisoned buffers, equal those of the reference in fp64."""
    options = dict(options)
    dtype = options.pop("dtype", torch.float32)
    fused = trainer_of(monkeypatch, "triton", device, "fp32", rows, options, shape).attach(data(dtype), rows)
    poison(fused)
    metrics = {name: float(value) for name, value in fused.step(steps).items()}
    assert all(isinstance(products, TritonProducts) for products in fused._runner.engine.products)
    exact = trainer_of(monkeypatch, "reference", torch.device("cpu"), "fp64", rows, options, shape).attach(data(dtype), rows)
    expected = {name: float(value) for name, value in exact.step(steps).items()}
    for mine, theirs in zip(fused._runner.engine.networks, exact._runner.engine.networks, strict=True):
        assert int(mine.count) == int(theirs.count)
        torch.testing.assert_close(mine.weight.double().cpu(), theirs.weight, rtol=1e-4, atol=3e-5)
        if theirs.ema is not None:
            torch.testing.assert_close(mine.ema.double().cpu(), theirs.ema, rtol=1e-4, atol=3e-5)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name
    assert fused.skipped == 0


@pytest.mark.parametrize(("options", "shape"), GAMES)
def test_three_steps_are_the_references(
    options: dict, shape: dict, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_steps(options, shape, 7, device, monkeypatch)


@pytest.mark.parametrize("rows", [1, 16])
def test_one_row_and_whole_tiles(rows: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    check_steps(dict(loss="wgan-gp", d_steps=1, **SGD), {}, rows, device, monkeypatch)


@pytest.mark.parametrize("where", ["D's last bias", "a weight of G", "a pixel"])
def test_what_is_not_finite_holds_an_update_back(where: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(monkeypatch, "triton", device, "fp32", 7, dict(loss="wgan-gp", d_steps=2), SMALL)
    trainer.step(2)
    with torch.no_grad():
        if where == "D's last bias":
            trainer.discriminator.layers[-1].bias.fill_(math.inf)
        elif where == "a weight of G":
            trainer.generator.layers[0].weight[0, 0] = math.nan
        else:
            trainer._data.images[:, 3] = math.nan
    before = {name: x.clone() for part in ("g_optimizer", "d_optimizer") for name, x in trainer.state_dict()[part].items()}
    weights = trainer._game.discriminator.weight.clone()
    trainer.step()
    after = {name: x for part in ("g_optimizer", "d_optimizer") for name, x in trainer.state_dict()[part].items()}
    assert trainer.skipped >= {"D's last bias": 3, "a weight of G": 3, "a pixel": 2}[where]
    if where != "a pixel":  # the generator's update sees no pixels
        assert all(torch.equal(after[name], before[name]) for name in before)
    torch.testing.assert_close(trainer._game.discriminator.weight, weights, rtol=0, atol=0, equal_nan=True)


def test_one_gradient_that_is_not_finite_leaves_its_weight_alone(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and penalties are finite, the gradient of a weight overflows."""
    shape = dict(d=dict(dropout=None, activation="relu"))
    trainer = trainer_of(monkeypatch, "triton", device, "fp32", 7, dict(loss="wgan", d_steps=1, penalty=(), **SGD), shape)
    with torch.no_grad():
        for layer in trainer.discriminator.layers:
            layer.weight.mul_(1e-3)
        trainer.discriminator.layers[0].bias.fill_(1e38)
        trainer.discriminator.layers[1].weight[0].fill_(1e-38)
        trainer.discriminator.layers[2].weight[0, 0] = 30.0
    before = trainer._game.discriminator.weight.clone()
    trainer.step()
    after = trainer._game.discriminator.weight
    assert after.isfinite().all() and trainer.skipped > 0
    assert (after != before).any()


# the interpreter is slow, and the second one has all that a warm-up could change in the first
standard = pytest.param({}, marks=pytest.mark.skipif(INTERPRETED, reason="wgan-gp shows it"), id="standard")


@pytest.mark.parametrize("options", [standard, pytest.param(dict(loss="wgan-gp", d_steps=1), id="wgan-gp")])
def test_replays_are_the_eager_steps(options: dict, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm-up trains the copies of the weights that products read: they too must be what they were."""

    def rerun(run: Callable[[], Tensor], pool: Any, stream: Any) -> tuple[Callable[[], None], Tensor]:
        values = torch.zeros(7, device=device)

        def replay() -> None:
            values.copy_(run())

        return replay, values

    monkeypatch.setattr(cuda_graph, "record", rerun)
    eager, captured = (trainer_of(monkeypatch, "triton", device, "fp32", 7, options, SMALL) for _ in range(2))
    captured._runner.player = cuda_graph.Captured(captured._runner.engine, captured._game, 2)
    expected, found = eager.step(5), captured.step(5)
    assert captured._runner.player.problem is None and len(captured._runner.player.graphs) == 2
    for mine, theirs in zip(captured._runner.engine.networks, eager._runner.engine.networks, strict=True):
        assert torch.equal(mine.weight, theirs.weight) and torch.equal(mine.count, theirs.count)
    assert {name: float(value) for name, value in found.items()} == {name: float(value) for name, value in expected.items()}
    assert captured._runner.player.counter == 5


@pytest.mark.parametrize("shape", [dict(d_hidden=()), dict(g_hidden=())], ids=["a linear critic", "a linear generator"])
def test_a_network_of_one_layer_makes_both_take_torchs_products(
    shape: dict, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(monkeypatch, "triton", device, "fp32", 7, {}, shape)
    assert all(value.isfinite() for value in trainer.step(2).values())
    assert not any(isinstance(products, TritonProducts) for products in trainer._runner.engine.products)


def test_a_part_of_the_rows_at_a_time(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large batches: gradients in parts, then the optimizer's step on their sum, give what one launch gives."""
    weights = []
    for split in (4096, 16):
        monkeypatch.setattr("fastgan.kernels.tiles.SPLIT_ROWS", split)
        tiles.update_tile.cache_clear()
        trainer = trainer_of(monkeypatch, "triton", device, "fp32", 24, dict(loss="wgan-gp", d_steps=1, ema=0.5), SMALL)
        trainer.step(2)
        assert trainer._runner.engine.critic.updates.tile.splits == (1 if split == 4096 else 72 // 16)
        weights.append(torch.cat([trainer._game.discriminator.weight, trainer._game.generator.ema]))
        assert trainer._game.discriminator.count == 2
    tiles.update_tile.cache_clear()
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


# the interpreter runs programs one after the other: only a device could do it differently
in_any_order = pytest.mark.skipif(INTERPRETED, reason="the interpreter has one order of programs")


@pytest.fixture
def split_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Any]]:
    """Every product is split along its depth, however short; workspaces are poisoned before each launch, and yielded."""
    workspaces: set[Any] = set()
    workspace = TritonProducts._split_k_workspace

    def poisoned(products: TritonProducts, count: int, tile: Any) -> tuple[Tensor, Tensor]:
        parts, arrived = workspace(products, count, tile)
        workspaces.add(arrived)
        return parts.fill_(math.nan), arrived

    monkeypatch.setattr("fastgan.kernels.tiles.SAVED", 0)
    monkeypatch.setattr(TritonProducts, "_split_k_workspace", poisoned)
    tiles.product_tile.cache_clear()
    yield workspaces
    tiles.product_tile.cache_clear()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        pytest.param(dict(loss="wgan-gp", d_steps=1, **SGD), dict(g=dict(dropout=0.3)), id="tangents, dropout"),
        pytest.param(dict(loss="relativistic", penalty=penalties.R1(2.0), **SGD), {}, id="a tangent along the input gradient"),
        pytest.param(dict(loss="lsgan", **SGD), dict(g=dict(output="sigmoid"), d_hidden=(300,)), id="more parts than blocks"),
    ],
)
def test_products_split_along_their_depth(
    options: dict, shape: dict, device: torch.device, monkeypatch: pytest.MonkeyPatch, split_products: set[Any]
) -> None:
    check_steps(options, shape, 7, device, monkeypatch, steps=2)
    assert len(split_products) > 3 and not any(arrived.any() for arrived in split_products)


@in_any_order
def test_parts_are_added_in_their_order(
    device: torch.device, precision: str, monkeypatch: pytest.MonkeyPatch, split_products: set[Any]
) -> None:
    test_runs_repeat_bit_for_bit(device, precision, monkeypatch)
    assert split_products


@in_any_order
def test_runs_repeat_bit_for_bit(device: torch.device, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for _ in range(2):
        trainer = trainer_of(monkeypatch, "triton", device, precision, 7, dict(loss="wgan-gp", d_steps=2), SMALL)
        trainer.step(2)
        runs.append([*trainer.generator.parameters(), *trainer.discriminator.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
