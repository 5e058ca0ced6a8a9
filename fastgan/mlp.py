"""MLP: a chain of fused layers that reads and writes the state dict of the equivalent nn.Sequential."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .layers import FusedLinear, check_options

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}
PIECEWISE_LINEAR = ("identity", "relu", "leaky_relu")


class MLP(nn.Module):
    """Linear layers with an activation and dropout between them, and one activation at the end.

    State-dict keys are those of nn.Sequential(Linear, activation, Dropout, Linear, ...): a layer's name is its Linear's
    position there. Derivatives of any order exist.

    Args:
        sizes: (in, hidden, ..., out).
        activation: of the hidden layers: identity, relu, leaky_relu, tanh or sigmoid.
        negative_slope: LeakyReLU's, in the hidden layers.
        dropout: of the hidden layers, the probability of a zero in training. None: the equivalent nn.Sequential has no Dropout
            modules; with 0.0 it has them, switched off.
        output: the activation of the last layer.
        bias: whether the layers have one.

    Raises:
        ValueError: fewer than two sizes or one below 1, a bad activation or dropout.

    Example:
        >>> critic = MLP((784, 256, 1), activation="leaky_relu", dropout=0.3)
        >>> critic(torch.zeros(8, 784)).shape
        torch.Size([8, 1])
        >>> critic.to_sequential()
        Sequential(
          (0): Linear(in_features=784, out_features=256, bias=True)
          (1): LeakyReLU(negative_slope=0.2)
          (2): Dropout(p=0.3, inplace=False)
          (3): Linear(in_features=256, out_features=1, bias=True)
        )
        >>> MLP.from_sequential(critic.to_sequential()).layers[1].weight is critic.layers[1].weight
        True
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        negative_slope: float = 0.2,
        dropout: float | None = None,
        output: str = "identity",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be at least (in, out), all positive, got {tuple(sizes)}")
        hidden: dict[str, Any] = dict(activation=activation, negative_slope=negative_slope, dropout=dropout or 0.0)
        stride = 1 + (activation != "identity") + (dropout is not None)
        last = len(sizes) - 2
        self.flatten = False
        for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            options = {"activation": output} if number == last else hidden
            self.add_module(str(number * stride), FusedLinear(inputs, outputs, bias, **options))

    @property
    def layers(self) -> list[FusedLinear]:
        """The chain, in order."""
        return [layer for layer in self.children() if isinstance(layer, FusedLinear)]

    def forward(self, x: Tensor) -> Tensor:
        """The chain of rows.

        Args:
            x: [B, in]; [B, ...] where the chain begins with a Flatten.

        Returns:
            [B, out].
        """
        x = x.flatten(1) if self.flatten else x
        for layer in self.layers:
            x = layer(x)
        return x

    @classmethod
    def from_sequential(cls, module: nn.Sequential) -> MLP:
        """The same chain, sharing the module's parameters.

        Args:
            module: of Linear, ReLU, LeakyReLU, Tanh, Sigmoid, Dropout, Identity and a leading Flatten.

        Returns:
            A new MLP in the module's mode, with its state-dict keys.

        Raises:
            ValueError: any other module, an order that is no chain of layers, or no Linear.
        """
        mlp = cls.__new__(cls)
        nn.Module.__init__(mlp)
        children = list(module)
        mlp.flatten = bool(children) and _flattens_rows(children[0])
        for position, layer in _read_chain(children[mlp.flatten :], start=int(mlp.flatten)):
            mlp.add_module(str(position), layer)
        if not mlp.layers:
            raise ValueError("there is no Linear layer in this module")
        return mlp.train(module.training)

    def to_sequential(self) -> nn.Sequential:
        """The equivalent nn.Sequential of torch's own modules, sharing this one's parameters.

        Returns:
            A new module in this one's mode, with its state-dict keys.
        """
        modules: list[nn.Module] = [nn.Flatten()] if self.flatten else []
        for name, layer in self.named_children():
            assert isinstance(layer, FusedLinear)
            modules += [nn.Identity() for _ in range(int(name) - len(modules))]
            modules += _torch_modules(layer)
        return nn.Sequential(*modules).train(self.training)


@dataclass
class _Link:
    """A Linear and what follows it, while a chain is read."""

    position: int
    linear: nn.Linear
    activation: str = "identity"
    negative_slope: float = 0.2
    dropout: float = 0.0

    def fuse(self) -> FusedLinear:
        """The fused layer on the same parameters. It is not constructed: to draw weights for nothing takes most of the time."""
        check_options(self.activation, self.dropout)
        layer = FusedLinear.__new__(FusedLinear)
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = self.linear.in_features, self.linear.out_features
        layer.weight, layer.bias = self.linear.weight, self.linear.bias
        layer.activation, layer.negative_slope, layer.dropout = self.activation, self.negative_slope, self.dropout
        return layer


def _flattens_rows(module: nn.Module) -> bool:
    return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)


def _check_plain(module: nn.Module) -> None:
    """A hook would not run in the fused layer; spectral and weight norm by hooks keep their weight elsewhere."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    # not module.weight: reading it computes it, where it is parametrized
    computed = isinstance(module, nn.Linear) and not isinstance(module._parameters.get("weight"), nn.Parameter)
    if hooks or computed or "forward" in vars(module):
        raise ValueError(f"{type(module).__name__} has hooks, or a forward or a weight that are not its own")


def _read_chain(modules: Iterable[nn.Module], start: int) -> Iterator[tuple[int, FusedLinear]]:
    link: _Link | None = None
    for position, module in enumerate(modules, start):
        _check_plain(module)
        if isinstance(module, nn.Linear) and type(module) in (FusedLinear, nn.Linear):
            if link:
                yield link.position, link.fuse()
            link = _Link(position, module)
            if isinstance(module, FusedLinear):
                link = _Link(position, module, module.activation, module.negative_slope, module.dropout)
        elif not isinstance(module, nn.Identity):
            _append(link, module)
    if link:
        yield link.position, link.fuse()


def _append(link: _Link | None, module: nn.Module) -> None:
    name = type(module).__name__
    if link is None:
        raise ValueError(f"{name} comes before the first Linear")
    if type(module) is nn.Dropout and not link.dropout:
        link.dropout = module.p
    elif type(module) in _ACTIVATIONS and link.activation == "identity":
        link.activation = _ACTIVATIONS[type(module)]
        link.negative_slope = getattr(module, "negative_slope", 0.2)
        # dropout before the activation is the same as after it only where act(s x) = s act(x)
        if link.dropout and link.activation not in PIECEWISE_LINEAR:
            raise ValueError(f"Dropout before {name} is not a chain of fused layers")
    else:
        raise ValueError(f"{name} does not fit a chain of Linear, activation and Dropout")


def _torch_modules(layer: FusedLinear) -> list[nn.Module]:
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    linear.weight, linear.bias = layer.weight, layer.bias
    modules: list[nn.Module] = [linear]
    if layer.activation != "identity":
        build = {name: kind for kind, name in _ACTIVATIONS.items()}[layer.activation]
        modules.append(nn.LeakyReLU(layer.negative_slope) if build is nn.LeakyReLU else build())
    if layer.dropout:
        modules.append(nn.Dropout(layer.dropout))
    return modules
