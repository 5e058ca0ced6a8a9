"""FusedLinear beside nn.Linear, and where its dropout masks come from."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.layers import FusedLinear, drawing
from fastgan.ops.sample import Draws

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda y: y,
    "relu": F.relu,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
ROWS, WIDTH = 64, 40


def rows(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def draws(seed: int = 1, step: int = 2, **place) -> Draws:
    return Draws(seed, step, **place)


def window(width: int = WIDTH, probability: float = 0.5) -> FusedLinear:
    """A layer that shows its dropout factor: its weights are 0 and its biases 1."""
    layer = FusedLinear(3, width, dropout=probability)
    nn.init.zeros_(layer.weight)
    nn.init.ones_(layer.bias)
    return layer


def mask(layer: FusedLinear, batch: int = ROWS) -> Tensor:
    return layer(torch.zeros(batch, 3)).detach()


def drawn(layer: FusedLinear, given: Draws, pass_: int = 0) -> Tensor:
    with drawing(given, pass_):
        return mask(layer)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_state_dicts_interchange_with_nn_linear(bias: bool) -> None:
    ours, theirs = FusedLinear(7, 3, bias, activation="relu"), nn.Linear(7, 3, bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 7)
    assert torch.equal(ours(x), F.relu(theirs(x)))
    other = nn.Linear(7, 3, bias)
    other.load_state_dict(FusedLinear(7, 3, bias).state_dict())
    assert isinstance(ours, nn.Linear) and list(ours.state_dict()) == list(theirs.state_dict())


def test_initial_weights_are_nn_linears() -> None:
    torch.manual_seed(3)
    theirs = nn.Linear(7, 3)
    torch.manual_seed(3)
    ours = FusedLinear(7, 3, activation="tanh", dropout=0.5)
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(6, 5), (1, 5), (5,), (2, 3, 5), (0, 5)], ids=str)
def test_in_evaluation_it_is_plain_torch(activation: str, shape: tuple[int, ...]) -> None:
    layer = FusedLinear(5, 4, activation=activation, dropout=0.5, dtype=torch.float64).eval()
    x = rows(*shape)
    expected = ACTIVATIONS[activation](F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(layer(x), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(6, 5), (1, 5), (2, 3, 5)], ids=str)
def test_in_training_it_is_plain_torch_times_the_mask(activation: str, shape: tuple[int, ...]) -> None:
    layer, given = FusedLinear(5, 8, activation=activation, dropout=0.25, dtype=torch.float64), draws()
    x = rows(*shape)
    with drawing(given, pass_=3):
        y = layer(x)
    scale = given.dropout_scale(shape[0], y[0].numel(), 0.25, pass_=3, layer=0).double()
    kept = (scale > 0).double() / 0.75
    expected = ACTIVATIONS[activation](F.linear(x, layer.weight, layer.bias)) * kept.view(y.shape)
    torch.testing.assert_close(y, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3), (3,)], ids=str)
def test_training_takes_the_shapes_that_nn_dropout_takes(shape: tuple[int, ...]) -> None:
    layer, plain = window(), nn.Sequential(nn.Linear(3, WIDTH), nn.Dropout())
    for context in (False, True):
        with drawing(draws(), 0) if context else torch.enable_grad():
            y = layer(torch.zeros(shape))
        assert y.shape == plain(torch.zeros(shape)).shape
        assert y.detach().unique().tolist() in ([], [0.0, 2.0])


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_masks_drop_as_often_as_they_are_told_and_keep_the_mean(probability: float) -> None:
    count = 200 * WIDTH
    seen = mask(window(probability=probability), 200)
    assert sorted(seen.unique().tolist()) == pytest.approx([0.0, 1 / (1 - probability)])
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert (seen == 0).double().mean().item() == pytest.approx(probability, abs=5 * deviation)
    per_column = (seen == 0).double().mean(0)
    assert per_column.unique().numel() > 5, "columns are dropped independently"


def test_the_same_draws_give_the_same_mask() -> None:
    layer = window()
    assert torch.equal(drawn(layer, draws()), drawn(layer, draws()))
    assert torch.equal(drawn(layer, draws()), drawn(copy.deepcopy(layer), draws()))
    assert torch.equal(drawn(layer, draws()), drawn(window(), draws()))
    before = torch.get_rng_state()
    drawn(layer, draws())
    assert torch.equal(torch.get_rng_state(), before), "draws leave torch's generator alone"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: drawn(window(), draws(seed=2)), id="another seed"),
        pytest.param(lambda: drawn(window(), draws(step=3)), id="another step"),
        pytest.param(lambda: drawn(window(), draws(d_step=1)), id="another inner step"),
        pytest.param(lambda: drawn(window(), draws(), pass_=1), id="another pass"),
        pytest.param(lambda: drawn(window(), draws(first_row=ROWS)), id="other rows"),
        pytest.param(lambda: mask(window()), id="no draws"),
    ],
)
def test_other_draws_give_a_mask_that_has_nothing_to_do_with_it(other: Callable[[], Tensor]) -> None:
    agreement = (drawn(window(), draws()) == other()).double().mean().item()
    assert agreement == pytest.approx(0.5, abs=5 * 0.5 / (ROWS * WIDTH) ** 0.5)


def test_layers_are_numbered_in_the_order_they_run() -> None:
    layers, given = [window(), window(24), window()], draws()
    with drawing(given, 5):
        seen = [mask(layer) for layer in layers]
    for number, (layer, shown) in enumerate(zip(layers, seen, strict=True)):
        expected = given.dropout_scale(ROWS, layer.out_features, 0.5, pass_=5, layer=number)
        assert torch.equal(shown, expected)
    assert not torch.equal(seen[0], seen[2])


def test_layers_without_dropout_or_in_evaluation_take_no_number() -> None:
    with drawing(draws(), 0):
        FusedLinear(3, 3)(torch.zeros(2, 3))
        window().eval()(torch.zeros(2, 3))
        seen = mask(window())
    assert torch.equal(seen, drawn(window(), draws()))


def test_rows_are_global_so_processes_share_one_mask() -> None:
    whole = drawn(window(), draws())
    with drawing(draws(first_row=16), 0):
        part = mask(window(), 16)
    assert torch.equal(part, whole[16:32])


def test_contexts_nest_and_end() -> None:
    layer = window()
    outer, inner = drawn(layer, draws()), drawn(layer, draws(seed=7))
    with drawing(draws(), 0):
        with drawing(draws(seed=7), 0):
            assert torch.equal(mask(layer), inner)
        assert torch.equal(mask(layer), outer)
    with pytest.raises(KeyError), drawing(draws(), 0):
        raise KeyError
    assert not torch.equal(mask(layer), mask(layer))


def test_outside_torchs_generator_governs() -> None:
    layer = window()
    torch.manual_seed(5)
    first, second = mask(layer), mask(layer)
    torch.manual_seed(5)
    again = [mask(layer), mask(layer)]
    assert torch.equal(first, again[0]) and torch.equal(second, again[1]) and not torch.equal(first, second)


def test_recomputation_draws_the_same_mask() -> None:
    """Activation checkpointing restores torch's generator, as it does for nn.Dropout."""
    layer, x = FusedLinear(4, 6, activation="relu", dropout=0.5, dtype=torch.float64), rows(8, 4).requires_grad_()
    torch.manual_seed(1)
    (plain,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.manual_seed(1)
    recomputed = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(recomputed.square().sum(), x)[0], plain)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
