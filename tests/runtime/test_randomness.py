"""Random operations draw from generators of a thread's own: the numbers of a seeded generator, with torch's left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fastgan.runtime.randomness import OwnDraws, drawing_from, is_compiled, seeded

CPU = torch.device("cpu")
ROWS = torch.linspace(0.1, 0.9, 40).view(5, 8)

DRAWS: dict[str, Callable[[], Tensor]] = {
    "dropout": lambda: F.dropout(ROWS, 0.4),
    "dropout in place": lambda: F.dropout(ROWS.clone(), 0.4, inplace=True),
    "feature dropout": lambda: F.dropout1d(ROWS, 0.4),
    "alpha dropout": lambda: F.alpha_dropout(ROWS, 0.4, training=True),
    "feature alpha dropout": lambda: F.feature_alpha_dropout(ROWS, 0.4, training=True),
    "rrelu": lambda: F.rrelu(ROWS - 0.5, training=True),
    "gumbel softmax": lambda: F.gumbel_softmax(ROWS),
    "fractional pooling": lambda: F.fractional_max_pool2d(torch.arange(900.0).view(1, 1, 30, 30), 2, output_size=(9, 9)),
    "rand": lambda: torch.rand(3, 17),
    "rand into a tensor": lambda: torch.rand(3, 17, out=torch.empty(3, 17)),
    "randn": lambda: torch.randn(3, 17, dtype=torch.float64),
    "rand_like": lambda: torch.rand_like(ROWS),
    "randn_like": lambda: torch.randn_like(ROWS),
    "randint": lambda: torch.randint(100, (9,)),
    "randint from": lambda: torch.randint(10, 100, (9,)),
    "randint_like": lambda: torch.randint_like(ROWS, 100),
    "randint_like from": lambda: torch.randint_like(ROWS, 10, 100),
    "randperm": lambda: torch.randperm(50),
    "normal": lambda: torch.normal(ROWS, 2.0),
    "normal_": lambda: torch.empty(20).normal_(),
    "uniform_": lambda: torch.empty(20).uniform_(),
    "exponential_": lambda: torch.empty(20).exponential_(),
    "bernoulli": lambda: torch.bernoulli(ROWS),
    "multinomial": lambda: torch.multinomial(ROWS, 3),
    "poisson": lambda: torch.poisson(5 * ROWS),
    "gamma": lambda: torch.distributions.Gamma(ROWS, 1.0).rsample(),
    "dirichlet": lambda: torch.distributions.Dirichlet(ROWS).rsample(),
    "attention": lambda: F.scaled_dot_product_attention(*[ROWS.view(1, 1, 5, 8)] * 3, dropout_p=0.5),
    "lstm": lambda: lstm()(ROWS)[0],
}


def lstm() -> nn.Module:
    layers = nn.LSTM(8, 8, num_layers=2, dropout=0.5)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(0.1)
    return layers


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_numbers_are_those_of_a_seeded_generator(draw: Callable[[], Tensor]) -> None:
    with seeded(11, CPU):
        expected = [draw(), draw()]
    before, own = torch.get_rng_state(), OwnDraws()
    for _ in range(2):
        with own.begin(11):
            found = [draw(), draw()]
        assert own.drawn and not own.replayed
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(*expected)


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda: F.dropout(ROWS, 0.5, training=False), id="dropout in evaluation mode"),
        pytest.param(lambda: F.scaled_dot_product_attention(*[ROWS.view(1, 1, 5, 8)] * 3), id="attention without dropout"),
        pytest.param(lambda: torch.rand(3, generator=torch.Generator().manual_seed(4)), id="a generator of its own"),
        pytest.param(lambda: torch.empty(3).normal_(generator=torch.Generator().manual_seed(4)), id="that in place"),
        pytest.param(lambda: torch.native_dropout(ROWS, 0.0, True)[0], id="a probability of 0"),
        pytest.param(lambda: ROWS @ ROWS.T, id="nothing random"),
    ],
)
def test_what_does_not_draw_from_torchs_generator_is_left_alone(draw: Callable[[], Tensor]) -> None:
    expected, own = draw(), OwnDraws()
    with own:
        assert torch.equal(draw(), expected)
    assert not own.drawn


def test_the_dropout_of_gpus_keeps_its_meaning() -> None:
    rows = torch.ones(100, 1000, requires_grad=True)
    own = OwnDraws()
    with own.begin(3):
        dropped, kept = torch.native_dropout(rows, 0.3, True)
        again = torch.native_dropout(rows, 0.3, True)[0]
    assert kept.dtype == torch.bool and abs(kept.float().mean() - 0.7) < 0.01
    torch.testing.assert_close(dropped, kept / 0.7)
    dropped.sum().backward()
    torch.testing.assert_close(rows.grad, kept / 0.7)
    assert not torch.equal(dropped, again)
    with own.begin(3):
        assert torch.equal(torch.native_dropout(rows, 0.3, True)[0], dropped)
        assert not torch.native_dropout(rows, 1.0, True)[0].any()
        assert torch.equal(torch.native_dropout(rows, 0.3, False)[0], rows)


def test_an_operation_that_takes_no_generator_gets_torchs_seeded() -> None:
    @torch.library.custom_op("fastgan_tests::noise", mutates_args=(), tags=torch.Tag.nondeterministic_seeded)
    def noise(x: Tensor) -> Tensor:
        return torch.empty_like(x).copy_(torch.from_numpy(torch.rand(x.shape).numpy()))

    before, own = torch.get_rng_state(), OwnDraws()
    with own.begin(5):
        first, second = noise(ROWS), noise(ROWS)
    assert torch.equal(before, torch.get_rng_state()) and own.drawn
    with own.begin(5):
        assert torch.equal(noise(ROWS), first)
    assert not torch.equal(first, second)


def test_another_thread_neither_disturbs_nor_is_disturbed() -> None:
    def drawn() -> list[Tensor]:
        own = OwnDraws()
        with own.begin(1):
            return [torch.rand(5) for _ in range(300)]

    alone, theirs, stop = drawn(), [], threading.Event()

    def draw() -> None:
        while not stop.is_set():
            theirs.append(torch.rand(2))

    torch.manual_seed(8)
    thread = threading.Thread(target=draw)
    thread.start()
    while not theirs:
        pass
    beside = drawn()
    stop.set()
    thread.join()
    assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))
    torch.manual_seed(8)
    assert all(torch.equal(number, torch.rand(2)) for number in theirs)


def backward_noise() -> type[torch.autograd.Function]:
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient + torch.randn_like(gradient)

    return Noisy


@pytest.mark.parametrize(
    ("run", "replayed"),
    [
        pytest.param(lambda x: F.dropout(x, 0.5), False, id="dropout"),
        pytest.param(lambda x: checkpoint(F.dropout, x, 0.5, use_reentrant=False), True, id="dropout, checkpointed"),
        pytest.param(lambda x: checkpoint(torch.sin, F.dropout(x, 0.5), use_reentrant=False), False, id="before a checkpoint"),
        pytest.param(lambda x: backward_noise().apply(x), True, id="noise of a gradient"),
    ],
)
def test_draws_of_backward_passes_are_noticed(run: Callable[[Tensor], Tensor], replayed: bool) -> None:
    own, x = OwnDraws(), torch.ones(8, requires_grad=True)
    with own.begin(1):
        torch.autograd.grad(run(x).sum(), x)
    assert own.drawn and own.replayed == replayed


def test_a_checkpoint_is_noticed_before_its_backward_pass() -> None:
    own = OwnDraws()
    with own.begin(1), torch.no_grad():
        checkpoint(F.dropout, torch.ones(8, requires_grad=True), 0.5, use_reentrant=False)
    assert own.drawn and not own.replayed
    with own.begin(1):
        checkpoint(F.dropout, torch.ones(8, requires_grad=True), 0.5, use_reentrant=False)
    assert own.replayed


def test_compiled_parts_are_seen_and_draw_from_a_seeded_generator() -> None:
    plain, inside, whole = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), torch.compile(nn.Linear(2, 2))
    inside[0].compile()
    assert [is_compiled(module) for module in (plain, inside, whole)] == [False, True, True]
    before, drawn = torch.get_rng_state(), []
    for module in (plain, inside):
        with drawing_from(3, CPU, module):
            drawn.append(torch.rand(4))
    assert torch.equal(*drawn) and torch.equal(before, torch.get_rng_state())
