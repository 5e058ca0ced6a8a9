"""Penalties on MLP critics in closed form, as people call them: the value and the gradients of autograd's double backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastgan import penalties
from fastgan.chain import penalty
from fastgan.layers import FusedLinear, drawing
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


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", critics())
def test_value_and_gradients_are_autograds(name: str, call: str) -> None:
    critic = critics()[name].double()
    assert penalty.read(critic, rows(critic)[0]), "this critic has a closed form"
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


# of dropout masks: by one of them every row has a gradient, by the other some row has none
ALIVE, DEAD = 34, 6


def both_orders(call: Callable[..., Tensor], weights: list[Tensor], seed: int = ALIVE) -> list[tuple[Tensor | None, ...]]:
    """First and second derivatives, in closed form and by autograd, under the same masks."""
    found = []
    for method in ("auto", "autograd"):
        torch.manual_seed(seed)
        first = torch.autograd.grad(call(method=method), weights, create_graph=True, allow_unused=True)
        second = sum(g.square().sum() for g in first if g is not None)
        found.append((*first, *torch.autograd.grad(second, weights, allow_unused=True)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["MLP", "MLP with dropout", "Sequential", "no biases", "Discriminator"])
def test_it_is_differentiable_again(name: str, call: str) -> None:
    critic = critics()[name].double()
    weights = [p for p in critic.parameters() if p.dim() == 2]
    ours, theirs = both_orders(lambda method: CALLS[call](critic, *rows(critic), method=method), weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_a_row_without_a_gradient_spoils_no_first_derivative() -> None:
    """There the norm's slope is taken for 0; that slope has none, so that second derivatives are nan by both ways."""
    critic = critics()["MLP with dropout"].double()
    weights = [p for p in critic.parameters() if p.dim() == 2]
    ours, theirs = both_orders(lambda method: CALLS["DRAGAN"](critic, *rows(critic), method=method), weights, DEAD)
    count = len(weights)
    torch.testing.assert_close(ours[:count], theirs[:count], rtol=1e-10, atol=1e-12)
    assert all(one.isnan().any() and other.isnan().any() for one, other in zip(ours[count:], theirs[count:], strict=True))


def test_layers_that_share_their_weights() -> None:
    shared = nn.Linear(FEATURES, FEATURES)
    critic = nn.Sequential(shared, nn.LeakyReLU(0.2), shared, nn.ReLU(), nn.Linear(FEATURES, 1)).double()
    ours, theirs = both_orders(lambda method: CALLS["R1"](critic, *rows(critic), method=method), [shared.weight])
    assert penalty.read(critic, rows(critic)[0])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", ["0.weight", "2.bias", "5.weight"])
