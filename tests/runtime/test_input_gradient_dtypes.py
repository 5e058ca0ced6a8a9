"""A critic's input gradient in the modes that a caller may be in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from fastgan import penalties
from fastgan.mlp import MLP
from fastgan.runtime.input_gradient import input_gradient, product_dtype, under_autocast
from fastgan.runtime.second_order import as_written


@pytest.fixture
def graphs() -> Iterator[Callable[[], int]]:
    """How many graphs the compiler has made."""
    torch._dynamo.reset()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def test_compiled_code_runs_again_when_the_last_of_many_has_left(graphs: Callable[[], int]) -> None:
    compiled, x = torch.compile(lambda x: x.sin() + 1, backend="aot_eager"), torch.randn(3)
    before = graphs()
    as_written.__enter__()
    as_written.__enter__()
    compiled(x)
    as_written.__exit__(None, None, None)
    compiled(x)
    assert graphs() == before
    as_written.__exit__(None, None, None)
    compiled(x)
    assert graphs() == before + 1


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("made_in", [nullcontext, torch.no_grad, torch.inference_mode])
def test_a_gradient_exists_in_every_mode_and_of_every_tensor(
    mode: Callable[[], AbstractContextManager], made_in: Callable[[], AbstractContextManager]
) -> None:
    with made_in():
        points = torch.linspace(-1.0, 2.0, 12).view(4, 3)
    with mode():
        gradient = input_gradient(lambda x: x.pow(3).sum(1, keepdim=True), points)
    torch.testing.assert_close(gradient, 3 * torch.linspace(-1.0, 2.0, 12).view(4, 3).square())
    assert gradient.requires_grad and not points.requires_grad


@pytest.mark.parametrize(
    ("dtype", "autocast", "expected"),
    [
        (torch.float32, None, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16, torch.float32),
        (torch.float64, torch.bfloat16, torch.float64),
        (torch.float64, torch.float16, torch.float64),
        (torch.float16, torch.bfloat16, torch.float16),
    ],
)
def test_products_are_in_autocasts_bf16_for_fp32_alone(
    dtype: torch.dtype, autocast: torch.dtype | None, expected: torch.dtype
) -> None:
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        assert product_dtype(torch.zeros(2, 3, dtype=dtype)) == expected


def test_autocast_takes_no_digit_of_a_critic_in_fp64() -> None:
    torch.manual_seed(0)
    critic, points = MLP((5, 16, 1)).double(), torch.randn(128, 5, dtype=torch.float64)
    exact = penalties.r1_penalty(critic, points)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(penalties.r1_penalty(critic, points), exact, rtol=1e-12, atol=0)


def halved(layers: tuple[bool, ...]) -> nn.Module:
    return nn.Sequential(*(nn.Linear(3, 3, dtype=torch.bfloat16 if half else torch.float32) for half in layers))


@pytest.mark.parametrize(
    ("critic", "expected"),
    [
        (halved((False, False)), torch.float32),
        (halved((True, True)), torch.bfloat16),
        (halved((True, False)), torch.bfloat16),
        (lambda x: x, torch.float32),
    ],
    ids=["fp32", "bf16", "both", "function"],
)
def test_rows_that_autocast_made_half_stay_so_for_a_critic_with_half_weights(
    critic: Callable[[Tensor], Tensor], expected: torch.dtype
) -> None:
    rows = torch.zeros(2, 3, dtype=torch.bfloat16)
    assert under_autocast(critic, rows) is rows
    with torch.autocast("cpu", torch.bfloat16):
        assert under_autocast(critic, rows).dtype == expected
        assert under_autocast(critic, rows.double()).dtype == torch.float64


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("unit", [nn.LeakyReLU(0.2), nn.Tanh()], ids=["an MLP", "another"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_rows_that_autocast_made_half_are_what_they_were(half: torch.dtype, unit: nn.Module, method: str) -> None:
    """A penalty of a generator's half output is to the last bit that of the same numbers in fp32."""
    critic = nn.Sequential(nn.Linear(6, 8), unit, nn.Linear(8, 1))
    rows = torch.randn(16, 6).to(half)
    with torch.autocast("cpu", half):
        given, wide = (penalties.r1_penalty(critic, x, method=method) for x in (rows, rows.float()))
    assert torch.equal(given, wide)
    assert type(given.grad_fn) is type(wide.grad_fn)
