"""What a step makes of torch's settings of fp32 products."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import fastgan
from fastgan.runtime.precision import matmul_precision

TF32, IEEE = ("high", True), ("highest", False)


def settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[TF32, IEEE, ("medium", False)], ids=str)
def outside(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool]]:
    """Settings of a person's own."""
    before = settings()
    torch.set_float32_matmul_precision(request.param[0])
    torch.backends.cudnn.allow_tf32 = request.param[1]
    yield request.param
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(("precision", "inside"), [("fp32", IEEE), ("tf32", TF32), ("bf16", None), ("fp64", None)])
def test_settings_are_the_precisions_inside_and_the_persons_outside(precision: str, inside: tuple, outside: tuple) -> None:
    with matmul_precision(precision):
        assert settings() == (inside or outside)
    assert settings() == outside


def test_settings_come_back_after_an_error(outside: tuple) -> None:
    with pytest.raises(KeyError), matmul_precision("fp32"):
        raise KeyError
    assert settings() == outside


class Watched(torch.autograd.Function):
    """The identity; notes the settings in its forward and its backward."""

    seen: list[tuple[str, bool]] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx, x):
        Watched.seen.append(settings())
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Watched.seen.append(settings())
        return gradient.clone()


class Watcher(nn.Module):
    def forward(self, x):
        return Watched.apply(x)


@pytest.mark.parametrize("penalty", [(), fastgan.penalties.R1(1.0)], ids=["no penalty", "R1"])
def test_an_autograd_step_is_inside_with_its_backward(outside: tuple, penalty) -> None:
    networks = nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Sequential(nn.Linear(6, 5), Watcher(), nn.Linear(5, 1))
    options = dict(engine="autograd", precision="fp32", penalty=penalty, capture="off", device="cpu")
    trainer = fastgan.Trainer(*networks, **options).attach(torch.rand(20, 6) * 2 - 1, 8)
    Watched.seen.clear()
    trainer.step()
    assert len(Watched.seen) >= 6 and set(Watched.seen) == {IEEE}
    assert settings() == outside


@pytest.mark.slow
def test_newer_settings_that_contradict_stay_as_they_are() -> None:
    code = """
import torch
from fastgan.runtime.precision import matmul_precision
torch.backends.cuda.matmul.fp32_precision = "tf32"
for _ in range(2):
    with matmul_precision("fp32"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
assert torch.backends.cuda.matmul.fp32_precision == "tf32"
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("contradict each other") == 1
