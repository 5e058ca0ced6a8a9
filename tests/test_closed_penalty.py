"""Penalties on MLP critics in closed form, as people call them: the value and the gradients of autograd's double backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgan import closed_penalty, penalties
from fastgan.layers import drawing
from fastgan.mlp import MLP
from fastgan.models import Discriminator
from fastgan.ops.sample import Draws

ROWS, FEATURES = 7, 12
Call = Callable[..., Tensor]


def sequential(*ends: nn.Module) -> nn.Sequential:
    hidden = [nn.Linear(FEATURES, 9), nn.LeakyReLU(0.3), nn.Linear(9, 5), nn.ReLU(), nn.Dropout(0.0), nn.Linear(5, 1)]
    return nn.Sequential(*hidden, *ends)


def critics() -> dict[str, nn.Module]:
    torch.manual_seed(4)
    return {
        "MLP": MLP((FEATURES, 9, 5, 1), activation="leaky_relu"),
        "MLP with dropout": MLP((FEATURES, 9, 5, 1), dropout=0.4),
        "no biases": MLP((FEATURES, 6, 1), bias=False),
        "one layer": MLP((FEATURES, 1)),
        "Sequential": sequential(),
        "Sequential on pictures": nn.Sequential(nn.Flatten(), *sequential()),
        "two outputs": nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Linear(4, 2)),
        "Discriminator": Discriminator(FEATURES, dropout=0.3),
        "Discriminator in eval": Discriminator(FEATURES, dropout=0.3).eval(),
    }


CALLS: dict[str, Call] = {
    "gradient penalty": lambda critic, real, fake, **how: penalties.gradient_penalty(critic, real, fake, alpha=mix(), **how),
    "one-sided": lambda critic, real, fake, **how: penalties.gradient_penalty(
        critic, real, fake, alpha=mix(), target=0.01, one_sided=True, **how
    ),
    "R1": lambda critic, real, fake, **how: penalties.r1_penalty(critic, real, **how),
    "R2": lambda critic, real, fake, **how: penalties.r2_penalty(critic, fake, gamma=3.0, **how),
    "DRAGAN": lambda critic, real, fake, **how: penalties.dragan_penalty(critic, real, **how),
}


def mix() -> Tensor:
    return torch.linspace(0, 1, ROWS, dtype=torch.float64)


def rows(critic: nn.Module) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    pictures = isinstance(critic, nn.Sequential) and isinstance(critic[0], nn.Flatten)
    shape = (ROWS, 1, 3, 4) if pictures else (ROWS, FEATURES)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


def gradients(critic: nn.Module, value: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(value, list(critic.parameters()), allow_unused=True))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", critics())
def test_value_and_gradients_are_autograds(name: str, call: str) -> None:
    critic = critics()[name].double()
    assert closed_penalty.read(critic, rows(critic)[0]), "this critic has a closed form"
    results = []
    for method in ("auto", "autograd"):
        torch.manual_seed(6)  # of dropout masks and DRAGAN's noise
        value = CALLS[call](critic, *rows(critic), method=method)
        results.append((value, gradients(critic, value)))
    (value, ours), (expected, theirs) = results
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert (mine is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(mine, wanted, rtol=1e-11, atol=1e-13)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in ours)


def test_a_whole_loss_trains_as_before() -> None:
    """Two penalties and a loss in one backward, weighted, and .grad where it was."""
    grads = []
    for method in ("auto", "autograd"):
        critic = critics()["Sequential"].double()
        real, fake = rows(critic)
        loss = critic(fake).mean() - critic(real).mean()
        loss = (
            loss + 0.5 * CALLS["R1"](critic, real, fake, method=method) + 2.0 * CALLS["R2"](critic, real, fake, method=method)
        )
        loss.backward()
        grads.append([p.grad for p in critic.parameters()])
    for mine, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-11, atol=1e-13)


def test_a_graph_that_is_kept_can_be_used_again() -> None:
    critic = critics()["MLP"].double()
    value = CALLS["R1"](critic, *rows(critic))
    first = torch.autograd.grad(value, critic.layers[0].weight, retain_graph=True)[0]
    again = torch.autograd.grad(3.0 * value, critic.layers[0].weight)[0]
    torch.testing.assert_close(again, 3.0 * first)


def test_the_masks_of_a_running_pass_are_taken() -> None:
    critic = critics()["MLP with dropout"].double()
    values = []
    for method in ("auto", "autograd"):
        with drawing(Draws(1, 2, dtype=torch.float64), 3):
            values.append(CALLS["R1"](critic, *rows(critic), method=method))
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)


def test_it_is_differentiable_again_where_no_dropout_is_on() -> None:
    critic = critics()["MLP"].double()
    weight = critic.layers[1].weight
    results = []
    for method in ("auto", "autograd"):
        (slope,) = torch.autograd.grad(CALLS["R1"](critic, *rows(critic), method=method), weight, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), weight)[0])
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-14)


def test_twice_under_dropout_is_refused() -> None:
    critic = critics()["MLP with dropout"].double()
    value = CALLS["R1"](critic, *rows(critic))
    with pytest.raises(RuntimeError, match='method="autograd"'):
        torch.autograd.grad(value, critic.layers[0].weight, create_graph=True)


def test_under_autocast_it_errs_no_more_than_autograd() -> None:
    torch.manual_seed(8)
    critic = MLP((64, 96, 80, 1), activation="leaky_relu")
    real, fake, alpha = torch.randn(32, 64), torch.randn(32, 64), torch.rand(32)

    def run(dtype: torch.dtype, method: str, autocast: bool) -> Tensor:
        copy = MLP((64, 96, 80, 1), activation="leaky_relu").to(dtype)
        copy.load_state_dict(critic.state_dict())
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = penalties.gradient_penalty(copy, *(x.to(dtype) for x in (real, fake)), alpha=alpha.to(dtype), method=method)
        assert value.dtype == dtype
        value.backward()
        return torch.cat([layer.weight.grad.double().flatten() for layer in copy.layers])

    exact = run(torch.float64, "autograd", False)
    closed, autograd = ((run(torch.float32, method, True) - exact).norm() for method in ("auto", "autograd"))
    assert 0 < closed <= 2 * autograd


def hooked() -> nn.Module:
    critic = sequential()
    critic[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return critic


class Doubled(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: sequential(nn.Sigmoid()), id="a sigmoid at the end"),
        pytest.param(lambda: MLP((FEATURES, 4, 1), activation="tanh"), id="a smooth unit"),
        pytest.param(lambda: nn.Sequential(nn.Linear(FEATURES, 4), nn.Softplus(), nn.Linear(4, 1)), id="another module"),
        pytest.param(
            lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(FEATURES, 1))), id="spectral norm"
        ),
        pytest.param(hooked, id="a hook"),
        pytest.param(lambda: Doubled((FEATURES, 4, 1)), id="a subclass"),
    ],
)
def test_other_critics_take_double_backward(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(2)
    critic = make().double()
    real, fake = rows(critic)
    assert closed_penalty.read(critic, real) is None
    critic.eval()  # spectral norm's estimate moves in training mode
    values = [CALLS["gradient penalty"](critic, real, fake, method=method) for method in ("auto", "autograd")]
    torch.testing.assert_close(*values)


def test_a_plain_function_is_a_critic_too() -> None:
    critic = critics()["MLP"].double()
    real, fake = rows(critic)
    values = [CALLS["R1"](each, real, fake) for each in (critic, lambda x: critic(x))]
    torch.testing.assert_close(*values)


def test_zero_gradients_have_no_direction() -> None:
    critic = MLP((FEATURES, 4, 1)).double()
    nn.init.zeros_(critic.layers[-1].weight)
    value = CALLS["gradient penalty"](critic, *rows(critic))
    assert value == 10.0 and all(g is None or g.isfinite().all() for g in gradients(critic, value))


def test_without_grad_mode_there_is_a_value_alone() -> None:
    critic = critics()["MLP"].double()
    with torch.no_grad():
        value = CALLS["R1"](critic, *rows(critic))
    assert not value.requires_grad and value > 0
