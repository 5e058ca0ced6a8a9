"""Recognition: the article's networks as readers type them, the spellings that are read, and what is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.chain.recognition import NotAnMLP, recognise
from fastgan.layers import FusedLinear
from fastgan.mlp import MLP
from fastgan.models import Discriminator, Generator


class SequentialGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Linear(100, 256),
            nn.ReLU(True),
            nn.Linear(256, 512),
            nn.ReLU(True),
            nn.Linear(512, 1024),
            nn.ReLU(True),
            nn.Linear(1024, 784),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.main(z).view(-1, 1, 28, 28)


class SequentialDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Linear(784, 1024),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(0.3),
            nn.Linear(1024, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(0.3),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(0.3),
            nn.Linear(256, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.main(x.view(x.size(0), -1))


class FunctionalGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(100, 256)
        self.fc2 = nn.Linear(256, 512)
        self.fc3 = nn.Linear(512, 1024)
        self.fc4 = nn.Linear(1024, 784)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = F.relu(self.fc3(x))
        return torch.tanh(self.fc4(x))


class FunctionalDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 1024)
        self.fc2 = nn.Linear(1024, 512)
        self.fc3 = nn.Linear(512, 256)
        self.fc4 = nn.Linear(256, 1)

    def forward(self, x):
        x = x.view(-1, 784)
        x = F.leaky_relu(self.fc1(x), 0.2)
        x = F.dropout(x, 0.3, self.training)
        x = F.leaky_relu(self.fc2(x), 0.2)
        x = F.dropout(x, 0.3, training=self.training)
        x = F.leaky_relu(self.fc3(x), negative_slope=0.2)
        x = F.dropout(x, p=0.3, training=self.training)
        return torch.sigmoid(self.fc4(x))


GENERATOR = [("relu", 0.2, 0.0)] * 3
CRITIC = [("leaky_relu", 0.2, 0.3)] * 3
ARTICLE = {
    "generator, Sequential": (SequentialGenerator, [*GENERATOR, ("tanh", 0.2, 0.0)], False),
    "generator, functions": (FunctionalGenerator, [*GENERATOR, ("tanh", 0.2, 0.0)], False),
    "discriminator, Sequential": (SequentialDiscriminator, [*CRITIC, ("sigmoid", 0.2, 0.0)], True),
    "discriminator, functions": (FunctionalDiscriminator, [*CRITIC, ("sigmoid", 0.2, 0.0)], True),
    "our generator": (Generator, [*GENERATOR, ("tanh", 0.2, 0.0)], False),
    "our discriminator": (Discriminator, [*CRITIC, ("identity", 0.2, 0.0)], True),
}


def read(mlp: MLP) -> list[tuple[str, float, float]]:
    return [(layer.activation, layer.negative_slope, layer.dropout) for layer in mlp.layers]


@pytest.mark.parametrize(("build", "layers", "flatten"), ARTICLE.values(), ids=ARTICLE)
def test_the_articles_networks_are_read(build: Callable[[], nn.Module], layers: list, flatten: bool) -> None:
    theirs = build()
    ours = recognise(theirs)
    assert all(type(layer) is FusedLinear for layer in ours.layers)
    assert all(a is b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert (read(ours), ours.flatten, ours.training) == (layers, flatten, True)
    x = torch.randn(5, ours.layers[0].in_features)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x).flatten(1), rtol=1e-5, atol=1e-6)


def net(forward: Callable[..., Any], out: int = 1, **parts: Any) -> Any:
    """A module of two layers, 6-5-out, named a and b, with a forward of a few words."""
    module: Any = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in {"a": nn.Linear(6, 5), "b": nn.Linear(5, out), **parts}.items():
        setattr(module, name, part)
    return module


def hidden(step: Callable[[Tensor], Tensor]) -> Any:
    return net(lambda n, x: n.b(step(n.a(x))))


def end(step: Callable[[Tensor], Tensor], out: int = 1) -> Any:
    return net(lambda n, x: step(n.b(F.relu(n.a(x)))), out)


def front(step: Callable[[Tensor], Tensor]) -> Any:
    return net(lambda n, x: n.b(F.relu(n.a(step(x)))))


def features(n: Any, x: Tensor, return_features: bool = False) -> Any:
    h = F.relu(n.a(x))
    return (n.b(h), h) if return_features else n.b(h)


RELU, PLAIN = ("relu", 0.2, 0.0), ("identity", 0.2, 0.0)
HIDDEN: dict[str, tuple[nn.Module, tuple[str, float, float]]] = {
    "F.relu": (hidden(F.relu), RELU),
    "F.relu in place": (hidden(lambda h: F.relu(h, inplace=True)), RELU),
    "torch.relu": (hidden(torch.relu), RELU),
    "a relu method": (hidden(lambda h: h.relu()), RELU),
    "a relu_ method": (hidden(lambda h: h.relu_()), RELU),
    "F.leaky_relu's default slope": (hidden(F.leaky_relu), ("leaky_relu", 0.01, 0.0)),
    "a slope of zero": (hidden(lambda h: F.leaky_relu(h, 0.0)), ("leaky_relu", 0.0, 0.0)),
    "F.leaky_relu_": (hidden(F.leaky_relu_), ("leaky_relu", 0.01, 0.0)),
    "dropout that is always on": (hidden(lambda h: F.dropout(F.relu(h), 0.3)), ("relu", 0.2, 0.3)),
    "dropout of the default rate": (hidden(F.dropout), ("identity", 0.2, 0.5)),
    "dropout in place": (hidden(lambda h: F.dropout(h, 0.3, True, True)), ("identity", 0.2, 0.3)),
    "dropout that is always off": (hidden(lambda h: F.dropout(h, 0.3, training=False)), PLAIN),
    "dropout first": (hidden(lambda h: F.leaky_relu(F.dropout(h, 0.3), 0.1)), ("leaky_relu", 0.1, 0.3)),
    "no activation": (nn.Sequential(nn.Linear(6, 5), nn.Identity(), nn.Linear(5, 1)), PLAIN),
    "one activation module for all": (net(lambda n, x: n.b(n.act(n.a(x))), act=nn.ReLU()), RELU),
    "a function chosen by the constructor": (net(lambda n, x: n.b(n.act(n.a(x))), act=F.relu), RELU),
    "sizes read on the way": (net(lambda n, x: n.b(F.relu(n.a(x))).view(x.size(0), 1)), RELU),
    "a module made on the spot": (hidden(lambda h: nn.ReLU()(h)), RELU),
    "a ModuleList": (net(lambda n, x: n.b(n.l[0](n.a(x))), l=nn.ModuleList([nn.ReLU()])), RELU),
    "nested Sequentials": (nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.ReLU())), nn.Linear(5, 1)), RELU),
    "a fused layer": (nn.Sequential(FusedLinear(6, 5, activation="relu", dropout=0.4), nn.Linear(5, 1)), ("relu", 0.2, 0.4)),
    "an MLP": (MLP((6, 5, 1), activation="leaky_relu", negative_slope=0.1, dropout=0.2), ("leaky_relu", 0.1, 0.2)),
    "an option with a default": (net(lambda n, x, slope=0.3: n.b(F.leaky_relu(n.a(x), slope))), ("leaky_relu", 0.3, 0.0)),
    "an option by name alone": (net(lambda n, x, *, on=False: n.b(F.relu(n.a(x)) if on else n.a(x))), PLAIN),
    "labels that may be left out": (net(lambda n, x, y=None: n.b(F.relu(n.a(x if y is None else x + y)))), RELU),
    "features on demand": (net(features), RELU),
    "one wide": (nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 1)), RELU),
    "no biases": (nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 1, bias=False)), RELU),
}


@pytest.mark.parametrize(("theirs", "layer"), HIDDEN.values(), ids=HIDDEN)
def test_a_hidden_layer_is_read(theirs: nn.Module, layer: tuple[str, float, float]) -> None:
    ours = recognise(theirs)
    assert all(a is b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert (read(ours), ours.flatten) == ([layer, PLAIN], False)


END: dict[str, tuple[nn.Module, str]] = {
    "nothing": (end(lambda y: y), "identity"),
    "torch.tanh": (end(torch.tanh), "tanh"),
    "F.tanh": (end(F.tanh), "tanh"),
    "a tanh method": (end(lambda y: y.tanh()), "tanh"),
    "torch.sigmoid": (end(torch.sigmoid), "sigmoid"),
    "F.sigmoid": (end(F.sigmoid), "sigmoid"),
    "a sigmoid method": (end(lambda y: y.sigmoid()), "sigmoid"),
    "images": (end(lambda y: torch.tanh(y).view(-1, 1, 2, 2), 4), "tanh"),
    "images by size": (end(lambda y: torch.tanh(y).view(y.size(0), 1, 2, 2), 4), "tanh"),
    "images by a tuple": (end(lambda y: torch.reshape(y, (-1, 1, 2, 2)), 4), "identity"),
    "a shape unpacked": (end(lambda y: y.view(y.shape[0], *(1, 2, 2)), 4), "identity"),
    "a view before the activation": (end(lambda y: y.view(-1, 1, 2, 2).tanh(), 4), "tanh"),
    "squeeze": (end(lambda y: torch.sigmoid(y).squeeze()), "sigmoid"),
    "squeeze of a dimension": (end(lambda y: y.squeeze(1)), "identity"),
    "the only column": (end(lambda y: y[:, 0]), "identity"),
    "another dimension": (end(lambda y: torch.tanh(y)[..., None]), "tanh"),
    "one number a row": (end(lambda y: torch.sigmoid(y).view(-1)), "sigmoid"),
    "flatten": (end(torch.flatten), "identity"),
    "Unflatten": (nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Unflatten(1, (1, 2, 2))), "tanh"),
    "a single Linear": (nn.Linear(6, 1), "identity"),
    "a single Linear in a Sequential": (nn.Sequential(nn.Linear(6, 1), nn.Sigmoid()), "sigmoid"),
}


@pytest.mark.parametrize(("theirs", "activation"), END.values(), ids=END)
def test_the_end_is_read(theirs: nn.Module, activation: str) -> None:
    ours = recognise(theirs)
    assert ours.layers[-1].activation == activation
    x = torch.randn(7, 6)
    torch.testing.assert_close(ours(x), theirs(x).view(7, -1), rtol=1e-5, atol=1e-6)


def unpacking(x: Tensor) -> Tensor:
    rows, channels, height, width = x.shape
    return x.reshape(rows, channels * height * width)


def rest(x: Tensor) -> Tensor:
    rows, *_ = x.shape
    return x.view(rows, -1)


FRONT: dict[str, nn.Module] = {
    "torch.flatten": front(lambda x: torch.flatten(x, 1)),
    "a flatten method": front(lambda x: x.flatten(1)),
    "flatten by keyword": front(lambda x: torch.flatten(x, start_dim=1)),
    "Flatten": nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)),
    "view by size": front(lambda x: x.view(x.size(0), -1)),
    "view by shape": front(lambda x: x.view(x.shape[0], -1)),
    "view by size()[0]": front(lambda x: x.view(x.size()[0], -1)),
    "view by len()": front(lambda x: x.view(len(x), -1)),
    "reshape by len() to a width": front(lambda x: x.reshape(len(x), 6)),
    "contiguous": front(lambda x: x.contiguous().view(x.size(0), -1)),
    "flatten to the last dimension": front(lambda x: x.flatten(1, 3)),
    "flatten from the end": front(lambda x: torch.flatten(x, -3)),
    "sizes multiplied by math": front(lambda x: x.view(-1, math.prod(x.shape[1:]))),
    "the rest of a shape": front(rest),
    "a weight's dtype": net(lambda n, x: n.b(F.relu(n.a(x.flatten(1).to(n.a.weight.dtype))))),
    "the parameters' dtype": net(lambda n, x: n.b(F.relu(n.a(x.flatten(1).to(next(n.parameters()).dtype))))),
    "a weight's device": net(lambda n, x: n.b(F.relu(n.a(x.flatten(1).to(n.a.weight.device))))),
    "a weight's type": net(lambda n, x: n.b(F.relu(n.a(x.flatten(1).type_as(n.a.weight))))),
    "view of a width": front(lambda x: x.view(-1, 6)),
    "reshape": front(lambda x: x.reshape(x.size(0), -1)),
    "torch.reshape": front(lambda x: torch.reshape(x, (-1, 6))),
    "sizes multiplied": front(lambda x: x.view(-1, x.shape[1:].numel())),
}


@pytest.mark.parametrize("theirs", FRONT.values(), ids=FRONT)
def test_the_input_is_flattened(theirs: nn.Module) -> None:
    ours, images = recognise(theirs), torch.randn(4, 1, 2, 3)
    assert ours.flatten and read(ours) == [RELU, PLAIN]
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-6)


def test_a_module_that_takes_only_images_is_read() -> None:
    theirs, images = front(unpacking), torch.randn(4, 1, 2, 2)
    theirs.a = nn.Linear(4, 5)
    ours = recognise(theirs)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-6)
    with pytest.raises(NotAnMLP, match=r"does not run on rows \[3, 6\]"):  # six pixels are no square image
        recognise(front(unpacking))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_any_float_is_read(dtype: torch.dtype) -> None:
    assert recognise(SequentialDiscriminator().to(dtype)).layers[0].weight.dtype == dtype


def test_arguments_that_nothing_uses_may_have_defaults() -> None:
    assert read(recognise(net(lambda n, x, labels=None: n.b(n.a(x))))) == [PLAIN, PLAIN]


def chain(*middle: nn.Module, first: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(first or nn.Linear(6, 5), *middle, nn.Linear(5, 1))


def after(change: Callable[[Any], Any]) -> nn.Sequential:
    """A good chain to which something was done."""
    good = chain(nn.ReLU())
    change(good)
    return good


def sharing(name: str) -> nn.Sequential:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    setattr(second, name, getattr(first, name))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(6, 1))


class Reversed(torch.autograd.Function):
    """Passes its input on, and the gradient back with the other sign: a graph shows neither."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class MyLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def branching(n: Any, x: Tensor) -> Tensor:
    return n.b(n.a(x)) if x.sum() > 0 else n.b(n.a(-x))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (lambda: chain(nn.BatchNorm1d(5)), "BatchNorm1d '1'"),
    "a convolution": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 1)), "Conv2d '0'"),
    "GELU": (lambda: chain(nn.GELU()), "GELU '1'"),
    "F.softplus": (lambda: hidden(F.softplus), r"softplus\(\)"),
    "PReLU": (lambda: chain(nn.PReLU()), "PReLU '1'"),
    "SiLU written out": (lambda: hidden(lambda h: h * torch.sigmoid(h)), r"mul\(\)"),
    "alpha dropout": (lambda: chain(nn.AlphaDropout(0.1)), "AlphaDropout '1'"),
    "hidden tanh": (lambda: chain(nn.Tanh()), "tanh stands between"),
    "hidden sigmoid": (lambda: hidden(torch.sigmoid), "sigmoid stands between"),
    "a negative slope": (lambda: chain(nn.LeakyReLU(-0.1)), r"LeakyReLU has the negative slope -0\.1"),
    "a learned slope": (lambda: net(lambda n, x: n.b(F.leaky_relu(n.a(x), n.s)), s=nn.Parameter(torch.ones(()))), "tensor 's'"),
    "a slope from a size": (lambda: hidden(lambda h: F.leaky_relu(h, h.size(0))), r"leaky_relu\(\) takes"),
    "dropout at the end": (lambda: end(F.dropout), "Dropout stands after"),
    "dropout in front": (lambda: front(F.dropout), "Dropout comes before the first Linear"),
    "an activation in front": (lambda: front(F.relu), "ReLU comes before the first Linear"),
    "two activations": (lambda: chain(nn.ReLU(), nn.LeakyReLU()), "LeakyReLU does not fit"),
    "everything dropped": (lambda: chain(nn.Dropout(1.0)), "dropout must be in"),
    "a Linear of one's own": (lambda: chain(first=MyLinear(6, 5)), "MyLinear '0'"),
    "a Linear written out": (lambda: net(lambda n, x: n.b(F.linear(x, n.a.weight, n.a.bias))), r"tensor 'a\.weight'"),
    "layers that do not fit": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(4, 1)), "of 4 numbers is given 5"),
    "a Linear twice": (lambda: net(lambda n, x: n.b(n.a(n.a(x))), a=nn.Linear(6, 6), b=nn.Linear(6, 1)), "used twice"),
    "a shared bias": (lambda: sharing("bias"), "share a parameter"),
    "a shared weight": (lambda: sharing("weight"), "share a parameter"),
    "a frozen layer": (lambda: after(lambda n: n[0].requires_grad_(False)), r"'0\.weight' is frozen"),
    "an idle layer": (lambda: net(lambda n, x: n.a(x)), r"parameter 'b\.weight' is not used"),
    "an idle buffer": (lambda: after(lambda n: n.register_buffer("mean", torch.zeros(1))), "buffer 'mean' is not used"),
    "mixed precision": (lambda: after(lambda n: n[2].double()), r"'2\.weight' is torch\.float64"),
    "complex weights": (lambda: nn.Linear(6, 1, dtype=torch.complex64), "complex64"),
    "a forward hook": (lambda: after(lambda n: n[1].register_forward_hook(print)), "ReLU '1' has hooks"),
    "a pre-forward hook": (lambda: after(lambda n: n.register_forward_pre_hook(print)), "Sequential has hooks"),
    "a backward hook": (lambda: after(lambda n: n[0].register_full_backward_hook(print)), "Linear '0' has hooks"),
    "a parameter's hook": (lambda: after(lambda n: n[0].weight.register_hook(print)), r"'0\.weight' has hooks"),
    "a hook on a gradient that is done": (
        lambda: after(lambda n: n[2].bias.register_post_accumulate_grad_hook(print)),
        r"'2\.bias' has hooks",
    ),
    "spectral norm": (lambda: chain(first=nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5))), "parametrized"),
    "weight norm": (lambda: chain(first=nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))), "parametrized"),
    "spectral norm by hooks": (lambda: chain(first=nn.utils.spectral_norm(nn.Linear(6, 5))), "Linear '0' has hooks"),
    "another forward": (lambda: after(lambda n: setattr(n[1], "forward", torch.tanh)), "ReLU '1' is compiled, or its"),
    "a compiled module": (lambda: after(lambda n: n.compile()), "Sequential is compiled"),
    "a residual": (lambda: hidden(lambda h: h + F.relu(h)), r"add\(\)"),
    "noise": (lambda: hidden(lambda h: h + torch.randn(5)), "tensor '_tensor_constant0'"),
    "scaling": (lambda: end(lambda y: 2 * y), r"mul\(\)"),
    "detached": (lambda: hidden(lambda h: h.detach()), r"detach\(\)"),
    "without gradients": (lambda: net(lambda n, x: n.b(torch.no_grad()(n.a)(x))), "a runs under no_grad"),
    "under autocast": (lambda: net(lambda n, x: n.b(torch.autocast("cpu")(n.a)(x))), "a runs under no_grad or autocast"),
    "a gradient reversed": (lambda: hidden(Reversed.apply), "another gradient"),
    "control flow": (lambda: net(branching), "control flow"),
    "evaluated otherwise": (lambda: net(lambda n, x: F.tanh(n.b(n.a(x))) if n.training else n.b(n.a(x))), "something else"),
    "a result used twice": (lambda: hidden(lambda h: (F.relu_(h), h)[1]), "Linear 'b' takes an earlier result"),
    "two results": (lambda: net(lambda n, x: (n.b(n.a(x)), x)), "returns something else"),
    "two inputs": (lambda: net(lambda n, x, y: n.b(n.a(x))), "another argument, y"),
    "an option that may change": (lambda: net(lambda n, x, s=[0.2]: n.b(F.leaky_relu(n.a(x), *s))), "cannot be read"),
    "no Linear": (lambda: nn.Sequential(nn.Identity()), "no Linear"),
    "a view between layers": (lambda: hidden(lambda h: h.view(-1, 5)), r"view\(\) stands between"),
    "a fixed batch": (lambda: front(lambda x: x.view(64, -1)), "number of rows at 64"),
    "rows joined in front": (lambda: front(torch.flatten), r"flatten\(\) before the first Linear"),
    "channels and rows joined": (lambda: front(lambda x: torch.flatten(x, 1, 2)), r"flatten\(\) before the first Linear"),
    "squeezed in front": (lambda: front(torch.squeeze), r"squeeze\(\) before the first Linear"),
    "a row picked": (lambda: end(lambda y: y[0]), "picks some of the rows"),
    "three rows picked": (lambda: end(lambda y: y[:3]), "picks some of the rows"),
    "columns picked": (lambda: end(lambda y: y[:, 0], 4), "do not keep the rows"),
    "another dtype": (lambda: front(lambda x: x.to(torch.float64)), r"to\(\) makes torch.float64 of what is not"),
    "another device": (lambda: front(lambda x: x.to("cuda")), r"to\(\) makes cuda of what is not"),
    "rounded": (lambda: net(lambda n, x: n.b(n.a(x.bfloat16().to(n.a.weight.dtype)))), r"bfloat16\(\) has no place"),
    "half the rows, by len()": (lambda: end(lambda y: y.view(len(y) // 2, -1)), "do not keep the rows|does not run"),
    "a number of rows looked at": (lambda: front(lambda x: x if len(x) > 1 else 2 * x), "control flow"),
    "rows split": (lambda: end(lambda y: y.view(-1), 4), "do not keep the rows"),
    "a view that does not fit": (lambda: front(lambda x: x.view(-1, 4)), "does not run on rows"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_what_is_no_mlp_is_refused_by_name(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(NotAnMLP, match=message):
        recognise(build())
