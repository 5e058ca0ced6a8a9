"""What a checkpoint holds of networks: extra states, buffers of every kind, a whole average; and where it may stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fastgan
from fastgan import Trainer
from fastgan.training import checkpoint
from fastgan.training.checkpoint import CheckpointError
from tests.training.runs import POINTS, critic, trained, trainer_of

pytestmark = pytest.mark.usefixtures("one_thread")

# extra states and unusual buffers


class Counted(nn.Module):
    """Keeps a state that is no buffer."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.layer, self.state = nn.Linear(8, 8), state

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


def with_state(state: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 8), Counted(state), nn.Linear(8, 8))


STATES: dict[str, Any] = {
    "a dict": {"steps": 3, "alpha": 0.25, "names": ["a", "b"], "of": {"pair": (1, None)}},
    "a number": 7,
    "a text": "warm",
    "nothing": None,
    "a tensor": torch.arange(6).view(2, 3),
    "a dict with tensors": {"mean": torch.linspace(0, 1, 5, dtype=torch.float64)[::2], "on": torch.tensor(True)},
    "bytes": b"\x00\xff",
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_an_extra_state_is_saved_and_loaded(state: Any, tmp_path: Path) -> None:
    trainer = trainer_of(with_state(state), ema=0.5)
    trainer.fit(POINTS, steps=2, batch_size=4, out=tmp_path / "run", progress=False)
    loaded = Trainer.load(tmp_path / "run", with_state("another")(), critic(), device="cpu")
    assert repr(loaded.generator[1].state) == repr(state)
    other = trainer_of(with_state("another"), ema=0.5).attach(POINTS, 4)
    other.restore(tmp_path / "run")
    assert repr(other.generator[1].state) == repr(state)
    twin = trainer_of(with_state("third"), ema=0.5)
    twin.load_state_dict(trainer.state_dict())
    assert repr(twin.generator[1].state) == repr(state)


class Handle:
    """Something that only unpickling brings back."""


@pytest.mark.parametrize(
    ("state", "named"),
    [
        pytest.param(Handle(), "Handle", id="an object"),
        pytest.param({"inner": [1, {"deep": Handle()}]}, "Handle", id="an object inside"),
        pytest.param(lambda x: x, "function", id="a function"),
        pytest.param(__import__("numpy").zeros(3), "ndarray", id="an array"),
    ],
)
def test_an_extra_state_that_no_checkpoint_holds_is_refused_before_a_folder_is_claimed(state: Any, named: str, tmp_path: Path):
    trainer = trainer_of(with_state(state))
    with pytest.raises(CheckpointError, match=f"generator's module '1' keeps, _extra_state with a {named} in it"):
        trainer.fit(POINTS, steps=2, batch_size=4, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists() and trainer.step_count == 0
    trainer.fit(POINTS, steps=2, batch_size=4, progress=False)  # what is never saved trains
    trainer.generator[1].state = None
    trainer.save(tmp_path / "saved")
    trainer.generator[1].state = state
    with pytest.raises(CheckpointError, match=named):
        trainer.save(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"], "nothing is begun, and the old one stands"
    Trainer.load(tmp_path / "saved", with_state(1)(), critic(), device="cpu")


def test_a_checkpoint_without_an_extra_state_names_it(tmp_path: Path) -> None:
    class Plain(Counted):
        get_extra_state = nn.Module.get_extra_state

    trainer_of(lambda: nn.Sequential(nn.Linear(4, 8), Plain(0), nn.Linear(8, 8))).save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"generator's 1\._extra_state is absent there"):
        Trainer.load(tmp_path / "saved", with_state(1)(), critic(), device="cpu")


class Buffers(nn.Module):
    """Every kind of buffer that people register."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.first.bias.requires_grad_(False)
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("count", torch.tensor(3, dtype=torch.int32))
        self.register_buffer("empty", torch.zeros(0, 2))
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
        self.register_buffer("short", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("waves", torch.tensor([1 + 2j], dtype=torch.complex128))
        self.register_buffer("graph", torch.eye(3).to_sparse())
        self.register_buffer("alias", self.count)
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.third(self.second(self.norm(self.first(z)))))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_buffers_of_every_kind_come_back(tmp_path: Path) -> None:
    trainer = trainer_of(Buffers)
    with torch.no_grad():
        for name, buffer in trainer.generator.named_buffers():
            if name in ("flag", "count", "turned", "short", "waves"):
                buffer.copy_(torch.zeros_like(buffer))
    saved = {name: value.clone() for name, value in trainer.generator.state_dict().items()}
    trainer.save(tmp_path / "saved")
    loaded = Trainer.load(tmp_path / "saved", Buffers(), critic(), device="cpu")
    found = loaded.generator.state_dict()
    assert found.keys() == saved.keys() and "cache" not in found
    for name, value in saved.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name].to_dense(), value.to_dense()), name


# the average is a whole generator


def averaged_generators() -> dict[str, Callable[[], nn.Module]]:
    def frozen() -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        module[0].requires_grad_(False)
        return module

    def tied() -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 8, bias=False))
        module[3].weight = module[1].weight
        return module

    def normed() -> nn.Module:
        return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.SiLU(), nn.Linear(8, 8))

    return {"batch norm, frozen weights": frozen, "tied weights": tied, "parametrized weights": normed}


@pytest.mark.parametrize("make", averaged_generators().values(), ids=averaged_generators())
def test_the_average_loads_into_a_plain_generator_and_makes_its_samples(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    trainer = trained(make, ema=0.5)
    trainer.step(3)
    trainer.save(tmp_path / "saved")
    weights, average = (load_file(tmp_path / "saved" / f"{name}.safetensors") for name in ("generator", "average"))
    plain = make()
    plain.load_state_dict(average, strict=True)
    assert average.keys() == weights.keys() == make().state_dict().keys()
    for (name, parameter), value in zip(trainer.generator.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(value, parameter) != parameter.requires_grad, name
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(plain.buffers(), trainer.generator.buffers(), strict=True))
    latents = trainer._game.latents(_previewed(trainer), 5, fastgan.ops.sample.Role.PREVIEW)
    torch.testing.assert_close(plain.eval()(latents), trainer.sample(5), rtol=1e-6, atol=1e-6)


def _previewed(trainer: Trainer) -> Any:
    return fastgan.ops.sample.Draws(trainer.seed, 0, dtype=torch.float32)


# folders that are no checkpoints


def test_nothing_but_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    trainer, project = trained(), tmp_path / "project"
    project.mkdir()
    (project / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"is no checkpoint and was left untouched, it has thesis.txt"):
        trainer.save(project)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is no checkpoint and was left untouched"):
        trainer.save(tmp_path / "file")
    assert (project / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "project"]


def test_a_damaged_checkpoint_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    trainer = trained(ema=0.5)
    (tmp_path / "saved").mkdir()
    trainer.save(tmp_path / "saved")
    (tmp_path / "saved" / checkpoint.MANIFEST).unlink()
    trainer.save(tmp_path / "saved")
    checkpoint.verify(tmp_path / "saved")
