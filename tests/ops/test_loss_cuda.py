"""The CUDA kernels of losses and penalties: captured, never waited for, repeatable, and right at any size and place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from fastgan import losses
from fastgan.ops import loss, penalty, reference
from fastgan.ops.objective import d_objective

Outputs = list[Tensor]

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("kernels")]
SIZES = [pytest.param(37, id="a warp"), pytest.param(5000, id="a block"), pytest.param(100_003, id="many blocks")]
# rows of a part of a warp, of one block's warps, of a block where they are few, of a warp where many; long ones, odd ones
SHAPES = [(4097, 2), (3, 5000), (64, 784), (9000, 784), (8, 3, 64, 64), (200, 1031)]
ULP = 2.0**-23


@pytest.fixture
def kernels(requires_cuda_kernels: None) -> Iterator[None]:
    """Tensors are made on the device."""
    with torch.device("cuda"):
        yield


def logits(rows: int, dtype: torch.dtype = torch.float32, offset: int = 0) -> Tensor:
    """Logits that begin `offset` elements after a multiple of 16 bytes."""
    return (3.0 * torch.randn(rows + offset)).to(dtype)[offset:]


def evaluate(kind: str, real: Tensor, fake: Tensor) -> Outputs:
    """All that the kernels of an objective say: a value, gradients; and slopes, value and means in one pass."""
    operators, arguments = torch.ops.fastgan, d_objective(kind).arguments or ()
    value = operators.loss(real, fake, *arguments)
    gradients = operators.loss_backward(torch.full_like(value, 1.5), real, fake, True, *arguments)
    slopes = torch.empty_like(real), torch.empty_like(fake)
    return [value, *gradients, *slopes, *operators.loss_gradients_(real, fake, *slopes, *arguments)]


def evaluate_labelled(logits: Tensor, labels: Tensor) -> Outputs:
    value = torch.ops.fastgan.bce(logits, labels, True)
    return [value, torch.ops.fastgan.bce_backward(torch.full_like(value, 1.5), logits, labels, True)]


def penalty_gradient(gradient: Tensor) -> Outputs:
    return [
        *penalty.norm_penalty_gradient(gradient, weight=7.0, target=1.0, backend="cpp"),
        *penalty.square_penalty_gradient(gradient, gamma=3.0, backend="cpp"),
    ]


def equal(one: Outputs, two: Outputs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def check_replay(call: Callable[..., Outputs], *inputs: Tensor) -> None:
    """A captured call writes what an eager one returns, for what the inputs hold when it is replayed."""
    call(*inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call(*inputs)
    for factor in (1.0, -0.5):
        for x in inputs:
            x.mul_(factor)
        for output in outputs:
            output.fill_(torch.nan)
        graph.replay()
        assert equal(outputs, call(*inputs))


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("kind", loss.KINDS)
def test_a_captured_loss_equals_an_eager_one(kind: str, rows: int) -> None:
    check_replay(lambda real, fake: evaluate(kind, real, fake), logits(rows), logits(rows))


@pytest.mark.parametrize("rows", SIZES)
def test_a_captured_loss_with_labels_equals_an_eager_one(rows: int) -> None:
    check_replay(evaluate_labelled, logits(rows), torch.rand(rows))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_captured_derivative_equals_an_eager_one(shape: tuple[int, ...]) -> None:
    check_replay(penalty_gradient, torch.randn(shape))


@pytest.mark.parametrize("rows", SIZES)
def test_nothing_waits_for_the_device(rows: int) -> None:
    real, fake, gradient = logits(rows).requires_grad_(), logits(rows).requires_grad_(), torch.randn(64, 784)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for kind in loss.KINDS:
            losses.d_loss(real, fake, kind=kind).backward()
            losses.g_loss(fake, kind=kind, real=real).backward()
        penalty_gradient(gradient)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert real.grad is not None and real.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", loss.KINDS)
def test_a_loss_of_a_million_logits_is_the_same_each_time(kind: str, dtype: torch.dtype) -> None:
    real, fake = logits(1 << 20, dtype), logits(1 << 20, dtype)
    first = evaluate(kind, real, fake)
    assert all(equal(first, evaluate(kind, real, fake)) for _ in range(5))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_derivative_is_the_same_each_time(shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape)
    first = penalty_gradient(gradient)
    assert all(equal(first, penalty_gradient(gradient)) for _ in range(5))


@pytest.mark.parametrize("offsets", [(1, 0), (0, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", SIZES)
def test_logits_may_lie_anywhere(rows: int, dtype: torch.dtype, offsets: tuple[int, int]) -> None:
    real, fake = (logits(rows, dtype, offset) for offset in offsets)
    rtol = 2.0**-7 if dtype is torch.bfloat16 else 1e-5  # sums may round otherwise, and shift what bf16 rounds
    for kind in loss.KINDS:
        torch.testing.assert_close(evaluate(kind, real, fake), evaluate(kind, real.clone(), fake.clone()), rtol=rtol, atol=0)


def test_slopes_may_lie_anywhere() -> None:
    real, fake = logits(100_003), logits(100_003)
    wanted = torch.full((100_003 + 2,), torch.nan)
    _, expected = torch.ops.fastgan.loss_backward(torch.ones(()), real, fake, True, "bce")
    torch.ops.fastgan.loss_gradients_(real, fake, torch.empty_like(real), wanted[1:-1], "bce")
    torch.testing.assert_close(wanted[1:-1], expected, rtol=4 * ULP, atol=0)
    assert wanted[0].isnan() and wanted[-1].isnan(), "and nothing beside them is written"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", loss.KINDS)
def test_sixteen_million_logits(kind: str, dtype: torch.dtype) -> None:
    rows = (1 << 24) + 5
    real, fake = logits(rows, dtype), logits(rows, dtype)
    value, *gradients = evaluate(kind, real, fake)[:3]
    wide = [x.double().requires_grad_() for x in (real, fake)]
    expected = reference.d_loss(*wide, kind=kind)
    assert abs(value.item() - expected.item()) <= 4 * ULP * max(1.0, abs(expected.item()))
    for gradient, exact in zip(gradients, torch.autograd.grad(1.5 * expected, wide), strict=True):
        unit = 2.0**-7 if dtype is torch.bfloat16 else 4 * ULP
        assert (gradient.double() - exact).abs().max() <= unit * exact.abs().max()


def test_more_logits_than_32_bits_count() -> None:
    rows = (1 << 31) + 11
    if torch.cuda.mem_get_info()[0] < 8 * rows:
        pytest.skip("this takes 16 GB")
    fake = torch.zeros(rows, dtype=torch.bfloat16)
    fake[-1], fake[-9] = 3.0, 2.0
    arguments = None, fake
    assert torch.ops.fastgan.loss(*arguments, "square", 0.0, 1.0, 1.0, False).item() == 13.0
    _, gradient = torch.ops.fastgan.loss_backward(torch.ones(()), *arguments, False, "square", 0.0, 1.0, 1.0, False)
    assert gradient[-1] == 6.0 and gradient[-9] == 4.0 and (gradient == 0.0).sum() == rows - 2


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_derivatives_of_rows_of_any_length(shape: tuple[int, ...], offset: int) -> None:
    gradient = torch.randn(math.prod(shape) + offset)[offset:].view(shape)
    wide, options = gradient.double(), dict(weight=7.0, target=1.0)
    expected = [reference.norm_penalty(wide, **options), reference.norm_penalty_gradient(wide, **options)]
    expected += [reference.square_penalty(wide, gamma=3.0), reference.square_penalty_gradient(wide, gamma=3.0)]
    for result, exact in zip(penalty_gradient(gradient), expected, strict=True):
        assert (result.double() - exact).abs().max() <= 2.0**-20 * exact.abs().max()


def test_two_devices_in_one_call_are_refused() -> None:
    with pytest.raises(RuntimeError, match="different devices"):
        torch.ops.fastgan.loss(torch.zeros(3, device="cpu"), torch.zeros(3), "bce")
    with pytest.raises(RuntimeError, match="upstream"):
        torch.ops.fastgan.loss_backward(torch.ones((), device="cpu"), None, torch.zeros(3), False, "bce")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device at most")
def test_a_device_that_is_not_current() -> None:
    real, fake = (x.to("cuda:1").requires_grad_() for x in (logits(100_003), logits(100_003)))
    value = losses.d_loss(real, fake, kind="nonsaturating")
    value.backward()
    assert real.grad is not None and value.device == real.grad.device == torch.device("cuda:1")
    assert value.item() == pytest.approx(reference.d_loss(real, fake, kind="nonsaturating").item(), rel=1e-6)
