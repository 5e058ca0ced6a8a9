"""The forms that losses come in besides `d_loss` and `g_loss`: a pair for each kind, statistics, one side of a GANLoss."""

from __future__ import annotations

import inspect
import pickle

import pytest
import torch
from torch import Tensor

from fastgan import losses
from fastgan.losses import KINDS, GANLoss, Statistics, d_loss, d_loss_with_statistics, g_loss

RELATIVISTIC = ("relativistic", "relativistic-average")


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3.0 * torch.randn(shape, dtype=torch.float64)).to(dtype)


def pair(kind: str) -> tuple:
    name = kind.replace("-", "_")
    return getattr(losses, f"{name}_d_loss"), getattr(losses, f"{name}_g_loss")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_for_each_kind(kind: str, reduction: str) -> None:
    (d, g), real, fake = pair(kind), logits(6, 1), logits(6, 1)
    needed = dict(real=real) if kind in RELATIVISTIC else {}
    assert torch.equal(d(real, fake, reduction=reduction), d_loss(real, fake, kind, reduction=reduction))
    assert torch.equal(g(fake, **needed, reduction=reduction), g_loss(fake, kind=kind, real=real, reduction=reduction))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_takes_real_before_fake_and_options_by_name(kind: str) -> None:
    d, g = pair(kind)
    assert list(inspect.signature(d).parameters)[:2] == ["real", "fake"]
    assert [name for name, p in inspect.signature(g).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == ["fake"]
    with pytest.raises(TypeError):
        d(logits(3), logits(3), 0.1)
    with pytest.raises(TypeError):
        g(logits(3), logits(3))
    assert all(kind in function.__doc__ and pickle.loads(pickle.dumps(function)) is function for function in (d, g))


def test_a_pair_has_its_kinds_options() -> None:
    real, fake = logits(5), logits(5)
    smoothed = losses.lsgan_d_loss(real, fake, label_smoothing=0.1, scale=0.5)
    assert torch.equal(smoothed, d_loss(real, fake, "lsgan", label_smoothing=0.1, scale=0.5))
    with pytest.raises(ValueError, match="smoothing"):
        losses.hinge_d_loss(real, fake, label_smoothing=0.1)
    with pytest.raises(ValueError, match="real="):
        losses.relativistic_g_loss(fake)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (2, 1, 3, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_come_with_the_loss(kind: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    real, fake = logits(*shape, dtype=dtype).requires_grad_(), logits(*shape, dtype=dtype).requires_grad_()
    value, seen = d_loss_with_statistics(real, fake, kind)
    assert isinstance(seen, Statistics) and all(x.shape == () and not x.requires_grad for x in seen)
    wide = [x.detach().to(seen.real_mean.dtype) for x in (real, fake)]
    expected = [x.mean() for x in wide] + [x.sign().mean() for x in wide]
    torch.testing.assert_close(list(seen), expected)
    torch.testing.assert_close(value, d_loss(real, fake, kind))
    slopes = torch.autograd.grad(value, (real, fake)), torch.autograd.grad(d_loss(real, fake, kind), (real, fake))
    torch.testing.assert_close(*slopes)
    again, also = GANLoss(kind).d_with_statistics(real, fake)
    assert torch.equal(again, value) and all(map(torch.equal, also, seen))


def test_statistics_as_numbers() -> None:
    real, fake = torch.tensor([2.0, 1.0, -1.5, 0.0]), torch.tensor([-4.0])
    numbers = d_loss_with_statistics(real, fake)[1].numbers()
    assert numbers == dict(real_mean=0.375, fake_mean=-4.0, real_sign=0.25, fake_sign=-1.0)


def test_statistics_of_rows_that_differ_in_number_or_are_not_reduced() -> None:
    real, fake = logits(5, 1), logits(3, 1)
    seen = d_loss_with_statistics(real, fake, "hinge")[1]
    torch.testing.assert_close(
        torch.stack(seen), torch.stack([real.mean(), fake.mean(), real.sign().mean(), fake.sign().mean()])
    )
    rows, seen = d_loss_with_statistics(real[:3], fake, "lsgan", reduction="none", label_smoothing=0.1)
    assert torch.equal(rows, d_loss(real[:3], fake, "lsgan", reduction="none", label_smoothing=0.1))
    torch.testing.assert_close(seen.real_mean, real[:3].mean())
    for bad in (lambda: d_loss_with_statistics(real, fake[:, 0]), lambda: d_loss_with_statistics(real, fake, "relativistic")):
        with pytest.raises(ValueError, match="real"):
            bad()


def test_statistics_in_compiled_code() -> None:
    torch._dynamo.reset()
    real, fake = logits(5, 1).requires_grad_(), logits(5, 1).requires_grad_()
    value, seen = torch.compile(d_loss_with_statistics, fullgraph=True, backend="aot_eager")(real, fake, "hinge")
    expected, also = d_loss_with_statistics(real, fake, "hinge")
    torch.testing.assert_close((value, *seen), (expected, *also))
    torch.testing.assert_close(torch.autograd.grad(value, (real, fake)), torch.autograd.grad(expected, (real, fake)))


@pytest.mark.filterwarnings("error")
def test_compiling_says_nothing() -> None:
    torch._dynamo.reset()
    loss = GANLoss("lsgan", label_smoothing=0.1)
    compiled = torch.compile(lambda r, f: loss.d(r, f) + loss(f, True) + loss.g(f), fullgraph=True, backend="eager")
    real, fake = logits(5, 1), logits(5, 1)
    torch.testing.assert_close(compiled(real, fake), loss.d(real, fake) + loss(fake, True) + loss.g(fake))


def test_a_generator_is_never_to_be_told_from_real() -> None:
    with pytest.raises(ValueError, match="target_is_real=True"):
        GANLoss("hinge")(logits(3), False, for_discriminator=False)


@pytest.mark.parametrize("is_real", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RELATIVISTIC])
def test_one_side_is_differentiable_twice(kind: str, is_real: bool) -> None:
    loss, x = GANLoss(kind, label_smoothing=0.125 if kind in ("minimax", "nonsaturating", "lsgan") else 0.0), logits(4, 1)
    assert torch.autograd.gradcheck(lambda x: loss(x, is_real), x.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: loss(x, is_real), x)
