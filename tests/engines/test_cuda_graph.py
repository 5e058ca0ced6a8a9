"""Captured steps. A CPU has no graphs: there, a recorder that runs a capture's lines at each replay shows all but the capture.

What such a recording reads of the host stays as it was when it was made, as in a graph: the step's number must come from the
device's counter, and a penalty that is due at each third update needs graphs of its own.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan import Trainer, optim, penalties
from fastgan.engines import cuda_graph
from fastgan.engines.cuda_graph import Captured
from fastgan.mlp import MLP
from fastgan.runtime.distributed import World

ROWS = 8


def data() -> Tensor:
    return torch.linspace(-1, 1, 80).sin().view(20, 4)


def networks() -> tuple[MLP, MLP]:
    torch.manual_seed(7)
    return MLP((3, 9, 7, 4), output="tanh"), MLP((4, 8, 6, 1), activation="leaky_relu", dropout=0.25)


def test_a_capture_collects_no_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    replay, collects = object(), []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=replay))
    for name in ("graph", "device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())

    def run() -> Tensor:
        collects.append(gc.isenabled())
        return torch.zeros(1)

    assert cuda_graph.record(run, None, SimpleNamespace(device="cuda"))[0] is replay
    assert collects == [False] and gc.isenabled()
    with pytest.raises(KeyError), cuda_graph.uncollected():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with cuda_graph.uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


class Normed(nn.Sequential):
    """A generator with buffers: batch norm."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh())


def normed_networks() -> tuple[Normed, MLP]:
    critic = networks()[1]
    return Normed(), critic


def rerun(run: Callable[[], Tensor], pool: Any, stream: Any) -> tuple[Callable[[], None], Tensor]:
    """A recorder that replays by running again. Like a capture it changes nothing when it is made."""
    values = torch.full((7,), torch.nan, dtype=torch.float64)

    def replay() -> None:
        values.copy_(run())

    return replay, values


def trained(monkeypatch: pytest.MonkeyPatch, captured: bool, strides: list[int], **options: Any) -> tuple[Trainer, list]:
    monkeypatch.setattr(cuda_graph, "record", rerun)
    given = options.pop("networks", networks)()
    trainer = Trainer(*given, precision="fp64", device="cpu", **options)
    if captured:
        trainer._runner.player = Captured(trainer._runner.engine, trainer._game, 4)
    trainer.attach(data(), ROWS)
    return trainer, [{name: float(value) for name, value in trainer.step(n).items()} for n in strides]


