"""The article's two networks: a generator 100-256-512-1024-784 and a discriminator 784-1024-512-256-1."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .layers import FusedLinear
from .mlp import MLP
from .ops.sample import Role, stream, uniforms
from .runtime.arguments import describe as describe_argument


class Network(nn.Module):
    """An MLP under the name `main`, with initial weights drawn from a seed; `Generator` and `Discriminator` are such.

    Weights are uniform with variance gain^2 / in, gain^2 = 2 / (1 + slope^2) before a (leaky) ReLU and 1 before the end (He et
    al. 2015); biases are 0. nn.Linear's own initial weights shrink a signal by 2.4 a layer: the generator starts out with one
    picture for all latents, and the article's game then stays on the digit 1 for epochs (benchmarks/NOTES.md).

    Args:
        main: the layers.
        seed: of the initial weights. None draws one from torch's generator; the trainer then draws the weights again from its
            own seed, unless somebody has changed them.

    Example:
        >>> one, two = Generator(4, image_size=2, seed=1), Generator(4, image_size=2, seed=1)
        >>> isinstance(one, Network), torch.equal(one.main.layers[0].weight, two.main.layers[0].weight)
        (True, True)
    """

    tag: int  # keeps the draws of different networks apart

    def __init__(self, main: MLP, seed: int | None) -> None:
        super().__init__()
        self.main = main
        self.seed = seed
        # on the CPU also under torch.device("meta"), where nothing has a value
        self._drawn_from = int(torch.randint(2**62, (), device="cpu")) if seed is None else seed
        self.reset_parameters(self._drawn_from)

    def _initial_weights(self, seed: int) -> list[Tensor]:
        weights = []
        for index, layer in enumerate(self.main.layers):
            word = stream(Role.INITIAL, pass_=self.tag, index=index)
            unit = uniforms(layer.out_features, layer.in_features, seed=seed, step=0, stream=word)
            weights.append((2.0 * unit - 1.0) * (_gain(layer) * math.sqrt(3.0 / layer.in_features)))
        return weights

    def reset_parameters(self, seed: int) -> None:
        """Draws the initial weights.

        Args:
            seed: the same weights every time, on every device.
        """
        self._drawn_from = seed
        if self.main.layers[0].weight.is_meta:  # which holds no weights, and may be of any size
            return
        with torch.no_grad():
            for layer, weight in zip(self.main.layers, self._initial_weights(seed), strict=True):
                layer.weight.copy_(weight)
                layer.bias.zero_()

    def is_untouched(self) -> bool:
        """Whether a trainer may draw the weights from its own seed.

        Returns:
            True if they are still the ones drawn for a network that was given no seed.
        """
        if self.seed is not None or self.main.layers[0].weight.is_meta:
            return False
        drawn = zip(self.main.layers, self._initial_weights(self._drawn_from), strict=True)
        return all(torch.equal(layer.weight, weight.to(layer.weight)) and not layer.bias.any() for layer, weight in drawn)

    def config(self) -> dict:
        """The constructor's arguments, for a checkpoint.

        Returns:
            Plain data by the arguments' names, without the seed.

        Raises:
            NotImplementedError: a subclass that does not say.
        """
        raise NotImplementedError


def _gain(layer: FusedLinear) -> float:
    slopes = {"relu": 0.0, "leaky_relu": layer.negative_slope}
    return math.sqrt(2.0 / (1.0 + slopes[layer.activation] ** 2)) if layer.activation in slopes else 1.0


class Generator(Network):
    """The article's generator: z_dim-256-512-1024-image_size, ReLU between, Tanh last.

    Args:
        z_dim: numbers in a latent.
        image_size: numbers in a sample.
        seed: of the initial weights; None leaves them to the trainer's seed (`Network`).

    Example:
        >>> images = Generator(z_dim=16, image_size=64, seed=0)(torch.randn(2, 16))
        >>> images.shape, bool((images.abs() <= 1).all())
        (torch.Size([2, 64]), True)
    """

    tag = 0

    def __init__(self, z_dim: int = 100, image_size: int = 784, *, seed: int | None = None) -> None:
        super().__init__(MLP((z_dim, 256, 512, 1024, image_size), output="tanh"), seed)
        self.z_dim, self.image_size = z_dim, image_size

    def forward(self, z: Tensor) -> Tensor:
        """Samples of latents.

        Args:
            z: latents, [B, z_dim].

        Returns:
            Images in [-1, 1], [B, image_size].
        """
        return self.main(z)

    def config(self) -> dict:
        return {"z_dim": self.z_dim, "image_size": self.image_size}


class Discriminator(Network):
    """The article's discriminator: image_size-1024-512-256-1, LeakyReLU 0.2, dropout between.

    It ends without a Sigmoid: the losses take logits, on which they are exact. `probability` is the article's sigmoid head.

    Args:
        image_size: numbers in an image.
        dropout: after each hidden layer, the probability of a zero in training.
        seed: of the initial weights; None leaves them to the trainer's seed (`Network`).

    Raises:
        ValueError: a dropout outside [0, 1).

    Example:
        >>> critic = Discriminator(image_size=64, seed=0).eval()
        >>> images = torch.zeros(2, 1, 8, 8)
        >>> torch.equal(critic.probability(images), critic(images).sigmoid())
        True
    """

    tag = 1

    def __init__(self, image_size: int = 784, dropout: float = 0.3, *, seed: int | None = None) -> None:
        sizes = (image_size, 1024, 512, 256, 1)
        super().__init__(MLP(sizes, activation="leaky_relu", negative_slope=0.2, dropout=dropout), seed)
        self.image_size, self.dropout = image_size, dropout

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images.

        Args:
            images: [B, image_size], or [B, 1, H, W] with H W = image_size.

        Returns:
            [B, 1]; above 0 for what looks real.
        """
        return self.main(images.flatten(1))

    def probability(self, images: Tensor) -> Tensor:
        """The probability that images are real.

        Args:
            images: [B, image_size], or [B, 1, H, W] with H W = image_size.

        Returns:
            [B, 1] in [0, 1].
        """
        return torch.sigmoid(self(images))

    def config(self) -> dict:
        return {"image_size": self.image_size, "dropout": self.dropout}


