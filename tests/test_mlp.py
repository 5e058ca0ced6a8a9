"""MLP beside the nn.Sequential it stands for: keys, values, gradients, conversion both ways and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.layers import FusedLinear, drawing
from fastgan.mlp import MLP
from fastgan.ops.sample import Draws

SIZES = (6, 5, 4, 2)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def plain(
    sizes: Iterable[int] = SIZES, activation: str = "relu", dropout: float | None = None, output: str = "identity", bias=True
) -> nn.Sequential:
    """The nn.Sequential a person would write: Linear, activation, Dropout, ..., Linear, output."""
    *hidden, last = pairwise(sizes)
    modules: list[nn.Module] = []
    for pair in hidden:
        modules.append(nn.Linear(*pair, bias))
        modules += [ACTIVATIONS[activation]()] if activation != "identity" else []
        modules += [nn.Dropout(dropout)] if dropout is not None else []
    end = [ACTIVATIONS[output]()] if output != "identity" else []
    return nn.Sequential(*modules, nn.Linear(*last, bias), *end).double()


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


FORMS = {
    "the article's generator": dict(activation="relu", output="tanh"),
    "the article's discriminator": dict(activation="leaky_relu", dropout=0.3, output="sigmoid"),
    "dropout switched off": dict(activation="leaky_relu", dropout=0.0),
    "without activation": dict(activation="identity", dropout=0.2),
    "without biases": dict(activation="tanh", bias=False),
    "nothing but layers": dict(activation="identity"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_state_dicts_interchange_with_nn_sequential(form: dict) -> None:
    theirs, ours = plain(**form), MLP(SIZES, negative_slope=0.1, **form).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = rows(7, 6)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-13, atol=1e-14)
    fresh = plain(**form).eval()
    fresh.load_state_dict(ours.state_dict())
    torch.testing.assert_close(fresh(x), ours(x), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gradients_are_nn_sequentials(form: dict) -> None:
    theirs = plain(**form).eval()
    ours, x = MLP.from_sequential(copy.deepcopy(theirs)), rows(7, 6).requires_grad_()
    gradients = [torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()]) for net in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-13)


def test_in_training_it_is_torch_with_the_masks_by_hand() -> None:
    given = Draws(seed=3, step=4, dtype=torch.float64)
    ours = MLP(SIZES, activation="leaky_relu", negative_slope=0.1, dropout=0.25).double()
    x = hidden = rows(9, 6)
    for number, layer in enumerate(ours.layers[:-1]):
        kept = given.dropout_scale(9, layer.out_features, 0.25, pass_=2, layer=number) > 0
        assert kept.any() and not kept.all()
        hidden = F.leaky_relu(F.linear(hidden, layer.weight, layer.bias), 0.1) * kept / 0.75
    expected = F.linear(hidden, ours.layers[-1].weight, ours.layers[-1].bias)
    with drawing(given, 2):
        torch.testing.assert_close(ours(x), expected, rtol=1e-12, atol=1e-13)
    assert not torch.equal(ours(x), ours(x))
    assert torch.equal(ours.eval()(x), ours(x))


CHAINS: dict[str, Callable[[], nn.Sequential]] = {
    "one layer": lambda: nn.Sequential(nn.Linear(6, 2)),
    "flatten first": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)),
    "identities": lambda: nn.Sequential(
        nn.Identity(), nn.Linear(6, 4), nn.Identity(), nn.Tanh(), nn.Linear(4, 1), nn.Identity()
    ),
    "dropout before the activation": lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.4), nn.ReLU(), nn.Linear(4, 1)),
    "dropout alone": lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.4), nn.Linear(4, 1)),
    "several activations": lambda: nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(0.3), nn.Linear(4, 3), nn.Sigmoid()),
    "no bias": lambda: nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 1)),
    "inplace": lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Dropout(0.1, inplace=True), nn.Linear(4, 1)),
    "dropout at the end": lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Dropout(0.5)),
}


@pytest.mark.parametrize("build", CHAINS.values(), ids=CHAINS)
def test_a_chain_is_read_with_its_own_parameters(build: Callable[[], nn.Sequential]) -> None:
    theirs = build().double()
    ours = MLP.from_sequential(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(a is b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    x = rows(5, 6)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-13, atol=1e-14)
    assert MLP.from_sequential(theirs).training is False and MLP.from_sequential(theirs.train()).training is True


@pytest.mark.parametrize("build", CHAINS.values(), ids=CHAINS)
def test_the_way_back_keeps_keys_parameters_and_values(build: Callable[[], nn.Sequential]) -> None:
    ours = MLP.from_sequential(build().double()).eval()
    back = ours.to_sequential()
    assert list(back.state_dict()) == list(ours.state_dict())
    assert all(a is b for a, b in zip(back.parameters(), ours.parameters(), strict=True))
    assert not any(isinstance(module, FusedLinear) for module in back.modules()) and not back.training
    x = rows(5, 6)
    torch.testing.assert_close(back(x), ours(x), rtol=1e-13, atol=1e-14)
    rates = [[m.p for m in net.modules() if isinstance(m, nn.Dropout)] for net in (build(), back)]
    assert rates[0] == rates[1]


def test_a_chain_with_dropout_in_front_means_the_same_in_training() -> None:
    """relu(s x) = s relu(x) for a dropout factor s, so the order does not matter."""
    theirs = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.4), nn.LeakyReLU(0.1), nn.Linear(4, 1)).double()
    given, x = Draws(seed=1, step=0, dtype=torch.float64), rows(5, 6)
    kept = (given.dropout_scale(5, 4, 0.4, pass_=0, layer=0) > 0) / torch.tensor(0.6, dtype=torch.float64)
    expected = theirs[3](theirs[2](theirs[0](x) * kept))
    with drawing(given, 0):
        torch.testing.assert_close(MLP.from_sequential(theirs)(x), expected, rtol=1e-12, atol=1e-13)


def test_flatten_takes_images() -> None:
    theirs = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    images = rows(5, 3, 2, 2)
    ours = MLP.from_sequential(theirs)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(ours.to_sequential()(images), theirs(images), rtol=1e-13, atol=1e-14)


def test_the_constructors_own_chain_comes_back_as_written() -> None:
    back = MLP((6, 4, 1), activation="leaky_relu", negative_slope=0.1, dropout=0.3, output="tanh").to_sequential()
    assert [type(module) for module in back] == [nn.Linear, nn.LeakyReLU, nn.Dropout, nn.Linear, nn.Tanh]
    assert back[1].negative_slope == 0.1 and back[2].p == 0.3


def test_fused_layers_in_a_sequential_are_read_too() -> None:
    chain = nn.Sequential(FusedLinear(6, 4, activation="leaky_relu", negative_slope=0.3), nn.Linear(4, 2), nn.Tanh()).double()
    ours, x = MLP.from_sequential(chain), rows(3, 6)
    torch.testing.assert_close(ours(x), chain(x), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(ours.to_sequential()(x), chain(x), rtol=1e-13, atol=1e-14)


def test_training_through_either_trains_both() -> None:
    theirs = plain((6, 4, 1))
    ours = MLP.from_sequential(theirs)
    optimizer = torch.optim.SGD(ours.parameters(), 0.1)
    ours(rows(8, 6)).square().mean().backward()
    optimizer.step()
    x = rows(3, 6)
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-13, atol=1e-14)


def test_frozen_parameters_stay_frozen() -> None:
    theirs = plain((6, 4, 1))
    theirs[0].requires_grad_(False)
    assert [p.requires_grad for p in MLP.from_sequential(theirs).parameters()] == [False, False, True, True]


def hooked() -> nn.Module:
    layer = nn.Linear(6, 4)
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    return layer


UNREADABLE: dict[str, Callable[[], nn.Sequential]] = {
    "no module": lambda: nn.Sequential(),
    "no Linear": lambda: nn.Sequential(nn.Flatten(), nn.Identity()),
    "a convolution": lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(6, 1)),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)),
    "another activation": lambda: nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 1)),
    "activation first": lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 4)),
    "dropout first": lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 4)),
    "two activations": lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 1)),
    "two dropouts": lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1), nn.Dropout(0.1), nn.Linear(4, 1)),
    "dropout before tanh": lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1), nn.Tanh(), nn.Linear(4, 1)),
    "dropout before a sigmoid": lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1), nn.Sigmoid(), nn.Linear(4, 1)),
    "everything dropped": lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(1.0), nn.Linear(4, 1)),
    "alpha dropout": lambda: nn.Sequential(nn.Linear(6, 4), nn.AlphaDropout(0.1), nn.Linear(4, 1)),
    "a chain in a chain": lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 4)), nn.Linear(4, 1)),
    "flatten inside": lambda: nn.Sequential(nn.Linear(6, 4), nn.Flatten(), nn.Linear(4, 1)),
    "flatten that joins the rows": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(6, 4)),
    "flatten of some dimensions": lambda: nn.Sequential(nn.Flatten(1, 2), nn.Linear(6, 4)),
    "flatten from the third dimension": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(6, 4)),
    "spectral norm": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)), nn.Linear(4, 1)),
    "a hook": lambda: nn.Sequential(hooked(), nn.Linear(4, 1)),
}


@pytest.mark.parametrize("build", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_chain_is_refused(build: Callable[[], nn.Sequential]) -> None:
    with pytest.raises(ValueError):
        MLP.from_sequential(build())


def test_spectral_norm_by_hooks_is_refused() -> None:
    """The older spectral norm recomputes the weight before each forward pass: the stored one is not the layer's."""
    chain = nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 1))
    with pytest.raises(ValueError):
        MLP.from_sequential(chain)


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2)], ids=str)
def test_sizes_are_at_least_two_positive_numbers(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        MLP(sizes)


@pytest.mark.parametrize(
    "options", [dict(activation="swish"), dict(output="softmax"), dict(dropout=1.0), dict(dropout=-0.5)], ids=str
)
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(ValueError, match=r"activation|dropout"):
        MLP((3, 2, 1), **options)


def test_hidden_options_stay_out_of_the_last_layer() -> None:
    first, last = MLP((3, 2, 1), activation="leaky_relu", dropout=0.4, output="sigmoid").layers
    assert (first.activation, first.dropout) == ("leaky_relu", 0.4)
    assert (last.activation, last.dropout) == ("sigmoid", 0.0)


def test_it_is_copied_and_moved_like_any_module() -> None:
    mlp = MLP.from_sequential(plain(**FORMS["dropout switched off"]).eval())
    x, copied = rows(4, 6), copy.deepcopy(mlp)
    assert torch.equal(copied(x), mlp(x))
    assert mlp.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16 and copied(x).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_half_precision_module_runs_wherever_torchs_does(form: dict, dtype: torch.dtype) -> None:
    """A tanh in the middle too, whatever the dtype of its result."""
    theirs, x = plain(**form).eval().to(dtype), rows(7, 6).to(dtype)
    exact = copy.deepcopy(theirs).double()(x.double())
    y = MLP.from_sequential(theirs)(x)
    allowed = 2 * (theirs(x).double() - exact).abs().max() + torch.finfo(dtype).eps
    assert (y.double() - exact).abs().max() <= allowed


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [None, 0.5])
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
def test_derivatives_to_third_order(activation: str, dropout: float | None) -> None:
    mlp = MLP((2, 3, 1), activation=activation, dropout=dropout).double()
    names = [name for name, _ in mlp.named_parameters()]
    inputs = (rows(2, 2).requires_grad_(), *mlp.parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        with drawing(Draws(1, 2), 0):
            return torch.func.functional_call(mlp, dict(zip(names, parameters, strict=True)), (x,))

    def penalty(*inputs: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(run(*inputs).sum(), inputs[0], create_graph=True)
        return slope.square().sum() + 0.0 * sum(value.sum() for value in inputs)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(penalty, inputs)
