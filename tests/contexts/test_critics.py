"""Penalties of critics as people have them: conditional, of several outputs, normalised, clipped, compiled, and wrong ones."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import losses, penalties
from fastgan.layers import FusedLinear
from fastgan.mlp import MLP
from tests.contexts.operators import OPERATORS, Critic, conv_critic, critic_of, mlp_critic, plain_gradient, plain_penalty, rows

Penalty = Callable[..., Tensor]
CALLS: dict[str, Penalty] = {
    "gradient penalty": lambda critic, real, fake, **how: penalties.gradient_penalty(critic, real, fake, **how),
    "R1": lambda critic, real, fake, **how: penalties.r1_penalty(critic, real, **how),
    "R2": lambda critic, real, fake, **how: penalties.r2_penalty(critic, fake, **how),
    "DRAGAN": lambda critic, real, fake, **how: penalties.dragan_penalty(critic, real, **how),
}


def equal_draws(call: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(11)
    return call()


class Conditional(nn.Module):
    """Logits of rows and of their labels, and the features they were made of."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(3, 32), nn.Linear(32, 5)
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = torch.tanh(self.body(x.flatten(1) * self.embedding(labels)))
        return {"logits": self.head(features), "features": features}


@pytest.mark.parametrize("call", CALLS)
def test_a_conditional_critic_through_a_callable(call: str) -> None:
    critic, (real, fake), labels = Conditional().double(), rows(), torch.tensor([0, 1, 2, 1])
    value = equal_draws(lambda: CALLS[call](lambda x: critic(x, labels)["logits"], real, fake))
    selected = equal_draws(lambda: CALLS[call](lambda x: critic(x, labels), real, fake, select=lambda out: out["logits"]))
    other = equal_draws(lambda: CALLS[call](lambda x: critic(x, labels.flip(0))["logits"], real, fake))
    assert torch.equal(value, selected) and not torch.equal(value, other)
    value.backward()
    assert critic.embedding.weight.grad.abs().sum() > 0 and critic.body.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("call", CALLS)
def test_several_outputs_need_a_selector(call: str) -> None:
    critic, (real, fake) = critic_of(OPERATORS["d_loss"]), rows()
    both = lambda x: (critic(x), x.mean())  # noqa: E731
    value = equal_draws(lambda: CALLS[call](both, real, fake, select=lambda out: out[0]))
    assert torch.equal(value, equal_draws(lambda: CALLS[call](critic, real, fake)))
    with pytest.raises(TypeError, match=r"a tuple, not a tensor of logits.*select="):
        CALLS[call](both, real, fake)


@pytest.mark.parametrize("shape", [(7,), (1, 6), (3, 4, 4), (5, 2, 3, 3)], ids=str)
def test_rows_of_any_shape_have_one_norm_each(shape: tuple[int, ...]) -> None:
    real, weight = torch.randn(6, *shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    norm = weight.square().sum().sqrt()
    critic = lambda x: (x * weight).flatten(1).sum(1)  # noqa: E731
    torch.testing.assert_close(penalties.gradient_penalty(critic, real, -real), 10 * (norm - 1).square())
    torch.testing.assert_close(penalties.r1_penalty(critic, real), 5 * norm.square())


def spectral() -> nn.Module:
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(norm(nn.Conv2d(2, 3, 3)), nn.LeakyReLU(0.2), nn.Flatten(), norm(nn.Linear(12, 1)))


def weight_norm() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1))


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.LayerNorm((3, 2, 2)), nn.SiLU(), nn.Flatten(), nn.Linear(12, 1))


@pytest.mark.parametrize("make", [spectral, weight_norm, layer_norm])
def test_normalised_critics(make: Callable[[], nn.Module]) -> None:
    """In training mode, where spectral norm's estimate moves by one iteration at each forward pass."""
    found = []
    alpha = torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    for penalty in (lambda *game: penalties.gradient_penalty(*game, alpha=alpha), plain_penalty):
        torch.manual_seed(2)
        critic = make().double()
        for _ in range(3):
            value = penalty(critic, *rows())
            gradients = torch.autograd.grad(value, list(critic.parameters()), materialize_grads=True)
        found.append((value, *gradients))
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("make", [conv_critic, mlp_critic])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_clipped_weights_and_a_last_bias_without_a_gradient(make: Callable[[], nn.Module], optimizer: type) -> None:
    """A penalty says nothing of the last bias: its .grad stays None, as autograd has it, and optimizers pass over it."""
    torch.manual_seed(2)
    critic, bound = make().double(), 0.05
    stepper, before = optimizer(critic.parameters(), lr=0.01), [p.detach().clone() for p in critic.parameters()]
    for _ in range(3):
        stepper.zero_grad(set_to_none=True)
        penalties.gradient_penalty(critic, *rows()).backward()
        assert critic[-1].bias.grad is None and critic[-1].weight.grad is not None
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        stepper.step()
        with torch.no_grad():
            for p in critic.parameters():
                p.clamp_(-bound, bound)
    assert all(p.isfinite().all() and p.abs().max() <= bound for p in critic.parameters())
    assert not torch.equal(critic[-1].weight, before[-2].clamp(-bound, bound))


def compiled_in_place() -> Critic:
    critic = critic_of(OPERATORS["d_loss"])
    critic.compile(backend="aot_eager")
    return critic


def compiled_function() -> Critic:
    critic = critic_of(OPERATORS["d_loss"])
    return torch.compile(lambda x: critic(x), backend="aot_eager")