def test_derivatives_to_third_order(activation: str, dropout: float) -> None:
    layer = FusedLinear(3, 2, activation=activation, dropout=dropout, dtype=torch.float64)
    inputs = (rows(2, 3).requires_grad_(), layer.weight, layer.bias)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with drawing(draws(), 0):
            return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    def slope(*inputs: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(run(*inputs).square().sum(), inputs[0], create_graph=True)
        return first

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(slope, inputs)


def test_gradients_are_zero_where_the_mask_is() -> None:
    layer = FusedLinear(3, 50, dropout=0.5)
    y = layer(torch.ones(1, 3))
    y.sum().backward()
    assert torch.equal(layer.bias.grad, torch.where(y[0] == 0, 0.0, 2.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_what_it_is(dtype: torch.dtype) -> None:
    layer, x = FusedLinear(64, 16, activation="leaky_relu", dropout=0.3, dtype=dtype), rows(32, 64, dtype=dtype)
    with drawing(draws(), 0):
        y = layer(x)
    assert y.dtype == dtype
    plain = F.leaky_relu(F.linear(x, layer.weight, layer.bias), 0.2).double()
    kept = y != 0
    torch.testing.assert_close(y.double()[kept], plain[kept] / 0.7, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_autocast_reaches_the_product() -> None:
    layer, x = FusedLinear(8, 4, activation="relu", dropout=0.5), torch.randn(6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        expected = F.relu(F.linear(x, layer.weight, layer.bias))
    assert y.dtype == torch.bfloat16
    kept = y != 0
    torch.testing.assert_close(y[kept], 2 * expected[kept], rtol=0, atol=0)
    slopes, plain = (torch.autograd.grad(z.float().sum(), (layer.weight, layer.bias)) for z in (y, expected * 2 * kept))
    torch.testing.assert_close(slopes, plain, rtol=0.02, atol=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Dynamo detected")
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_it_compiles_in_one_graph(training: bool) -> None:
    layer, x = FusedLinear(6, 32, activation="relu", dropout=0.5).train(training), torch.randn(16, 6)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, plain = compiled(x), F.relu(F.linear(x, layer.weight, layer.bias))
    if not training:
        torch.testing.assert_close(y, plain)
        return
    kept = y != 0
    torch.testing.assert_close(y[kept], 2 * plain[kept])
    assert 0.3 < (kept.sum() / (plain > 0).sum()).item() < 0.7
    assert not torch.equal(compiled(x), y), "the mask must be drawn anew, not baked into the graph"


@pytest.mark.parametrize("options", [dict(activation="swish"), dict(activation="ReLU"), dict(activation=None)], ids=str)
def test_an_unknown_activation_is_told_all_of_them(options: dict) -> None:
    with pytest.raises(ValueError, match="identity, relu, leaky_relu, tanh, sigmoid"):
        FusedLinear(2, 2, **options)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan")])
def test_a_dropout_outside_the_unit_interval_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout"):
        FusedLinear(2, 2, dropout=dropout)


def test_its_repr_says_what_it_does() -> None:
    text = repr(FusedLinear(2, 3, activation="leaky_relu", negative_slope=0.1, dropout=0.3))
    assert all(word in text for word in ("in_features=2", "out_features=3", "leaky_relu", "negative_slope=0.1", "dropout=0.3"))
