"""Layers: a linear layer with its bias, activation and dropout in one operator, and where dropout takes its masks from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import torch
from torch import Tensor, nn

from .ops import linear as ops
from .ops import sample
from .ops.backend import transforms_active
from .ops.sample import Draws, MaskCounter


class _Pass:
    """One pass over a network: its draws, and how many dropout layers it has met."""

    def __init__(self, draws: Draws, number: int) -> None:
        self.draws, self.number, self.layers = draws, number, 0


_current: ContextVar[_Pass | None] = ContextVar("fastgan_pass", default=None)
_running = 0  # passes in all threads: before torch 2.14 the compiler reads no ContextVar, and without a pass it needs none
_counting = Lock()


@contextmanager
def drawing(draws: Draws, pass_: int) -> Iterator[None]:
    """Inside, dropout masks are those of `draws` for this pass: layer 0, 1, ... in the order they run.

    Args:
        draws: the random numbers of one update.
        pass_: which of the update's passes over networks this is, 0 to 15; each has masks of its own.

    Example:
        >>> layer, x = FusedLinear(4, 8, dropout=0.5), torch.ones(2, 4)
        >>> draws = fastgan.ops.sample.Draws(seed=0, step=3)
        >>> def masked():
        ...     with drawing(draws, 0):
        ...         return layer(x)
        >>> torch.equal(masked(), masked())
        True
    """
    _count(1)
    token = _current.set(_Pass(draws, pass_))
    try:
        yield
    finally:
        _current.reset(token)
        _count(-1)


def _count(more: int) -> None:
    global _running
    with _counting:
        _running += more


def next_masks(device: torch.device) -> MaskCounter:
    """Where the next dropout layer's mask comes from: the running pass (`drawing`), or a fresh seed of torch's generator.

    Args:
        device: where the layer runs.

    Returns:
        The counters that `ops.linear` draws the mask by.

    Example:
        >>> seed = torch.manual_seed(0)
        >>> first = next_masks(torch.device("cpu"))
        >>> first == next_masks(torch.device("cpu"))
        False
    """
    current = _current.get() if _running else None
    if current is None:
        return sample.masks([(Draws(_fresh_seed(device), 0), 0)], 0)
    layer, current.layers = current.layers, current.layers + 1
    return sample.masks([(current.draws, current.number)], layer)


def _fresh_seed(device: torch.device) -> int | Tensor:
    """One draw from torch's generator, so that torch.manual_seed governs the mask as it does for nn.Dropout.

    It is a tensor where a number would be for ever, in code that is compiled or captured now and runs later, and under
    torch.func transforms, which know whether each of many has its own.
    """
    captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if torch.compiler.is_compiling() or captured or transforms_active():
        return torch.randint(2**62, (), device=device)
    return int(torch.randint(2**62, ()))


def check_options(activation: str, dropout: float) -> None:
    """Refuses what no layer can have.

    Args:
        activation: identity, relu, leaky_relu, tanh or sigmoid.
        dropout: the probability of a zero, in [0, 1).

    Raises:
        ValueError: an activation that a layer does not have, or a dropout that would leave nothing.

    Example:
        >>> check_options("relu", 1.0)
        Traceback (most recent call last):
            ...
        ValueError: dropout must be in [0, 1), got 1.0
    """
    if activation not in ops.ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(ops.ACTIVATIONS)}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


class FusedLinear(nn.Linear):
    """dropout(act(x W^T + b)) in one operator; its state dict interchanges with nn.Linear's.

    Derivatives of any order exist.

    Args:
        in_features: numbers in a row.
        out_features: numbers in a row of what it returns.
        bias: whether there is a b.
        activation: identity, relu, leaky_relu, tanh or sigmoid.
        negative_slope: LeakyReLU's.
        dropout: the probability of a zero in training, in [0, 1).
        device: of the parameters, as in nn.Linear.
        dtype: of the parameters, as in nn.Linear.

    Raises:
        ValueError: a bad activation or dropout.

    Example:
        >>> layer = FusedLinear(3, 2, activation="relu", dropout=0.5)
        >>> layer
        FusedLinear(in_features=3, out_features=2, bias=True, activation='relu', dropout=0.5)
        >>> x = torch.randn(4, 3)
        >>> torch.allclose(layer.eval()(x), torch.relu(x @ layer.weight.T + layer.bias), atol=1e-6)
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str = "identity",
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        check_options(activation, dropout)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.activation, self.negative_slope, self.dropout = activation, negative_slope, dropout

    def forward(self, input: Tensor) -> Tensor:
        """The layer of rows; dropout in training mode alone.

        Args:
            input: [B, ..., in_features], fp16 to fp64.

        Returns:
            [B, ..., out_features], inside autocast in its dtype.
        """
        dropout = ops.Dropout(self.dropout, next_masks(input.device)) if self.training and self.dropout else None
        act, slope = self.activation, self.negative_slope
        return ops.linear(input, self.weight, self.bias, activation=act, negative_slope=slope, dropout=dropout)

    def extra_repr(self) -> str:
        """The sizes and options.

        Returns:
            What repr() shows between the parentheses.
        """
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation!r}{slope}, dropout={self.dropout}"