def test_parameters_that_are_frozen(frozen: str) -> None:
    critic = sequential().double()
    critic.get_parameter(frozen).requires_grad_(False)
    weights = [p for p in critic.parameters() if p.requires_grad and p.dim() == 2]
    ours, theirs = both_orders(lambda method: CALLS["R1"](critic, *rows(critic), method=method), weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_critic_that_changes_its_mode_before_the_backward_pass() -> None:
    critic = critics()["MLP with dropout"].double().eval()
    weight = critic.layers[0].weight
    value, expected = (CALLS["R1"](critic, *rows(critic), method=method) for method in ("auto", "autograd"))
    critic.train()
    for create_graph in (False, True):
        ours, theirs = (torch.autograd.grad(x, weight, create_graph=create_graph, retain_graph=True) for x in (value, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_nothing_is_kept_after_the_backward_pass() -> None:
    """A penalty in somebody's log holds no gradients."""
    critic = critics()["MLP"].double()
    value = CALLS["R1"](critic, *rows(critic))
    value.backward()
    with pytest.raises(RuntimeError, match="after they have already been freed"):
        _ = value.grad_fn.saved_tensors
    held = [x for x in vars(value.grad_fn).values() if isinstance(x, Tensor)]
    assert not held


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


def patched(critic: nn.Module, layer: nn.Module | None = None) -> nn.Module:
    target = layer or critic
    forward = target.forward
    target.forward = lambda x: forward(2 * x)
    return critic


def patched_layer() -> nn.Module:
    critic = MLP((FEATURES, 4, 1))
    return patched(critic, critic.layers[0])


class Tripled(FusedLinear):
    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


class Halved(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return 0.5 * input


def with_layer_of_its_own() -> nn.Module:
    critic = MLP((FEATURES, 4, 1))
    critic.add_module("0", Tripled(FEATURES, 4))
    return critic


def normalized(critic: nn.Module, layer: nn.Module) -> nn.Module:
    nn.utils.parametrizations.weight_norm(layer)
    return critic


def normalized_mlp() -> nn.Module:
    critic = MLP((FEATURES, 4, 1))
    return normalized(critic, critic.layers[0])


def normalized_sequential() -> nn.Module:
    critic = nn.Sequential(FusedLinear(FEATURES, 4), nn.Linear(4, 1))
    return normalized(critic, critic[0])


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
        pytest.param(lambda: patched(sequential()), id="a forward of its own"),
        pytest.param(lambda: patched(MLP((FEATURES, 4, 1))), id="an MLP with a forward of its own"),
        pytest.param(patched_layer, id="a layer with a forward of its own"),
        pytest.param(with_layer_of_its_own, id="a subclass of FusedLinear in an MLP"),
        pytest.param(lambda: nn.Sequential(Tripled(FEATURES, 4), nn.Linear(4, 1)), id="a subclass of FusedLinear"),
        pytest.param(lambda: nn.Sequential(nn.Linear(FEATURES, 4), Halved(), nn.Linear(4, 1)), id="a subclass of Dropout"),
        pytest.param(normalized_mlp, id="weight norm in an MLP"),
        pytest.param(normalized_sequential, id="weight norm of a FusedLinear"),
    ],
)
def test_other_critics_take_double_backward(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(2)
    critic = make().double()
    real, fake = rows(critic)
    assert penalty.read(critic, real) is None
    critic.eval()  # spectral norm's estimate moves in training mode
    values = [CALLS["gradient penalty"](critic, real, fake, method=method) for method in ("auto", "autograd")]
    torch.testing.assert_close(*values)


def test_rows_that_the_critic_takes_otherwise() -> None:
    """A Sequential without Flatten sees the last dimension alone; a closed form would have flattened the rows."""
    critic, tokens = sequential().double(), torch.randn(ROWS, 3, FEATURES, dtype=torch.float64)
    values = [penalties.r1_penalty(critic, tokens, method=method) for method in ("auto", "autograd")]
    torch.testing.assert_close(*values)
    wide = nn.Sequential(nn.Linear(3 * FEATURES, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with pytest.raises(ValueError, match=r"which takes 36 numbers: write real\.flatten\(1\)"):
        penalties.r1_penalty(wide, tokens)


@pytest.mark.parametrize("name", ["MLP", "Sequential"])
def test_parameters_that_are_given_for_one_call(name: str) -> None:
    """As in an average's or an inner loop's penalty: the derivative is by the given ones."""
    game, real = Penalised(critics()[name].double()), rows(critics()[name])[0]
    given = {name: (1.5 * p).detach().requires_grad_() for name, p in game.named_parameters()}
    weights = [p for p in given.values() if p.dim() == 2]
    ours, theirs = both_orders(lambda method: torch.func.functional_call(game, given, (real, method)), weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_forward_mode_derivatives_take_autograd() -> None:
    critic = critics()["MLP"].double()
    real = rows(critic)[0]
    with forward_ad.dual_level():
        weight = critic.layers[0].weight
        dual = forward_ad.make_dual(weight.detach(), torch.ones_like(weight))
        value = torch.func.functional_call(Penalised(critic), {"critic.0.weight": dual}, (real,))
        tangent = forward_ad.unpack_dual(value).tangent
    (slope,) = torch.autograd.grad(penalties.r1_penalty(critic, real), weight)
    torch.testing.assert_close(tangent, slope.sum())


class Penalised(nn.Module):
    """R1 of a critic, as a module."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, real: Tensor, method: str = "auto") -> Tensor:
        return penalties.r1_penalty(self.critic, real, method=method)


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
