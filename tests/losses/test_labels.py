"""Labels: what GANLoss(prediction, target_is_real) and binary_cross_entropy_with_logits take in place of True and False."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.losses import BCEWithLogitsLoss, GANLoss, binary_cross_entropy_with_logits

LABELLED = ("minimax", "nonsaturating", "lsgan")
NUMBERS = (0.1, 0.9, 1.2, -1.0, 0, 1, 0.0, 1.0, 2, np.float32(0.25), np.float64(0.3), np.int64(1), np.uint8(0))
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int32, torch.int64)


def logits(*shape: int) -> Tensor:
    return 3.0 * torch.randn(shape, dtype=torch.float64)


def torchs(kind: str, x: Tensor, labels: Tensor, reduction: str = "mean", scale: float = 1.0) -> Tensor:
    """The loss of labels in the logits' shape, by torch's own functions."""
    if kind == "lsgan":
        return scale * F.mse_loss(x, labels, reduction=reduction)
    return F.binary_cross_entropy_with_logits(x, labels, reduction=reduction)


def same_to_second_order(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor) -> None:
    x = x.detach().requires_grad_()
    values = ours(x), theirs(x)
    torch.testing.assert_close(*values, rtol=1e-13, atol=1e-13)
    slopes = [torch.autograd.grad(value.sum(), x, create_graph=True)[0] for value in values]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-13)
    curvatures = [torch.autograd.grad(slope.square().sum(), x)[0] for slope in slopes]
    torch.testing.assert_close(*curvatures, rtol=1e-12, atol=1e-13)
    plain = torch.autograd.grad(ours(x).sum(), x)[0]
    torch.testing.assert_close(plain, slopes[1].detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", LABELLED)
@pytest.mark.parametrize("label", NUMBERS, ids=repr)
def test_a_number_is_the_label_of_all(kind: str, label: Any, reduction: str) -> None:
    loss, x = GANLoss(kind, reduction=reduction, label_smoothing=0.125), logits(5, 1)
    expected = torch.full_like(x, float(label))
    same_to_second_order(lambda x: loss(x, label), lambda x: torchs(kind, x, expected, reduction), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LABELLED)
@pytest.mark.parametrize(
    ("shape", "of_labels"),
    [
        pytest.param((5, 1), (5, 1), id="each row"),
        pytest.param((5, 1), (), id="one, 0-d"),
        pytest.param((5, 1), (1,), id="one"),
        pytest.param((5,), (1, 1), id="one of more dimensions"),
        pytest.param((2, 1, 3, 3), (2, 1, 1, 1), id="each row of maps"),
        pytest.param((2, 1, 3, 3), (1, 1, 3, 3), id="each place of maps"),
        pytest.param((2, 1, 3, 3), (1, 1, 1), id="one for maps"),
        pytest.param((), (), id="0-d"),
    ],
)
def test_a_tensor_of_labels(kind: str, dtype: torch.dtype, shape: tuple[int, ...], of_labels: tuple[int, ...]) -> None:
    loss, x = GANLoss(kind, scale=0.5 if kind == "lsgan" else 1.0), logits(*shape)
    labels = torch.rand(of_labels).to(dtype) if dtype.is_floating_point else torch.randint(0, 2, of_labels, dtype=dtype)
    whole = (labels.reshape(()) if labels.numel() == 1 else labels).double().expand(shape)
    same_to_second_order(lambda x: loss(x, labels), lambda x: torchs(kind, x, whole, scale=loss.scale), x)


def test_labels_in_the_generators_turn() -> None:
    x, labels = logits(5, 1), torch.rand(5, 1, dtype=torch.float64)
    for kind in ("nonsaturating", "lsgan"):
        for label in (0.9, 0.0, labels):
            whole = torch.as_tensor(label, dtype=torch.float64).expand(5, 1)
            same_to_second_order(lambda x: GANLoss(kind)(x, label, False), lambda x: torchs(kind, x, whole), x)  # noqa: B023
    for kind in ("minimax", "hinge", "wgan"):
        assert torch.equal(GANLoss(kind)(x, 1.0, False), GANLoss(kind).g(x))
        for label in (0.9, labels):
            with pytest.raises(TypeError, match=f"generator's {kind} loss has two sides and no labels: target_is_real"):
                GANLoss(kind)(x, label, for_discriminator=False)


def test_label_smoothing_changes_sides_and_no_labels() -> None:
    loss, x = GANLoss(label_smoothing=0.1), logits(4, 1)
    sides = torch.tensor([[True], [False], [True], [False]])
    torch.testing.assert_close(loss(x, True), torchs("nonsaturating", x, torch.full_like(x, 0.9)))
    torch.testing.assert_close(loss(x, np.bool_(True)), loss(x, True))
    torch.testing.assert_close(loss(x, sides), torchs("nonsaturating", x, 0.9 * sides.double()))
    torch.testing.assert_close(loss(x, torch.tensor(True)), loss(x, True))
    torch.testing.assert_close(loss(x, torch.tensor(False)), loss(x, False))
    for label in (1, 1.0, sides.double(), sides.long(), sides.half()):
        whole = torch.as_tensor(label).double().expand(4, 1)
        torch.testing.assert_close(loss(x, label), torchs("nonsaturating", x, whole))
    torch.testing.assert_close(loss(x, sides, for_discriminator=False), torchs("nonsaturating", x, sides.double()))
    half = x.bfloat16()
    torch.testing.assert_close(loss(half, sides), torchs("nonsaturating", half.float(), 0.9 * sides.float()))


@pytest.mark.parametrize("kind", ["wgan", "hinge"])
def test_kinds_without_labels_take_sides(kind: str) -> None:
    loss, x = GANLoss(kind), logits(4, 1)
    for side in (1, 1.0, np.bool_(True), np.int64(1)):
        assert torch.equal(loss(x, side), loss(x, True))
    for side in (0, 0.0, np.bool_(False)):
        assert torch.equal(loss(x, side), loss(x, False))
    for label in (0.1, -1, 2, torch.tensor(1.0), torch.ones(4, 1), torch.tensor(True)):
        with pytest.raises(TypeError, match=f"{kind}'s loss has two sides and no labels: target_is_real must be True or False"):
            loss(x, label)


@pytest.mark.parametrize(
    ("shape", "of_labels"),
    [
        ((4, 1), (4,)),
        ((4,), (4, 1)),
        ((4, 1), (1, 4)),
        ((4, 1), (4, 2)),
        ((1, 1), (4, 1)),
        ((2, 1, 2, 2), (2, 1)),
        ((4, 1), (0, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", LABELLED)
def test_labels_that_would_make_a_table_are_refused(kind: str, shape: tuple[int, ...], of_labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="target_is_real has labels of shape"):
        GANLoss(kind)(logits(*shape), torch.ones(of_labels))


@pytest.mark.parametrize("kind", LABELLED)
def test_labels_can_be_differentiated(kind: str) -> None:
    x = logits(3, 1).requires_grad_()
    for shape in ((3, 1), (1, 1), ()):
        labels = torch.rand(shape, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(GANLoss(kind), (x, labels))
        assert torch.autograd.gradgradcheck(GANLoss(kind), (x, labels))
    one = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(binary_cross_entropy_with_logits, (x, one))


@pytest.mark.parametrize("kind", LABELLED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_labels_of_half_logits_give_fp32(kind: str, dtype: torch.dtype) -> None:
    x = logits(5, 1).to(dtype)
    for labels in (0.1, torch.full((5, 1), 0.1, dtype=dtype), torch.full((5, 1), 0.1), torch.ones(5, 1, dtype=torch.long)):
        whole = torch.as_tensor(labels).float().expand(5, 1)
        value = GANLoss(kind)(x, labels)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, torchs(kind, x.float(), whole))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["nonsaturating", "lsgan"])
def test_labels_in_compiled_code(kind: str) -> None:
    torch._dynamo.reset()
    loss, x = GANLoss(kind), logits(4, 1).requires_grad_()
    compiled = torch.compile(lambda x, label: loss(x, label), fullgraph=True, backend="aot_eager")
    for label in (True, 0.1, 0.2, 0.7, 1, 2, torch.tensor(0.1), torch.rand(4, 1), torch.ones(1, 1, dtype=torch.long)):
        torch.testing.assert_close(compiled(x, label), loss(x, label))
        slopes = [torch.autograd.grad(call(x, label), x)[0] for call in (compiled, loss)]
        torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("kind", LABELLED)
def test_labels_under_function_transforms(kind: str) -> None:
    loss, x, labels = GANLoss(kind), logits(4, 3), torch.rand(4, 3, dtype=torch.float64)
    rows = torch.func.vmap(torch.func.grad(loss))(x, labels)
    torch.testing.assert_close(rows, torch.stack([torch.func.grad(loss)(*row) for row in zip(x, labels, strict=True)]))
    each = torch.func.vmap(loss)(x, labels[:, 0])
    expected = [torchs(kind, row, label.expand(3)) for row, label in zip(x, labels[:, 0], strict=True)]
    torch.testing.assert_close(each, torch.stack(expected))


@pytest.mark.parametrize("options", [{}, dict(pos_weight=torch.tensor([3.0], dtype=torch.float64))], ids=["", "weighted"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bce_takes_labels_of_any_type(reduction: str, options: dict[str, Tensor]) -> None:
    x, module = logits(4, 1), BCEWithLogitsLoss(reduction=reduction, **options)
    tensors = [torch.randint(0, 2, (4, 1)).to(dtype) for dtype in (*DTYPES, torch.bool)]
    for label in (*NUMBERS, True, False, np.bool_(True), torch.tensor(0.3), torch.tensor(1), torch.tensor(True), *tensors):
        whole = torch.as_tensor(label, dtype=torch.float64).expand(4, 1)

        def theirs(x: Tensor, whole: Tensor = whole) -> Tensor:
            return F.binary_cross_entropy_with_logits(x, whole, reduction=reduction, **options)

        same_to_second_order(lambda x: module(x, label), theirs, x)  # noqa: B023


def test_bce_refuses_factors_that_do_not_fit() -> None:
    """torch multiplies [N, 1] logits by [N] positive weights to a table of N x N."""
    x = logits(4, 1)
    for name in ("weight", "pos_weight"):
        for bad in (torch.ones(4), torch.ones(4, 2), torch.ones(1, 4, 1)):
            with pytest.raises(ValueError, match=f"^{name} has shape"):
                binary_cross_entropy_with_logits(x, 1.0, **{name: bad})
            with pytest.raises(ValueError, match=f"^{name} has shape"):
                BCEWithLogitsLoss(**{name: bad})(x, torch.ones(4, 1))


def test_what_is_no_number_of_the_machine_is_no_label() -> None:
    for label in (Fraction(1, 2), 1j, b"1", np.array(0.1)):
        with pytest.raises(TypeError, match="target_is_real"):
            GANLoss()(logits(3), label)
