"""Every operator under autocast and a GradScaler, and in half precision: as exact as plain torch there, and safer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastgan import losses, penalties
from tests.contexts.operators import OPERATORS, Call, critic_of, plain, rows

HALVES = [pytest.param(torch.bfloat16, id="bf16"), pytest.param(torch.float16, id="fp16")]


def run(call: Call, critic: nn.Module, half: torch.dtype | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A value, and the derivatives by all parameters in one vector in fp64."""
    real, fake = rows(dtype=dtype)
    with torch.autocast("cpu", half, enabled=half is not None):
        value = call(critic, real, fake)
    gradients = torch.autograd.grad(value, list(critic.parameters()), materialize_grads=True)
    return value.detach(), torch.cat([gradient.double().flatten() for gradient in gradients])


LAYERS = ("MLP",)  # what a critic returns stays in autocast's dtype, as with torch's own layers


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in LAYERS])
def test_autocast(name: str, half: torch.dtype) -> None:
    """fp32 comes out, and the error against fp64 is at most twice plain torch's under the same autocast."""
    operator = OPERATORS[name]
    exact = run(operator.torch, plain(critic_of(operator)), None, torch.float64)
    theirs = run(operator.torch, plain(critic_of(operator, torch.float32)), half, torch.float32)
    ours = run(operator.fastgan, critic_of(operator, torch.float32), half, torch.float32)
    assert ours[0].dtype == torch.float32
    for mine, other, wanted in zip(ours, theirs, exact, strict=True):
        rounding = 2.0**-7 if half is torch.bfloat16 else 2.0**-10
        assert (mine - wanted).norm() <= 2 * (other - wanted).norm() + 0.25 * rounding * wanted.norm()


def test_layers_under_autocast_are_torchs() -> None:
    operator = OPERATORS["MLP"]
    critic, (real, _) = critic_of(operator, torch.float32), rows(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = critic(real), plain(critic)(real)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)


@pytest.mark.parametrize("name", OPERATORS)
def test_grad_scaler(name: str) -> None:
    """The scaled backward of one update, unscaled: the gradients that there would have been, and a step that is taken."""
    operator, (real, fake) = OPERATORS[name], rows(dtype=torch.float32)
    critic = critic_of(operator, torch.float32)
    optimizer, scaler = torch.optim.SGD(critic.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(operator.fastgan(critic, real, fake)).backward()
    scaler.unscale_(optimizer)
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in critic.parameters()]
    other = critic_of(operator, torch.float32)
    expected = torch.autograd.grad(operator.torch(plain(other), real, fake), list(other.parameters()), materialize_grads=True)
    torch.testing.assert_close(found, list(expected), rtol=1e-4, atol=1e-5)
    scaler.step(optimizer)
    scaler.update()
    moved = [not torch.equal(p, q) for p, q in zip(critic.parameters(), other.parameters(), strict=True)]
    assert scaler.get_scale() == 2.0**16 and any(moved), "no update was skipped"


def steep() -> nn.Module:
    """A critic whose input gradient, 3e5 in each dimension, is beyond fp16."""
    critic = nn.Sequential(nn.Conv2d(2, 4, 4, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        for p in critic.parameters():
            p.fill_(1e-3 if p.dim() == 4 else 7.5e7)
    return critic


def test_a_gradient_beyond_fp16_is_finite_under_its_autocast() -> None:
    """The usual script's penalty is inf or nan there, whatever a scaler does afterwards."""
    real, fake = rows(dtype=torch.float32)
    with torch.autocast("cpu", torch.float16):
        value = penalties.r1_penalty(steep(), real)
        scripts = OPERATORS["r1_penalty"].torch(steep(), real, fake)
    assert value.isfinite() and value > 1e9 and not scripts.isfinite()


@pytest.mark.parametrize("half", HALVES)
def test_generated_rows_that_autocast_left_in_half(half: torch.dtype) -> None:
    critic = critic_of(OPERATORS["gradient_penalty"], torch.float32)
    real, fake = rows(dtype=torch.float32)
    values = []
    for rows_ in (fake.to(half), fake.to(half).float()):
        with torch.autocast("cpu", half):
            values.append(penalties.gradient_penalty(critic, real, rows_, alpha=torch.full((4,), 0.5)))
    assert torch.equal(*values) and values[0].dtype == torch.float32
    with torch.autocast("cpu", half):
        torch.testing.assert_close(*(penalties.r2_penalty(critic, x) for x in (fake.to(half), fake.to(half).float())))


@pytest.mark.parametrize("half", HALVES)
def test_a_critic_in_half_precision(half: torch.dtype) -> None:
    """Without autocast: weights and rows in half, values in fp32."""
    operator = OPERATORS["gradient_penalty"]
    real, fake = rows(dtype=half)
    critic = critic_of(operator, half)
    for value in (losses.d_loss(critic(real), critic(fake)), operator.fastgan(critic, real, fake)):
        value.backward()
        assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critic.parameters())


@pytest.mark.parametrize("half", HALVES)
def test_a_critic_in_half_precision_inside_autocast(half: torch.dtype) -> None:
    operator = OPERATORS["gradient_penalty"]
    critic, (real, fake) = critic_of(operator, half), rows(dtype=half)
    with torch.autocast("cpu", half):
        value = operator.fastgan(critic, real, fake)
    assert value.dtype == torch.float32 and value.isfinite()


def test_what_else_a_critic_takes_is_to_be_fp32_inside_autocast_to_fp16() -> None:
    labels, features = nn.Linear(2, 32), nn.Linear(32, 1)
    real = torch.randn(4, 32)
    with torch.autocast("cpu", torch.float16):
        condition = labels(torch.ones(4, 2))
        with pytest.raises(RuntimeError, match=r"dtype|scalar type") as caught:
            penalties.r1_penalty(lambda x: features(x) + (x[:, None] @ condition[:, :, None])[:, 0], real)
        assert any(".float()" in note for note in caught.value.__notes__)
        wide = condition.float()
        value = penalties.r1_penalty(lambda x: features(x) + (x[:, None] @ wide[:, :, None])[:, 0], real)
    assert value.isfinite()