_NETWORKS: dict[str, Callable[..., Network]] = {"Generator": Generator, "Discriminator": Discriminator}


def describe(network: nn.Module) -> dict[str, Any]:
    """What a network is, as plain data, for a checkpoint.

    Args:
        network: any module.

    Returns:
        Its type's name and, for fastgan's own, the constructor's arguments.

    Example:
        >>> describe(Generator(z_dim=16, image_size=64)), describe(torch.nn.Tanh())
        ({'type': 'Generator', 'z_dim': 16, 'image_size': 64}, {'type': 'torch.nn.modules.activation.Tanh'})
    """
    if isinstance(network, Network) and type(network) is _NETWORKS.get(type(network).__name__):
        return {"type": type(network).__name__, **network.config()}
    return {"type": f"{type(network).__module__}.{type(network).__qualname__}"}


def is_own(description: dict[str, Any]) -> bool:
    """Whether `build` knows what a description describes.

    Args:
        description: what `describe` returned.

    Returns:
        True for fastgan's own networks.

    Example:
        >>> is_own({"type": "Generator", "z_dim": 16, "image_size": 64}), is_own(describe(torch.nn.Tanh()))
        (True, False)
    """
    return description["type"] in _NETWORKS


def build(description: dict[str, Any], role: str) -> Network:
    """The network that `describe` described.

    Args:
        description: what `describe` returned.
        role: "generator" or "discriminator", for the message.

    Returns:
        A new network without a seed.

    Raises:
        ValueError: a network that is not fastgan's own.

    Example:
        >>> build({"type": "Generator", "z_dim": 16, "image_size": 64}, "generator").z_dim
        16
    """
    kind = description["type"]
    if not is_own(description):
        raise ValueError(f"the checkpoint's {role} is a {kind}: pass one as {role}=")
    return _NETWORKS[kind](**{name: value for name, value in description.items() if name != "type"})


def latent_shape(generator: nn.Module) -> tuple[int, ...]:
    """The shape of one latent.

    Args:
        generator: a module with an attribute `z_dim`, a number or a shape, or whose first Linear or transposed convolution
            says it.

    Returns:
        The shape, without the rows.

    Raises:
        ValueError: neither says it, or a `z_dim` that is no whole number of at least 1 and no shape of such.

    Example:
        >>> latent_shape(Generator(z_dim=16)), latent_shape(torch.nn.ConvTranspose2d(100, 64, 4))
        ((16,), (100, 1, 1))
    """
    z_dim = getattr(generator, "z_dim", None)
    if z_dim is not None:
        return _as_shape(z_dim)
    for module in generator.modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            return (module.in_channels, *(1 for _ in module.kernel_size))
    raise ValueError(f"{type(generator).__name__} does not say which latents it takes: give it a z_dim attribute")


def _as_shape(z_dim: Any) -> tuple[int, ...]:
    is_shape = isinstance(z_dim, (tuple, list))
    try:
        shape = tuple(-1 if isinstance(extent, bool) else operator.index(extent) for extent in (z_dim if is_shape else [z_dim]))
    except TypeError:
        shape = ()
    if shape and min(shape) >= 1:
        return shape
    raise ValueError(
        "generator.z_dim must be the number of a latent's numbers, such as 100, or its shape, such as (100, 1, 1), got "
        f"{repr(z_dim) if is_shape else describe_argument(z_dim)}"
    )


def latent_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes in which a generator may take the numbers of one latent.

    Args:
        shape: what `latent_shape` says.

    Returns:
        That one first, then flat, then as one pixel of signals, images and voxels.

    Example:
        >>> latent_shapes((100, 1, 1))
        [(100, 1, 1), (100,), (100, 1), (100, 1, 1, 1)]
    """
    flat = math.prod(shape)
    return list(dict.fromkeys((shape, *((flat, *[1] * sides) for sides in range(4)))))