def compiled_chain() -> Critic:
    return torch.compile(critic_of(OPERATORS["r1_penalty, closed form"]), backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("make", [compiled_in_place, compiled_function, compiled_chain])
def test_critics_that_are_compiled_stay_so(make: Callable[[], Critic]) -> None:
    """Their penalty runs what was compiled as it was written, and compiles nothing anew."""
    torch._dynamo.reset()
    critic, (real, _) = make(), rows()
    logits = critic(real)
    frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    value = penalties.r1_penalty(critic, real, gamma=3.0)
    chain = make is compiled_chain
    plain = critic_of(OPERATORS["r1_penalty, closed form" if chain else "d_loss"])
    torch.testing.assert_close(value, 1.5 * plain_gradient(plain, real).square().sum(1).mean())
    assert torch.equal(critic(real), logits) and torch._dynamo.utils.counters["stats"]["unique_graphs"] == frames


def flat_critic() -> Critic:
    return lambda x: 0.0 * x.flatten(1).sum(1)


@pytest.mark.parametrize("critic", [conv_critic, mlp_critic, flat_critic])
def test_zero_gradients_have_slope_zero(critic: Callable[[], Critic]) -> None:
    network, (real, fake) = critic(), rows(dtype=torch.float32)
    if isinstance(network, nn.Module):
        nn.init.zeros_(network[-1].weight)
    value = penalties.gradient_penalty(network, real, fake)
    assert value == 10.0
    if isinstance(network, nn.Module):
        value.backward()
        assert all(p.grad is None or torch.equal(p.grad, torch.zeros_like(p)) for p in network.parameters())


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("call", CALLS)
def test_what_a_penalty_refuses(call: str, method: str) -> None:
    real, fake = rows()
    for critic in (lambda x: torch.ones(4, 1), lambda x: x.detach().sum(), lambda x: torch.ones(4, requires_grad=True)):
        with pytest.raises(ValueError, match="do not depend"):
            CALLS[call](critic, real, fake, method=method)
    with pytest.raises(TypeError, match="floating-point"):
        CALLS[call](conv_critic(), real.long(), fake.long(), method=method)
    with pytest.raises(ValueError, match="no rows"):
        CALLS[call](conv_critic(), real[:0], fake[:0], method=method)


@pytest.mark.slow
@pytest.mark.xfail(
    torch.__version__ < (2, 14), reason="older: no double backward of a convolution of symbolic sizes", strict=False
)
@pytest.mark.parametrize("call", CALLS)
def test_a_compiled_penalty_takes_batches_of_any_size(call: str) -> None:
    """The last batch of an epoch is smaller; what is random is drawn anew in each call."""
    torch._dynamo.reset()
    critic = critic_of(OPERATORS["d_loss"])
    compiled = torch.compile(lambda real, fake: CALLS[call](critic, real, fake), fullgraph=True, backend="aot_eager")
    real, fake = torch.randn(2, 9, 2, 4, 4, dtype=torch.float64)
    for rows_ in (9, 5, 7):
        values = [compiled(real[:rows_], fake[:rows_]).item() for _ in range(2)]
        assert all(value > 0 for value in values)
        assert (values[0] != values[1]) == (call in ("gradient penalty", "DRAGAN"))


def test_threads_that_overlap_leave_the_compiler_as_it_was() -> None:
    """Two penalties of compiled critics, the first to begin being the first to end."""
    torch._dynamo.reset()
    critic, (real, _) = compiled_function(), rows()
    critic(real)
    inside, go = threading.Barrier(2), threading.Event()
    values: list[Tensor] = []

    def slow(x: Tensor) -> Tensor:
        inside.wait(timeout=60)
        assert go.wait(timeout=60)
        return critic(x)

    def fast(x: Tensor) -> Tensor:
        inside.wait(timeout=60)
        return critic(x)

    first = threading.Thread(target=lambda: values.append(penalties.r1_penalty(fast, real)))
    second = threading.Thread(target=lambda: values.append(penalties.r1_penalty(slow, real)))
    first.start(), second.start()
    first.join()
    go.set()
    second.join()
    torch.testing.assert_close(*values)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.compile(lambda x: x.sin() + 1, backend="aot_eager")(real)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 1, "what is new is compiled again"


def test_penalties_without_numbers() -> None:
    """On the meta device, where a model is laid out before it has weights."""
    critic, real = conv_critic().to("meta"), torch.empty(4, 2, 4, 4, device="meta")
    for value in (penalties.gradient_penalty(critic, real, real), penalties.r1_penalty(mlp_critic().to("meta"), real)):
        assert value.shape == () and value.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_another_default_dtype(dtype: torch.dtype) -> None:
    layer = MLP((6, 8, 1), dropout=0.5)
    real = torch.randn(4, 6)
    torch.set_default_dtype(dtype)
    try:
        value = (
            penalties.gradient_penalty(layer, real, -real) + losses.d_loss(layer(real), layer(-real)) + layer(real[None]).sum()
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert value.dtype == torch.float32 and value.isfinite()


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_masks_under_vmap(randomness: str) -> None:
    layer, x = FusedLinear(6, 64, dropout=0.5, bias=False), torch.ones(3, 2, 6)
    y = torch.func.vmap(layer, randomness=randomness)(x)
    plain = F.linear(x, layer.weight)
    kept = y != 0
    torch.testing.assert_close(y[kept], 2 * plain[kept])
    assert 0.3 < kept.float().mean() < 0.7 and torch.equal(kept[0], kept[1]) == (randomness == "same")
