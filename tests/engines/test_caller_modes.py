"""What a step depends on: not on the modes of torch that its caller is in, and never on nothing at all."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan import Trainer, optim, penalties
from fastgan.mlp import MLP

DATA = torch.rand(24, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1


def generator(*ends: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 6), *ends)


def critic(*ends: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 1), *ends)


def mlps() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return MLP((3, 8, 6)), MLP((6, 8, 1))


def modules() -> tuple[nn.Module, nn.Module]:
    return generator(), critic()


MODES: dict[str, Callable[[], AbstractContextManager]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("options", [{}, {"penalty": penalties.R1(1.0)}, {"precision": "bf16"}], ids=str)
@pytest.mark.parametrize("pair", [mlps, modules])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_step_is_the_same_in_every_mode_of_its_caller(
    mode: Callable[[], AbstractContextManager], pair: Callable[[], tuple[nn.Module, nn.Module]], options: dict[str, Any]
) -> None:
    def trained(within: Callable[[], AbstractContextManager]) -> list[Tensor]:
        trainer = Trainer(*pair(), seed=1, device="cpu", **options)
        with within():
            trainer.attach(DATA, 8).step(3)
        return [p.detach().clone() for network in (trainer.generator, trainer.discriminator) for p in network.parameters()]

    assert all(map(torch.equal, trained(mode), trained(nullcontext)))


class Detached(nn.Module):
    def __init__(self, how: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.how, self.network = how, network

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.network(x))


class Undifferentiated(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


WITHOUT = {
    "detach": lambda network: Detached(Tensor.detach, network),
    "no_grad": Undifferentiated,
    "sign": lambda network: Detached(lambda x: x.detach().sign(), network),
}


@pytest.mark.parametrize("make", WITHOUT.values(), ids=WITHOUT)
@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_a_network_without_a_gradient_is_refused(role: str, make: Callable[[nn.Module], nn.Module]) -> None:
    """It would stay as it is, and the run look like one that trains."""
    networks = {"generator": generator(), "discriminator": critic()}
    networks[role] = make(networks[role])
    trainer = Trainer(**networks, device="cpu")
    with pytest.raises(ValueError, match=f"no parameter of the {role} gets a gradient of its loss.*detached"):
        trainer.attach(DATA, 8).step()


class Reads(nn.Module):
    """A critic that its generator learns nothing from."""

    def __init__(self) -> None:
        super().__init__()
        self.network = critic()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.detach())


def test_a_critic_that_stops_the_generators_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter of the generator gets a gradient"):
        Trainer(generator(), Reads(), device="cpu").attach(DATA, 8).step()


class Rank(nn.Module):
    """Takes another kind of output in training."""

    def forward(self, x: Tensor) -> Any:
        return (x, x) if self.training else x


FAILING: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], dict[str, Any], int, str]] = {
    "batch norm of one row": (
        lambda: (generator(), critic(nn.BatchNorm1d(1))), {}, 1, "ValueError: Expected more than 1 value per channel"
    ),
    "another output in training": (lambda: (generator(), critic(Rank())), {}, 8, "Error: .*tuple"),
    "written over": (lambda: (generator(nn.Tanh(), nn.ReLU(inplace=True)), critic()), {}, 8, "modified by an inplace"),
    "no second derivative": (
        lambda: (generator(), critic(nn.Hardsigmoid())), {"penalty": penalties.R1(1.0), "loss": "hinge"}, 8,
        "hardsigmoid_backward.* is not implemented",
    ),
    "a batch's mean": (
        lambda: (generator(), Detached(lambda x: x.mean(0, keepdim=True), critic())), {"penalty": penalties.R1(1.0)}, 8, "logit"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("pair", "options", "rows", "words"), FAILING.values(), ids=FAILING)
def test_an_update_that_fails_is_refused_before_a_run_begins(
    pair: Callable[[], tuple[nn.Module, nn.Module]], options: dict[str, Any], rows: int, words: str, tmp_path: Path
) -> None:
    trainer = Trainer(*pair(), device="cpu", **options)
    with pytest.raises(ValueError) as caught:
        trainer.fit(DATA, steps=2, batch_size=rows, out=tmp_path / "run", progress=False)
    assert re.search(words, str(caught.value)) and "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()] and trainer.step_count == 0


class Locked(nn.Module):
    """Dropout of torch's, in a module that has no copy."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.network, self.calls = threading.Lock(), critic(nn.Dropout(0.5)), 0

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.network(x)


def test_a_module_that_holds_a_lock_has_draws_of_its_own() -> None:
    """So that other threads' draws change nothing."""
    runs = []
    for start in (0, 1):
        trainer = Trainer(generator(), Locked(), seed=1, device="cpu", d_optimizer=optim.Adam(1e-2)).attach(DATA, 8)
        assert trainer._runner.engine.own_draws is not None
        torch.manual_seed(start)
        trainer.step(2)
        runs.append([p.detach().clone() for p in trainer.discriminator.parameters()])
    assert all(map(torch.equal, *runs))


def test_frozen_networks_are_sampled_and_saved(tmp_path: Path) -> None:
    trainer = Trainer(*modules(), ema=0.9, device="cpu").attach(DATA, 8)
    trainer.step(2)
    samples = trainer.sample(3)
    trainer.save(tmp_path / "before")
    for network in (trainer.generator, trainer.discriminator):
        network.requires_grad_(False)
    assert torch.equal(trainer.sample(3), samples)
    trainer.save(tmp_path / "after")
    trainer.restore(tmp_path / "before")
    with pytest.raises(RuntimeError, match="changed its dtype, device or parameters"):
        trainer.step()
    for name in ("generator", "discriminator", "average"):
        assert (tmp_path / "after" / f"{name}.safetensors").read_bytes() == (
            tmp_path / "before" / f"{name}.safetensors"
        ).read_bytes()
    for network in (trainer.generator, trainer.discriminator):
        network.requires_grad_(True)
    trainer.step()


def test_networks_in_data_parallel_train() -> None:
    weights = []
    for wrap in (nn.DataParallel, lambda network: network):
        trainer = Trainer(wrap(generator()), wrap(critic()), seed=1, device="cpu").attach(DATA, 8)
        trainer.step(2)
        weights.append([p.detach().clone() for p in trainer.generator.parameters()])
        assert trainer.sample(3).shape == (3, 6)
    assert all(map(torch.equal, *weights))


def inference_critic() -> nn.Module:
    with torch.inference_mode():
        return critic()


def half_norm() -> nn.Module:
    network = critic(nn.BatchNorm1d(1))
    network[3].running_mean = network[3].running_mean.half()
    return network.eval()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(1)), r"discriminator's '0\.weight' has no size yet: call the network once"),
        (
            lambda: nn.Sequential(nn.Linear(6, 1, device="meta")),
            r"'0\.weight' is on the meta device: write discriminator\.to_empty",
        ),
        (inference_critic, r"'0\.weight' was made under torch\.inference_mode\(\)"),
        (half_norm, r"its '3\.running_mean' is torch\.float16, and its trained weights torch\.float32: make them alike"),
    ],
    ids=["lazy", "meta", "inference", "a half buffer"],
)
def test_what_cannot_be_trained_is_named(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Trainer(generator(), make(), device="cpu").attach(DATA, 8)
