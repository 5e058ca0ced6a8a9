"""The critic's input gradient: logits of one row each are taken, as far as shapes tell, and others refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastgan
from fastgan import penalties
from tests.contexts.operators import conv_critic

ROWS = 6


def images(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, 2, 4, 4, dtype=torch.float64)


def maps() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 1)).double()


# of ROWS rows: what a critic makes of [ROWS, 1] logits, and of a map of [ROWS, 1, 2, 2]
OF_SEVERAL_ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "a mean": lambda x: x.mean(),
    "a mean that keeps its dimension": lambda x: x.mean(0),
    "a mean of shape [1, 1]": lambda x: x.mean().view(1, 1),
    "packs of three": lambda x: x.view(-1, 3).sum(1, keepdim=True),
    "packs of two, without a last dimension": lambda x: x.view(-1, 2).sum(1),
    "packs that have as many logits as there are rows": lambda x: x.view(-1, 2),
    "packs of maps": lambda x: x.view(-1, 3, 1, 1).expand(-1, -1, 4, 4),
    "columns": lambda x: x.t(),
    "no logits": lambda x: x[:, :0],
    "some of the rows": lambda x: x[1:],
    "some more than the rows": lambda x: torch.cat((x, x[:1])),
}
CALLS: dict[str, Callable[..., Tensor]] = {
    "gradient_penalty": lambda critic, x, **how: penalties.gradient_penalty(critic, x, x + 1, **how),
    "r1_penalty": lambda critic, x, **how: penalties.r1_penalty(critic, x, **how),
    "r2_penalty": lambda critic, x, **how: penalties.r2_penalty(critic, x, **how),
    "dragan_penalty": lambda critic, x, **how: penalties.dragan_penalty(critic, x, **how),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fold", OF_SEVERAL_ROWS.values(), ids=OF_SEVERAL_ROWS)
def test_logits_that_are_not_each_a_rows_are_refused(fold: Callable[[Tensor], Tensor], call: str) -> None:
    critic = conv_critic().double()
    with pytest.raises(ValueError, match=r"logits of shape \(.*\) for rows of shape \(6, 2, 4, 4\).*packs"):
        CALLS[call](lambda x: fold(critic(x)), images())
    with pytest.raises(ValueError, match="for rows of shape"):
        CALLS[call](lambda x: (0, fold(critic(x))), images(), select=1)


def test_they_are_refused_under_torch_func_and_without_numbers() -> None:
    critic = conv_critic()
    with pytest.raises(ValueError, match="for rows of shape"):
        penalties.r1_penalty(lambda x: critic.to("meta")(x).mean(0), torch.empty(4, 2, 4, 4, device="meta"))
    critic = conv_critic().double()

    def value(parameters: dict[str, Tensor]) -> Tensor:
        return penalties.r1_penalty(lambda x: torch.func.functional_call(critic, parameters, (x,)).mean(0), images())

    with pytest.raises(ValueError, match="for rows of shape"):
        torch.func.grad(value)(dict(critic.named_parameters()))
    with torch.no_grad(), pytest.raises(ValueError, match="for rows of shape"):
        penalties.r1_penalty(lambda x: critic(x).mean(), images())


@pytest.mark.slow
@pytest.mark.parametrize("fullgraph", [False, True])
def test_they_are_refused_in_compiled_code(fullgraph: bool) -> None:
    """As an error of that name, or, where the graph may not break, in the text of torch's."""
    torch._dynamo.reset()
    critic = conv_critic().double()
    run = torch.compile(
        lambda x: penalties.r1_penalty(lambda y: critic(y).mean(0), x), fullgraph=fullgraph, backend="aot_eager"
    )
    with pytest.raises(torch._dynamo.exc.Unsupported if fullgraph else ValueError, match="for rows of shape"):
        run(images())


@pytest.mark.slow
def test_compiled_code_may_break_its_graph_inside_a_critic() -> None:
    torch._dynamo.reset()
    critic, x = conv_critic().double(), images()

    def breaking(y: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return critic(y)

    value = torch.compile(lambda y: penalties.r1_penalty(breaking, y), backend="aot_eager")(x)
    torch.testing.assert_close(value, penalties.r1_penalty(critic, x))


# logits of which each is of one row, from a critic of maps
OF_ONE_ROW: dict[str, Callable[[Tensor], Tensor]] = {
    "maps": lambda x: x,
    "several for a row": lambda x: x.flatten(1),
    "one for a row, [B]": lambda x: x.sum((1, 2, 3)),
    "one for a row, [B, 1]": lambda x: x.flatten(1).sum(1, keepdim=True),
    "maps flattened": lambda x: x.reshape(-1),
    "maps flattened, [B * 4, 1]": lambda x: x.reshape(-1, 1),
}


def exact(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """R1 with gamma 10, a row at a time."""
    gradients = []
    for row in x:
        points = row[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(points).sum(), points)
        gradients.append(gradient.square().sum())
    return 5 * torch.stack(gradients).mean()


@pytest.mark.parametrize("form", OF_ONE_ROW.values(), ids=OF_ONE_ROW)
@pytest.mark.parametrize("rows", [1, 5])
def test_logits_of_one_row_each_are_taken(form: Callable[[Tensor], Tensor], rows: int) -> None:
    critic, x = maps(), images(rows)
    torch.testing.assert_close(penalties.r1_penalty(lambda y: form(critic(y)), x), exact(critic, x))


def test_the_0d_logit_of_one_row_is_taken() -> None:
    critic, x = maps(), images(1)
    torch.testing.assert_close(penalties.r1_penalty(lambda y: critic(y).sum(), x), exact(critic, x))


@pytest.mark.slow
def test_batches_of_any_size_recompile_once() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    critic = maps()
    run = torch.compile(lambda x: penalties.r1_penalty(lambda y: critic(y).view(-1), x), fullgraph=True, backend="aot_eager")
    for rows in (9, 5, 7, 6):
        x = images(rows)
        torch.testing.assert_close(run(x), exact(critic, x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_packs_are_rows_of_a_penalty() -> None:
    """As the message says: a row is a pack of k samples, with one norm and one logit."""
    critic, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32, 5), nn.Tanh(), nn.Linear(5, 1)).double(), images()
    packed = lambda rows: critic(rows.reshape(-1, 3 * 32))  # noqa: E731
    with pytest.raises(ValueError, match=r"unflatten\(0, \(-1, k\)\)"):
        penalties.r1_penalty(packed, x)
    value = penalties.r1_penalty(lambda packs: packed(packs.flatten(0, 1)), x.unflatten(0, (-1, 3)))
    torch.testing.assert_close(value, exact(critic, x.view(2, 96)))


@pytest.mark.parametrize("logits", [lambda x: (x > 0).sum(1), lambda x: x.flatten(1).argmax(1)])
def test_logits_are_floating_point_numbers(logits: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(TypeError, match="floating-point logits"):
        penalties.r1_penalty(logits, images())


def test_a_trainers_critic_without_a_logit_for_every_row_is_refused() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.layer(x)).mean(0)

    options = dict(engine="autograd", precision="fp32", penalty=penalties.R1(1.0), loss="wgan", capture="off", device="cpu")
    trainer = fastgan.Trainer(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), Mean(), **options)
    with pytest.raises(ValueError, match=r"logits of shape \(1,\) for rows of shape \(8, 6\)"):
        trainer.attach(torch.rand(20, 6) * 2 - 1, 8).step()
