"""Arguments of another kind: each is refused by its name, with what it got and what to write, before anything happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastgan import Trainer, losses, optim, penalties


def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16))


def critic() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 1))


def parameters() -> Any:
    return generator().parameters()


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "torch's optimizer": (
        dict(g_optimizer=torch.optim.Adam(parameters())),
        TypeError,
        r"g_optimizer must be a spec of fastgan\.optim, .*, got an object of torch\.optim\.adam\.Adam",
    ),
    "torch's class": (dict(d_optimizer=torch.optim.SGD), TypeError, r"d_optimizer .* got the class torch\.optim\.sgd\.SGD"),
    "the spec's class": (dict(d_optimizer=optim.Adam), TypeError, r"d_optimizer .* got the class fastgan\.optim\.Adam"),
    "the specs' base class": (
        dict(d_optimizer=optim.Optimizer(1e-3)),
        TypeError,
        r"d_optimizer must be a spec .* such as d_optimizer=fastgan.optim.Adam.*, got an object of fastgan\.optim\.Optimizer",
    ),
    "a rule of one's own": (
        dict(g_optimizer=type("Lion", (optim.Optimizer,), {"rule": "lion"})(1e-3)),
        TypeError,
        r"g_optimizer must be a spec of fastgan\.optim, .* got an object of .*Lion",
    ),
    "an optimizer's name": (dict(g_optimizer="adam"), TypeError, r"g_optimizer must be a spec .* got 'adam'"),
    "a loss of one's own": (dict(loss=lambda real, fake: fake.mean()), TypeError, r"loss must be .* got the function <lambda>"),
    "a module": (dict(loss=losses.GANLoss("lsgan")), TypeError, r"such as loss='lsgan', got a module of fastgan\.losses"),
    "no loss": (dict(loss=None), TypeError, "loss must be a preset's name, such as loss='hinge', got None"),
    "an average by text": (dict(ema="0.9"), TypeError, r"ema must be None or a decay in \[0, 1\), .* got '0\.9'"),
    "an average by yes": (dict(ema=True), TypeError, "ema must be None or a decay .* got True"),
    "half weights": (dict(precision=torch.float16), ValueError, r"unknown precision torch\.float16; choose one of auto, fp32"),
    "no device": (dict(device=None), ValueError, "unknown device 'None'; choose auto, cpu or cuda"),
    "a seed that is no number": (dict(seed=None), ValueError, r"seed must be a whole number in \[0, 2\^63\), got None"),
    "steps by text": (dict(d_steps="2"), ValueError, "d_steps must be a whole number >= 1, got '2'"),
}


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS.values(), ids=OPTIONS)
def test_an_option_of_another_kind(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Trainer(generator(), critic(), **{"device": "cpu"} | options)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_networks_that_are_none() -> None:
    scripted = torch.jit.script(critic())
    cases: dict[str, tuple[Any, Any]] = {
        r"generator must be an nn\.Module, got the class torch\.nn\.modules\.linear\.Linear: write Linear": (
            nn.Linear,
            critic(),
        ),
        r"generator must be an nn\.Module, got the function <lambda>: put what it does": (lambda z: z, critic()),
        r"discriminator must be an nn\.Module, got None": (generator(), None),
        r"discriminator must be an nn\.Module, got a list of 1": (generator(), [critic()]),
        r"discriminator is scripted or traced by torch\.jit": (generator(), scripted),
        r"generator is scripted or traced": (nn.Sequential(torch.jit.trace(generator(), torch.zeros(1, 4))), critic()),
    }
    for message, networks in cases.items():
        with pytest.raises(TypeError, match=message):
            Trainer(*networks, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_half_weights_are_refused(dtype: torch.dtype, precision: str) -> None:
    with pytest.raises(
        ValueError, match=rf"discriminator's parameter '0.weight' is {dtype}.*give the trainer discriminator.float"
    ):
        Trainer(generator(), critic().to(dtype), precision=precision, device="cpu")


def test_half_weights_become_fp64_where_that_is_asked_for() -> None:
    trainer = Trainer(generator().half(), critic().bfloat16(), precision="fp64", device="cpu")
    assert {p.dtype for network in (trainer.generator, trainer.discriminator) for p in network.parameters()} == {torch.float64}


def test_a_frozen_half_precision_part_is_its_owners() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Linear(16, 8).bfloat16().requires_grad_(False), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x.bfloat16()).float())

    network = Projected()
    Trainer(generator(), network, precision="fp32", device="cpu").attach(ROWS, 8).step(2)
    assert network.features.weight.dtype == torch.bfloat16 and network.head.weight.isfinite().all()


def test_networks_of_two_dtypes() -> None:
    with pytest.raises(ValueError, match=r"generator's weights are torch\.float64, the discriminator's torch\.float32"):
        Trainer(generator().double(), critic(), device="cpu")


SPECS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "parameters": (lambda: optim.Adam(parameters()), TypeError, r"Adam is a spec without parameters: write Adam\(lr=2e-4\)"),
    "parameters and a rate": (lambda: optim.SGD(parameters(), lr=0.1), TypeError, r"Trainer\(g_optimizer=\.\.\., d_"),
    "parameters by name": (lambda: optim.RMSprop(params=parameters()), TypeError, r"torch\.optim\.RMSprop"),
    "groups": (lambda: optim.Adam([{"params": parameters()}]), TypeError, "spec without parameters"),
    "a module": (lambda: optim.Adam(generator()), TypeError, "spec without parameters"),
    "a rate by text": (lambda: optim.Adam("2e-4"), ValueError, "lr must be a finite number >= 0, got '2e-4'"),
    "one beta": (lambda: optim.Adam(betas=0.5), ValueError, r"betas must be two numbers, such as \(0\.5, 0\.999\), got 0\.5"),
    "three betas": (lambda: optim.Adam(betas=(0.5, 0.9, 0.9)), ValueError, "betas must be two numbers"),
}


@pytest.mark.parametrize(("make", "kind", "message"), SPECS.values(), ids=SPECS)
def test_an_optimizer_spec(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_betas_may_be_a_list() -> None:
    assert optim.Adam(betas=[0.5, 0.9]) == optim.Adam(betas=(0.5, 0.9))  # type: ignore[arg-type]


CALLS: dict[str, tuple[Callable[[Trainer], Any], type[Exception], str]] = {
    "a batch by text": (lambda t: t.attach(ROWS, "8"), ValueError, "batch_size must be a whole number >= 1, got '8'"),
    "no rows": (lambda t: t.attach(ROWS, 0), ValueError, "batch_size must be a whole number >= 1, got 0"),
    "more rows than are counted": (
        lambda t: t.attach(ROWS, 2**31),
        ValueError,
        r"batch_size must be less than 2\^31 rows, got 2147",
    ),
    "rows beyond 64 bits": (lambda t: t.fit(ROWS, steps=1, batch_size=10**30), ValueError, "batch_size must be less than"),
    "a step by text": (lambda t: t.step("2"), ValueError, "n must be a whole number >= 1, got '2'"),
    "half a sample": (lambda t: t.sample(2.5), ValueError, "n must be a whole number >= 1, got 2.5"),
    "a seed by text": (lambda t: t.sample(2, seed="0"), ValueError, "seed must be None or a whole number .* got '0'"),
    "an unknown option": (lambda t: t.fit(ROWS, steps=1, batch_sise=3), TypeError, "no argument 'batch_sise'; .*'log_every'"),
    "a folder by number": (lambda t: t.fit(ROWS, steps=1, out=5), TypeError, "out must be a path, got 5"),
    "epochs by text": (lambda t: t.fit(ROWS, epochs="3"), ValueError, "epochs must be a whole number >= 0, got '3'"),
    "no folder": (lambda t: t.save(None), TypeError, "folder must be a path, got None"),
    "a file": (lambda t: t.restore(open), TypeError, "folder must be a path, got the function open"),
    "a number": (lambda t: Trainer.load(3), TypeError, "folder must be a path, got 3"),
}
ROWS = torch.rand(16, 16) * 2 - 1


@pytest.mark.parametrize(("call", "kind", "message"), CALLS.values(), ids=CALLS)
def test_a_call(call: Callable[[Any], Any], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(generator(), critic(), penalty=penalties.R1(1.0), device="cpu").attach(ROWS, 8)
    with pytest.raises(kind, match=message):
        call(trainer)
    assert trainer.step_count == 0 and not [*tmp_path.iterdir()]


WHOLE = {"steps": 0, "epochs": 0, "log_every": 1, "sample_every": 0, "checkpoint_every": 0, "keep": 1}
NONE_SAYS = ("steps", "epochs", "sample_every", "checkpoint_every")  # what None leaves to a default
REPORTS: list[tuple[str, Any, type[Exception], str]] = [
    *[
        (name, value, ValueError, f"{name} must be a whole number >= {least}, got ")
        for name, least in WHOLE.items()
        for value in (least - 1, True, False, 1.0, "1", [1], torch.tensor(1), *([] if name in NONE_SAYS else [None]))
    ],
    *[
        (name, value, TypeError, f"{name} must be True or False, got ")
        for name in ("resume", "progress")
        for value in ("no", "", 0, 1, None)
    ],
    *[("on_nonfinite", value, ValueError, "on_nonfinite must be") for value in ("ignore", None, True, [])],
    ("command", None, TypeError, "command must be a dict of the command line's flags, got None"),
]


@pytest.mark.parametrize(("name", "value", "kind", "message"), REPORTS)
def test_a_report_of_another_kind_is_refused_before_the_run_folder_is_claimed(
    name: str, value: Any, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    trainer = Trainer(generator(), critic(), device="cpu")
    total = {} if name == "epochs" else {"steps": 3}
    with pytest.raises(kind, match=message):
        trainer.fit(ROWS, batch_size=8, out=tmp_path / "run", **{"progress": False} | total | {name: value})
    assert not [*tmp_path.iterdir()] and trainer.step_count == 0


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB")


def no_memory_of_a_cpu() -> Exception:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
    )


@pytest.mark.parametrize("error", [out_of_memory, no_memory_of_a_cpu, MemoryError])
@pytest.mark.parametrize("role", [0, 1], ids=["generator", "discriminator"])
def test_memory_that_is_short_is_said_of_the_batch(error: Callable[[], Exception], role: int, tmp_path: Path) -> None:
    """Rows of the batch alone, and of no other batch, are too many."""
    pair = generator(), critic()

    def take(module: nn.Module, rows: tuple[torch.Tensor]) -> None:
        if len(rows[0]) == 9:
            raise error()

    pair[role].register_forward_pre_hook(take)
    trainer = Trainer(*pair, engine="autograd", device="cpu")
    with pytest.raises(
        ValueError, match=r"^batch_size=9 rows do not fit into the memory of cpu: give a smaller batch_size"
    ) as caught:
        trainer.fit(ROWS, steps=1, batch_size=9, out=tmp_path / "run", progress=False)
    assert caught.value.__cause__ is not None and not [*tmp_path.iterdir()]
    trainer.fit(ROWS, steps=1, batch_size=40, progress=False)  # more rows than the data have are drawn again
