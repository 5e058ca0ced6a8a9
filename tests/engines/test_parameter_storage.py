"""A network that a trainer has taken is saved, copied and shared like any other: at its own size, and independent."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model, save_model
from torch import nn

import fastgan
from fastgan import Trainer
from fastgan.engines.flat_network import FlatNetwork
from fastgan.optim import SGD


class Tied(nn.Module):
    """A parameter under two names, an empty one, one of no dimension, and a frozen one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5, dtype=dtype), nn.Linear(5, 5, dtype=dtype)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=dtype))
        self.nothing = nn.Parameter(torch.zeros(0, 3, dtype=dtype))
        self.norm = nn.BatchNorm1d(5, dtype=dtype)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.first(x))) * self.scale


def saved_size(value: object) -> int:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.tell()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_parameter_has_a_storage_of_its_own_size(dtype: torch.dtype) -> None:
    module = Tied(dtype)
    flat = FlatNetwork(module, SGD(0.1))
    for parameter in module.parameters():
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()
        assert parameter.is_contiguous() and parameter.storage_offset() == 0
    for offset, parameter in zip(flat.offsets, flat.parameters, strict=True):
        if parameter.numel():
            assert parameter.data_ptr() == flat.weight.data_ptr() + offset * flat.weight.element_size()


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(lambda module: module, id="the module"),
        pytest.param(lambda module: module.first, id="a layer"),
        pytest.param(lambda module: module.second.state_dict(), id="a layer's state dict"),
        pytest.param(lambda module: module.scale, id="a parameter"),
    ],
)
def test_what_is_saved_of_a_network_has_its_normal_size(part: Callable) -> None:
    module = Tied()
    normal = saved_size(part(copy.deepcopy(module)))
    flat = FlatNetwork(nn.ModuleList([module, nn.Linear(300, 300)]), SGD(0.1))
    assert flat.weight.numel() > 90_000 and saved_size(part(module)) == normal


def test_safetensors_saves_and_loads_a_model_after_training(tmp_path: Path) -> None:
    module, other = Tied(), Tied()
    flat = FlatNetwork(module, SGD(0.1))
    flat.gradient.fill_(1.0)
    flat.update(torch.tensor(False), 0)
    save_model(module, str(tmp_path / "model.safetensors"))
    load_model(other, str(tmp_path / "model.safetensors"))
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in other.state_dict().items())
    assert set(load_file(tmp_path / "model.safetensors")) == set(module.state_dict()) - {"second.weight"}
    FlatNetwork(other, SGD(0.1))
    load_model(other, str(tmp_path / "model.safetensors"))


def test_parameters_outlive_their_buffer() -> None:
    module = Tied()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flat = FlatNetwork(module, SGD(0.1))
    del flat
    gc.collect()
    others = [torch.full((64,), float("nan")) for _ in range(500)]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert len(others) == 500


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": lambda module: torch.load(_stream(module), weights_only=False),
}


def _stream(module: nn.Module) -> io.BytesIO:
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    return stream


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("engine", ["closed-form", "autograd"])
def test_a_copy_of_a_trained_network_is_independent(how: Callable[[nn.Module], nn.Module], engine: str) -> None:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh())
    critic = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    points = torch.linspace(-1, 1, 80).view(20, 4)
    trainer = Trainer(generator, critic, engine=engine, device="cpu").attach(points, 4)
    trainer.step()
    copied = how(generator)
    then = [parameter.detach().clone() for parameter in generator.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(copied.parameters(), then, strict=True))
    trainer.step(2)
    assert all(torch.equal(one, other) for one, other in zip(copied.parameters(), then, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(generator.parameters(), then, strict=True))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(7.0)
    assert not any((parameter == 7.0).any() for parameter in generator.parameters())
    again = Trainer(copied, copy.deepcopy(critic), engine=engine, device="cpu").attach(points, 4)
    again.step()
    assert again.engine == engine


def test_sharing_memory_moves_the_values_and_training_goes_on() -> None:
    module = Tied()
    flat = FlatNetwork(module, SGD(0.5))
    with torch.no_grad():
        module.share_memory()
        module.scale.fill_(3.0)
    flat.ensure_views()
    flat.gradient.fill_(1.0)
    flat.update(torch.tensor(False), 0)
    assert module.scale == 2.5


def test_parameters_that_changed_places_keep_their_values() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    flat = FlatNetwork(module, SGD(0.5))
    wanted = [module[2].weight.detach().clone(), module[0].weight.detach().clone()]
    module[0], module[2] = module[2], module[0]
    flat.ensure_views()
    assert torch.equal(module[0].weight, wanted[0]) and torch.equal(module[2].weight, wanted[1])
    assert torch.equal(flat.views(flat.weight)[0], wanted[0])


@pytest.mark.parametrize("build", [lambda: fastgan.Generator(4, image_size=4), lambda: fastgan.Discriminator(image_size=4)])
def test_a_network_is_built_without_memory_and_takes_trained_weights(build: Callable[[], nn.Module]) -> None:
    trained = build()
    FlatNetwork(trained, SGD(0.1))
    with torch.device("meta"):
        empty = build()
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert not empty.is_untouched()
    empty.load_state_dict({name: value.clone() for name, value in trained.state_dict().items()}, assign=True)
    rows = torch.ones(3, 4)
    assert torch.equal(empty.eval()(rows), trained.eval()(rows))
    moved = trained.to("meta")
    assert {parameter.device.type for parameter in moved.parameters()} == {"meta"}
