"""Every operator in every way that people run PyTorch: values and derivatives by the critic's parameters are plain torch's."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.contexts.operators import OPERATORS, Call, Critic, Operator, critic_of, plain, rows

Result = tuple[Tensor, list[Tensor]]  # a value, and its derivatives by all parameters
Context = Callable[[Call, nn.Module, Tensor, Tensor], Result]

CONTEXTS: dict[str, Context] = {}


def context(function: Context) -> Context:
    CONTEXTS[function.__name__] = function
    return function


def differentiate(value: Tensor, critic: nn.Module, **options) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(critic.parameters()), materialize_grads=True, **options))


def remember(critic: nn.Module) -> Critic:
    """The critic, giving one tensor of logits for one tensor of rows."""
    seen: list[tuple[Tensor, Tensor]] = []

    def call(x: Tensor) -> Tensor:
        for rows_, logits in seen:
            if rows_ is x:
                return logits
        seen.append((x, critic(x)))
        return seen[-1][1]

    return call


@context
def eager(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    value = call(critic, real, fake)
    value.backward()
    return value, [torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters()]


@context
def strided_rows(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    wide = torch.stack((real, fake), dim=1).transpose(2, 3).contiguous().transpose(2, 3)
    value = call(critic, wide[:, 0], wide[:, 1])
    return value, differentiate(value, critic)


@context
def channels_last(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    layout = dict(memory_format=torch.channels_last)
    value = call(critic.to(**layout), real.to(**layout), fake.to(**layout))
    return value, differentiate(value, critic)


@context
def activation_checkpointing(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    value = call(lambda x: checkpoint(critic, x, use_reentrant=False), real, fake)
    return value, differentiate(value, critic)


@context
def one_tensor_in_two_losses(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    once = remember(critic)
    value = 0.25 * call(once, real, fake) + 0.75 * call(once, real, fake)
    return value, differentiate(value, critic)


@context
def compiled_critic(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    value = call(torch.compile(critic, backend="aot_eager"), real, fake)
    return value, differentiate(value, critic)


@context
def compiled_alone(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    """The value in a compiled region, its derivative outside."""
    value = torch.compile(functools.partial(call, critic), fullgraph=True, backend="aot_eager")(real, fake)
    return value, differentiate(value, critic)


def step(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    """A whole update's derivatives, as a region that is compiled holds them."""
    value = call(critic, real, fake)
    return value.detach(), differentiate(value, critic)


@context
def compiled_step(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        return torch.compile(step, fullgraph=True, backend="aot_eager")(call, critic, real, fake)


def functional(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    def value(parameters: dict[str, Tensor]) -> Tensor:
        return call(lambda x: torch.func.functional_call(critic, parameters, (x,)), real, fake)

    gradients, result = torch.func.grad_and_value(value)(dict(critic.named_parameters()))
    return result, list(gradients.values())


@context
def func_grad(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    return functional(call, critic, real, fake)


@context
def compiled_func_grad(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    return torch.compile(functional, fullgraph=True, backend="aot_eager")(call, critic, real, fake)


@context
def vmap_over_critics(call: Call, critic: nn.Module, real: Tensor, fake: Tensor) -> Result:
    other = {name: 2.0 * p for name, p in critic.named_parameters()}
    stacked = {name: torch.stack((other[name], p)) for name, p in critic.named_parameters()}

    def one(parameters: dict[str, Tensor]) -> Tensor:
        return call(lambda x: torch.func.functional_call(critic, parameters, (x,)), real, fake)

    gradients, values = torch.func.vmap(torch.func.grad_and_value(one), randomness="same")(stacked)
    return values[1], [gradient[1] for gradient in gradients.values()]


def check(result: Result, expected: Result) -> None:
    torch.testing.assert_close(result[0].detach(), expected[0].detach(), rtol=1e-11, atol=1e-13)
    for mine, wanted in zip(result[1], expected[1], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12)


def plainly(operator: Operator, real: Tensor, fake: Tensor) -> Result:
    critic = critic_of(operator)
    value = operator.torch(plain(critic), real, fake)
    return value, differentiate(value, critic)


@pytest.mark.parametrize(
    "where", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("compiled") else name for name in CONTEXTS]
)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_in_context(name: str, where: str) -> None:
    torch._dynamo.reset()
    operator, (real, fake) = OPERATORS[name], rows()
    kept = real.clone(), fake.clone()
    check(CONTEXTS[where](operator.fastgan, critic_of(operator), real, fake), plainly(operator, real, fake))
    assert torch.equal(real, kept[0]) and torch.equal(fake, kept[1]), "rows are the caller's"


@pytest.mark.parametrize("name", OPERATORS)
def test_one_tensor_on_both_sides(name: str) -> None:
    operator, (real, _) = OPERATORS[name], rows()
    critic = critic_of(operator)
    value = operator.fastgan(remember(critic), real, real)
    check((value, differentiate(value, critic)), plainly(operator, real, real))


def orders(call: Call, critic: nn.Module, parameters: nn.Module, real: Tensor, fake: Tensor) -> list[list[Tensor]]:
    """The first, second and third derivatives of a value, each of the squared norm of the one before."""
    value, found = call(critic, real, fake), []
    for _ in range(3):
        found.append(differentiate(value, parameters, create_graph=True))
        value = sum((gradient.square().sum() for gradient in found[-1]), start=torch.zeros((), dtype=torch.float64))
    return found


@pytest.mark.parametrize("name", OPERATORS)
def test_create_graph_to_third_order(name: str) -> None:
    operator, (real, fake) = OPERATORS[name], rows()
    critic = critic_of(operator)
    ours, theirs = (orders(*pair, critic, real, fake) for pair in ((operator.fastgan, critic), (operator.torch, plain(critic))))
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-11)
    assert any(gradient.abs().max() > 1e-6 for gradient in ours[-1]), "the third derivative is one"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", OPERATORS)
def test_without_gradients_there_is_a_value(name: str, mode: Callable) -> None:
    operator, (real, fake) = OPERATORS[name], rows()
    critic = critic_of(operator)
    with mode():
        value = operator.fastgan(critic, real.clone(), fake.clone())  # inference mode makes clones of another kind
    assert not value.requires_grad
    torch.testing.assert_close(value, plainly(operator, real, fake)[0].detach(), rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("d_loss", marks=pytest.mark.long),  # what a compiler is given of these two compiled_step sees
        "gradient_penalty, closed form",
        pytest.param("MLP", marks=pytest.mark.long),
    ],
)
def test_a_whole_step_by_inductor(name: str) -> None:
    """Forward, derivatives and the update in one compiled region, by the compiler that people use."""
    torch._dynamo.reset()
    operator, (real, fake) = OPERATORS[name], rows()
    critic = critic_of(operator)

    def update(real: Tensor, fake: Tensor) -> Tensor:
        value, gradients = step(operator.fastgan, critic, real, fake)
        with torch.no_grad():
            for p, gradient in zip(critic.parameters(), gradients, strict=True):
                p.sub_(0.1 * gradient)
        return value

    expected = plainly(operator, real, fake)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        value = torch.compile(update, fullgraph=True)(real, fake)
    moved = [old - 0.1 * gradient for old, gradient in zip(critic_of(operator).parameters(), expected[1], strict=True)]
    check((value, list(critic.parameters())), (expected[0], moved))
