"""Losses without a reduction: a value for each row, and a gradient for each row from above, against formulas in fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgan.ops import loss

KINDS = [kind for kind in loss.KINDS if kind != "relativistic-average"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# the last bit of a value, which is fp32 or fp64, and of a gradient, which is like its logit
ULP = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2.0**-23, torch.float64: 2.0**-52}
SIZES = [1, 63, 65, 1023, 4097, 40_001]  # below and above what is left to torch, and several threads' worth

pytestmark = pytest.mark.usefixtures("requires_extension")


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3.0 * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_()


def evaluate(role: str, kind: str, real: Tensor, fake: Tensor, backend: str = "cpp") -> Tensor:
    options = dict(kind=kind, reduction="none", backend=backend)
    return loss.d_loss(real, fake, **options) if role == "d" else loss.g_loss(fake, real, **options)


def exactly(role: str, kind: str, real: Tensor, fake: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    """The value and both gradients, by the reference in fp64."""
    wide = [x.detach().double().requires_grad_() for x in (real, fake)]
    value = evaluate(role, kind, *wide, backend="reference")
    return value.detach(), *torch.autograd.grad(value, wide, upstream.double(), materialize_grads=True)


def check(role: str, kind: str, real: Tensor, fake: Tensor, upstream: Tensor) -> None:
    value = evaluate(role, kind, real, fake)
    gradients = torch.autograd.grad(value, (real, fake), upstream, materialize_grads=True)
    expected, *slopes = exactly(role, kind, real, fake, upstream)
    assert value.shape == fake.shape and value.dtype is upstream.dtype
    torch.testing.assert_close(value.double(), expected, rtol=8 * ULP[value.dtype], atol=8 * ULP[value.dtype])
    for x, gradient, slope in zip((real, fake), gradients, slopes, strict=True):
        assert gradient.dtype is x.dtype and gradient.shape == x.shape
        unit = ULP[x.dtype] + 8 * ULP[value.dtype]
        torch.testing.assert_close(gradient.double(), slope, rtol=unit, atol=unit)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["d", "g"])
def test_every_row_has_its_value_and_its_gradient(role: str, kind: str, dtype: torch.dtype, rows: int) -> None:
    upstream = torch.randn(rows, 1, dtype=wide(dtype))
    check(role, kind, logits(rows, 1, dtype=dtype), logits(rows, 1, dtype=dtype), upstream)


@pytest.mark.parametrize("reduce", [torch.sum, torch.mean, lambda x: x[3].sum()], ids=["sum", "mean", "one row"])
def test_a_reduction_of_ones_own(reduce: Callable[[Tensor], Tensor]) -> None:
    """Its gradient from above is expanded from one number, which is read where it is."""
    real, fake = logits(5000, 2), logits(5000, 2)
    results = [
        torch.autograd.grad(reduce(evaluate("d", "hinge", real, fake, name)), (real, fake)) for name in ("cpp", "reference")
    ]
    torch.testing.assert_close(*results, rtol=1e-14, atol=1e-16)


STRIDED = [
    pytest.param(lambda x: x[::2], id="every second row"),
    pytest.param(lambda x: x.t(), id="transposed"),
    pytest.param(lambda x: x[:, :1].expand(-1, 3), id="expanded"),
    pytest.param(lambda x: x.reshape(-1, 2, 4, 8).to(memory_format=torch.channels_last), id="patches"),
    pytest.param(lambda x: x[0, 0], id="0-d"),
    pytest.param(lambda x: x[:0], id="no row"),
]


@pytest.mark.parametrize("view", STRIDED)
@pytest.mark.parametrize("kind", ["nonsaturating", "lsgan"])
def test_strided_logits(kind: str, view: Callable[[Tensor], Tensor]) -> None:
    real, fake = view(logits(64, 64)), view(logits(64, 64))
    check("d", kind, real, fake, torch.randn(fake.shape, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_one_side_may_need_no_gradient(kind: str) -> None:
    real, fake, upstream = logits(2000, 1), logits(2000, 1), torch.randn(2000, 1, dtype=torch.float64)
    for number in range(2):
        pair = [x if k == number else x.detach() for k, x in enumerate((real, fake))]
        (gradient,) = torch.autograd.grad(evaluate("d", kind, *pair), pair[number], upstream)
        torch.testing.assert_close(gradient, exactly("d", kind, real, fake, upstream)[1 + number], rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("kind", ["nonsaturating", "lsgan", "hinge"])
def test_derivatives_of_any_order(kind: str) -> None:
    pair = (logits(2, 2), logits(2, 2))
    assert torch.autograd.gradcheck(lambda r, f: evaluate("d", kind, r, f), pair)
    assert torch.autograd.gradgradcheck(lambda r, f: evaluate("d", kind, r, f), pair)


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_labels(dtype: torch.dtype, rows: int) -> None:
    x, labels = logits(rows, 1, dtype=dtype), torch.rand(rows, 1).to(dtype)
    upstream, exact = torch.randn(rows, 1, dtype=wide(dtype)), x.detach().double().requires_grad_()
    value = loss.bce_with_logits(x, labels, reduction="none")
    (gradient,) = torch.autograd.grad(value, x, upstream)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(exact, labels.double(), reduction="none")
    (slope,) = torch.autograd.grad(expected, exact, upstream.double())
    unit = ULP[dtype] + 8 * ULP[value.dtype]
    torch.testing.assert_close(value.double(), expected, rtol=8 * ULP[value.dtype], atol=8 * ULP[value.dtype])
    torch.testing.assert_close(gradient.double(), slope, rtol=unit, atol=unit)
    assert torch.autograd.gradgradcheck(
        lambda x: loss.bce_with_logits(x, labels[:2].double(), reduction="none"), logits(min(rows, 2), 1)
    )


def test_labels_to_second_order() -> None:
    labels = torch.rand(3, 1, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: loss.bce_with_logits(x, labels, reduction="none"), logits(3, 1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_they_are_registered_well(dtype: torch.dtype) -> None:
    real, fake, upstream = torch.randn(6, 2).to(dtype), torch.rand(2, 6).to(dtype).t(), torch.randn(6, 2, dtype=wide(dtype))
    operators = torch.ops.fastgan
    for form in ("bce", "paired"):
        torch.library.opcheck(operators.loss_rows.default, (real, fake, form))
        torch.library.opcheck(operators.loss_rows_backward.default, (upstream, real, fake, True, form))
    torch.library.opcheck(operators.loss_rows.default, (None, fake, "square"))
    torch.library.opcheck(operators.loss_rows_backward.default, (upstream, None, fake, False, "square"))
    torch.library.opcheck(operators.bce_rows.default, (real, fake))
    torch.library.opcheck(operators.bce_rows_backward.default, (upstream, real, fake))


def test_what_a_row_cannot_tell_alone_is_refused() -> None:
    real, fake = torch.randn(3), torch.randn(3)
    with pytest.raises(RuntimeError, match="depends on the others"):
        torch.ops.fastgan.loss_rows(real, fake, "average")
    with pytest.raises(RuntimeError, match="differ in shape"):
        torch.ops.fastgan.loss_rows(real[:2], fake, "bce")
    with pytest.raises(RuntimeError, match="upstream"):
        torch.ops.fastgan.loss_rows_backward(torch.ones(2), real, fake, True, "bce")


@pytest.mark.parametrize("name", ["loss", "loss_statistics", "loss_rows"])
def test_a_form_that_no_kernel_has_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="unknown form huber"):
        getattr(torch.ops.fastgan, name)(torch.zeros(3), torch.zeros(3), "huber")
