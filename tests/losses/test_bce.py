"""binary_cross_entropy_with_logits against torch's own: labels or a float target, weights, refusals, huge logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.losses import BCEWithLogitsLoss, binary_cross_entropy_with_logits
from fastgan.ops.backend import BackendUnavailable

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def logits(*shape: int) -> Tensor:
    return 3.0 * torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.9])
def test_bce_with_a_float_target_is_torchs_with_labels(target: float, reduction: str) -> None:
    x = logits(5, 2).requires_grad_()
    ours = binary_cross_entropy_with_logits(x, target, reduction=reduction)
    torchs = F.binary_cross_entropy_with_logits(x, torch.full_like(x, target), reduction=reduction)
    torch.testing.assert_close(ours, torchs, rtol=1e-13, atol=1e-13)
    slopes = [torch.autograd.grad(value.sum(), x)[0] for value in (ours, torchs)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-13, atol=1e-13)
    labels = torch.full_like(x, target)
    torch.testing.assert_close(binary_cross_entropy_with_logits(x, labels, reduction=reduction), ours, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_bce_in_fp32_is_as_exact_as_torchs(target: float) -> None:
    x = torch.linspace(-30.0, 30.0, 301).requires_grad_()
    sign = 1.0 - 2.0 * target  # sigmoid(x) - target, without the subtraction
    expected = sign / (1.0 + torch.exp(-sign * x.detach().double()))
    slopes = []
    for value in (
        binary_cross_entropy_with_logits(x, target, reduction="sum"),
        F.binary_cross_entropy_with_logits(x, torch.full_like(x, target), reduction="sum"),
    ):
        slopes.append(torch.autograd.grad(value, x)[0].double())
    ours, torchs = ((slope - expected).abs().max().item() for slope in slopes)
    assert ours <= 2 * torchs + torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(weight=torch.rand(4, 3)), id="weight"),
        pytest.param(dict(pos_weight=torch.rand(3)), id="pos_weight"),
        pytest.param(dict(weight=torch.rand(3), pos_weight=torch.rand(3), reduction="sum"), id="both"),
    ],
)
def test_bce_takes_torchs_weights(options: dict) -> None:
    x, target = torch.randn(4, 3), torch.rand(4, 3)
    torchs = F.binary_cross_entropy_with_logits(x, target, **options)
    torch.testing.assert_close(binary_cross_entropy_with_logits(x, target, **options), torchs)
    for number in (0.0, 0.3, 1.0):
        torchs = F.binary_cross_entropy_with_logits(x, torch.full_like(x, number), **options)
        torch.testing.assert_close(binary_cross_entropy_with_logits(x, number, **options), torchs)


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize("options", [dict(size_average=False), dict(size_average=True), dict(reduce=False)], ids=str)
def test_bce_takes_torchs_deprecated_arguments(options: dict) -> None:
    x, target = torch.randn(4, 3), torch.rand(4, 3)
    torchs = F.binary_cross_entropy_with_logits(x, target, **options)
    torch.testing.assert_close(binary_cross_entropy_with_logits(x, target, **options), torchs)
    positional = (None, *(options.get(name) for name in ("size_average", "reduce")))
    torch.testing.assert_close(binary_cross_entropy_with_logits(x, target, *positional), torchs)


def test_bce_labels_can_be_differentiated_as_torchs_can() -> None:
    x, target = logits(4).requires_grad_(), torch.rand(4, dtype=torch.float64).requires_grad_()
    ours = torch.autograd.grad(binary_cross_entropy_with_logits(x, target), (x, target))
    torchs = torch.autograd.grad(F.binary_cross_entropy_with_logits(x, target), (x, target))
    torch.testing.assert_close(ours, torchs, rtol=1e-13, atol=1e-14)
    assert torch.autograd.gradgradcheck(binary_cross_entropy_with_logits, (x, target))


def test_bce_refuses_what_torch_refuses() -> None:
    x = torch.randn(4, 1)
    for bad in (torch.ones(4), torch.ones(1), torch.ones(4, 2)):
        for call in (binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits):
            with pytest.raises(ValueError, match="must be the same as input size"):
                call(x, bad)
    with pytest.raises(ValueError):
        binary_cross_entropy_with_logits(x, 1.0, reduction="average")


def test_bce_of_integer_logits_is_a_type_error() -> None:
    for target in (1.0, torch.ones(3)):
        with pytest.raises(TypeError):
            binary_cross_entropy_with_logits(torch.arange(3), target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bce_of_huge_logits_is_finite(dtype: torch.dtype) -> None:
    x = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    for target, slopes in ((0.0, (1.0, 0.0)), (1.0, (0.0, -1.0))):
        value = binary_cross_entropy_with_logits(x, target, reduction="sum")
        assert value.item() == pytest.approx(abs(x[0].item()), rel=1e-6)
        assert torch.autograd.grad(value, x)[0].tolist() == pytest.approx(slopes)


def test_weighted_bce_of_half_logits_is_fp32() -> None:
    x, target = torch.randn(4, 3).bfloat16(), torch.rand(4, 3).bfloat16()
    for options in (dict(weight=torch.rand(4, 3)), dict(pos_weight=torch.rand(3))):
        value = binary_cross_entropy_with_logits(x, target, **options)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, F.binary_cross_entropy_with_logits(x.float(), target.float(), **options))


WEIGHTS = dict(weight=torch.tensor([0.5, 2.0, 1.0]), pos_weight=torch.tensor([3.0, 1.0, 0.25]))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("names", [(), ("weight",), ("pos_weight",), ("weight", "pos_weight")], ids=" ".join)
def test_the_module_is_torchs(names: tuple[str, ...], reduction: str) -> None:
    options = {name: WEIGHTS[name] for name in names}
    ours, torchs = BCEWithLogitsLoss(reduction=reduction, **options), nn.BCEWithLogitsLoss(reduction=reduction, **options)
    assert isinstance(ours, nn.BCEWithLogitsLoss)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    ours.load_state_dict(torchs.state_dict())
    torchs.load_state_dict(ours.state_dict())
    x, target, upstream = torch.randn(4, 3, requires_grad=True), torch.rand(4, 3), torch.rand(4, 3)
    upstream = upstream if reduction == "none" else upstream[0, 0]
    for label in (target, torch.ones_like(target)):
        torch.testing.assert_close(ours(x, label), torchs(x, label))
        slopes = [torch.autograd.grad(loss(x, label), x, upstream)[0] for loss in (ours, torchs)]
        torch.testing.assert_close(*slopes)
    torch.testing.assert_close(ours(x, 1.0), torchs(x, torch.ones_like(x)))


def test_the_module_takes_torchs_deprecated_arguments() -> None:
    with pytest.warns(UserWarning, match="size_average and reduce"):
        loss = BCEWithLogitsLoss(size_average=False)
    x = torch.randn(4, 3)
    torch.testing.assert_close(loss(x, 1.0), F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="sum"))


def test_weights_have_no_kernel_to_ask_for() -> None:
    with pytest.raises(BackendUnavailable, match="no kernel takes weight"):
        binary_cross_entropy_with_logits(torch.randn(3), 1.0, pos_weight=torch.ones(3), backend="cpp")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: binary_cross_entropy_with_logits(x, 1.0, backend="cuda"), backend="eager")
    with pytest.raises(Exception, match="unknown backend 'cuda'"):
        compiled(torch.randn(3))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_factors_of_other_types_are_numbers(name: str, dtype: torch.dtype) -> None:
    factors, x, target = torch.tensor([1, 0, 1]), torch.randn(4, 3, requires_grad=True), torch.rand(4, 3)
    expected = F.binary_cross_entropy_with_logits(x, target, **{name: factors.float()})
    given: Any = {name: factors.to(dtype)}
    for found in (BCEWithLogitsLoss(**given)(x, target), binary_cross_entropy_with_logits(x, target, **given)):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*[torch.autograd.grad(value, x, retain_graph=True)[0] for value in (found, expected)])