GAMES = [
    pytest.param(dict(ema=0.9), id="the article's game, an average"),
    pytest.param(dict(loss="wgan-gp"), id="wgan-gp"),
    pytest.param(
        dict(
            loss="relativistic",
            penalty=[penalties.R1(2.0, every=3), penalties.R2(4.0)],
            d_steps=2,
            g_optimizer=optim.Adam(optim.cosine(1e-3, 1e-4, steps=9)),
        ),
        id="a lazy penalty, a schedule",
    ),
    pytest.param(dict(engine="autograd"), id="autograd"),
    pytest.param(dict(engine="autograd", loss="wgan-gp", networks=normed_networks), id="autograd, batch norm, wgan-gp"),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", GAMES)
def test_replayed_steps_are_the_eager_ones(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    strides = [1, 9, 4, 2]  # graphs of four steps, and of one
    (one, expected), (other, found) = (trained(monkeypatch, captured, strides, **options) for captured in (False, True))
    assert other._runner.player.graphs and other._runner.player.problem is None
    assert other.step_count == one.step_count == sum(strides)
    states, others = one.state_dict(), other.state_dict()
    for part in ("generator", "discriminator", "g_optimizer", "d_optimizer"):
        for name, value in states[part].items():
            assert torch.equal(others[part][name], value), f"{part} {name}"
    assert found == expected
    assert other.skipped == one.skipped == 0
    assert other._runner.player.counter == 16


def test_replays_one_after_another_go_on_counting_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host tells a number only where a step is not the next one."""
    trainer, _ = trained(monkeypatch, True, [4, 4])
    player, told = trainer._runner.player, []
    player.counter = SimpleNamespace(fill_=told.append)
    for key, graph in player.graphs.items():
        player.graphs[key] = graph._replace(replay=lambda: None)
    for step in (8, 12, 20, 24):
        player.play(trainer._data.images, step, 4, ROWS)
    assert told == [20]


def test_what_is_not_finite_is_counted_by_replays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trained(monkeypatch, True, [4])
    with torch.no_grad():
        trainer.discriminator.layers[-1].bias.fill_(torch.inf)
    trainer.step(4)
    assert trainer.skipped == 8, "four steps of two updates"


def test_capturing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, critic = Normed(), networks()[1]
    trainer = Trainer(generator, critic, precision="fp64", device="cpu", ema=0.5).attach(data(), ROWS)
    before = {name: value.clone() for name, value in trainer.state_dict()["generator"].items()}
    state = torch.get_rng_state()
    player = Captured(trainer._runner.engine, trainer._game, 4)
    monkeypatch.setattr(cuda_graph, "record", rerun)
    player._graph(trainer._data.images, 0, 4, ROWS)
    after = trainer.state_dict()
    assert all(torch.equal(after["generator"][name], value) for name, value in before.items())
    assert all(int(after[f"{side}_optimizer"]["count"]) == 0 for side in "gd")
    assert not any(after["g_optimizer"]["state.0"]) and torch.equal(torch.get_rng_state(), state)
    assert trainer.skipped == 0


def test_a_lazy_penalty_has_a_graph_with_it_and_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trained(monkeypatch, True, [1] * 6, penalty=penalties.R1(1.0, every=3))
    assert len(trainer._runner.player.graphs) == 2


def test_another_batch_size_or_data_set_is_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trained(monkeypatch, True, [4])
    trainer.attach(data().flip(0), 4).step(4)
    twin, _ = trained(monkeypatch, False, [4])
    twin.attach(data().flip(0), 4).step(4)
    assert torch.equal(trainer._game.generator.weight, twin._game.generator.weight)


def pixels() -> Tensor:
    return torch.arange(80, dtype=torch.uint8).mul(3).view(20, 4)


OTHERS: dict[str, Callable[[Tensor], tuple[Tensor, int]]] = {
    "another address": lambda images: (images.flip(0), ROWS),
    "fewer images at the same address": lambda images: (images[:9], ROWS),
    "another dtype at the same address": lambda images: (images.view(torch.int8), ROWS),
    "other rows": lambda images: (images, 4),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_graph_is_of_one_data_set_and_batch_size(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back and forth between two of them, each step is the eager one."""
    weights = []
    for captured in (False, True):
        trainer, _ = trained(monkeypatch, captured, [], engine="autograd")
        player, images, step = trainer._runner.player, pixels(), 0
        for given, rows in 2 * [(images, ROWS), other(images)]:
            for _ in range(4 // player.stride):
                step += player.play(given, step, 4 if captured else 1, rows)[0]
        weights.append(trainer._game.generator.weight)
        if captured:
            assert len(player.graphs) == 2
    assert step == 16 and torch.equal(*weights)


@pytest.mark.parametrize(
    ("every", "d_steps", "count"),
    [((4,), 2, 2), ((3,), 2, 3), ((2, 3), 1, 4), ((), 2, 1)],
    ids=str,
)
def test_there_are_as_many_graphs_as_arrangements(
    every: tuple, d_steps: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the penalties that are due in a step's updates; and each step has those of its own."""
    lazy = [penalties.R1(1.0 + k, every=k) for k in every]
    weights = []
    for captured in (False, True):
        trainer, _ = trained(monkeypatch, captured, [1] * 7, penalty=lazy, d_steps=d_steps, engine="autograd")
        weights.append(trainer._game.discriminator.weight)
    assert len(trainer._runner.player.graphs) == count
    assert torch.equal(*weights)


def test_metrics_stay_what_they_were_when_the_next_steps_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trained(monkeypatch, True, [4])
    metrics = trainer.step(4)
    before = {name: float(value) for name, value in metrics.items()}
    assert {name: float(value) for name, value in trainer.step(4).items()} != before
    assert {name: float(value) for name, value in metrics.items()} == before


def test_graphs_of_one_step_and_of_several_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trained(monkeypatch, True, [1, 4, 1, 4, 3, 8])
    assert len(trainer._runner.player.graphs) == 2 and trainer.step_count == 21
    whole, _ = trained(monkeypatch, False, [21])
    assert torch.equal(trainer._game.generator.weight, whole._game.generator.weight)


def test_modules_that_draw_are_seeded_once_by_step_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph moves torch's generator on by itself; a state that was loaded is not seeded over."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "device", lambda *_: nullcontext())
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([5], dtype=torch.uint8))
    states: list[Tensor] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.append(state))

    def player(seed: int, rank: int = 0) -> Captured:
        trainer, _ = trained(monkeypatch, True, [], seed=seed)
        trainer._game.world = World(rank, 2)
        trainer._runner.player._moves_generator = True
        return trainer._runner.player

    for seed, rank, step in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]:
        of = player(seed, rank)
        for _ in range(2):
            of._seed(step)
    assert len(seeds) == len(set(seeds)) == 4
    of = player(0)
    assert of.state_dict()["random"].tolist() == [5]
    of.load_state_dict({"random": torch.tensor([7], dtype=torch.uint8)})
    of._seed(0)
    assert len(seeds) == 4 and [state.tolist() for state in states] == [[7]]
    assert "random" not in trained(monkeypatch, True, [])[0]._runner.player.state_dict()


def test_graphs_of_buffers_that_are_gone_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back at the first batch size, on the same data, its first graph would write into memory that was freed."""
    trainer, _ = trained(monkeypatch, True, [4])
    images = trainer._data.images
    for rows in (4, ROWS):
        before = dict(trainer._runner.player.graphs)
        trainer.attach(images, rows).step(4)
        assert trainer._data.images.data_ptr() == images.data_ptr()
        assert not any(graph is old for graph in trainer._runner.player.graphs.values() for old in before.values())


def test_weights_loaded_between_replays_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for captured in (False, True):
        trainer, _ = trained(monkeypatch, captured, [4])
        torch.manual_seed(3)
        trainer.discriminator.load_state_dict(
            {name: torch.randn_like(p) for name, p in trainer.discriminator.state_dict().items()}
        )
        trainer.step(4)
        trainer.step_count = 2  # and a step's number that is not the next one
        trainer.step(4)
        runs.append(trainer._game.discriminator.weight)
    assert torch.equal(*runs)


def test_steps_that_cannot_be_captured_run_eagerly(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(run: Callable[[], Tensor], pool: Any, stream: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    whole, _ = trained(monkeypatch, False, [5])
    trainer, _ = trained(monkeypatch, True, [])
    monkeypatch.setattr(cuda_graph, "record", refuse)
    trainer.step(5)
    assert trainer._runner.player.problem == "RuntimeError: operation not permitted when stream is capturing"
    assert sum("could not be captured" in record.message for record in caplog.records) == 1
    assert trainer.stride == 1 and trainer.step_count == 5
    assert torch.equal(trainer._game.generator.count, whole._game.generator.count)


@pytest.mark.slow
def test_fit_takes_strides_between_what_it_has_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    trainer, _ = trained(monkeypatch, True, [])
    step, taken = trainer.step, []
    monkeypatch.setattr(trainer, "step", lambda n=1: taken.append(n) or step(n))
    out = tmp_path / "run"
    trainer.fit(data(), steps=21, batch_size=ROWS, out=out, log_every=10, sample_every=0, checkpoint_every=7, progress=False)
    assert sum(taken) == 21 and max(taken) == 4
    ends = {sum(taken[: count + 1]) for count in range(len(taken))}
    assert {7, 10, 14, 20} <= ends
