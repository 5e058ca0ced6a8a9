"""Samples from fixed latents: what a run shows of its generator, and what is tried before it begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..data import ImageSet
from ..data.convert import channels_first, is_image
from ..engines.flat_network import FlatNetwork
from ..engines.game import Game
from ..ops.sample import Draws, Role
from ..runtime.arguments import describe
from ..runtime.module_state import modes_kept
from ..runtime.randomness import drawing_from
from .arguments import check

_LATENTS = "if its latents are others, give it an attribute z_dim, their number or their shape (generator.z_dim = 100)"
# what modules raise for inputs of another shape
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Inside, networks are in evaluation mode; afterwards each module is in the mode that it was in."""
    with modes_kept(*networks):
        for network in networks:
            network.eval()
        yield


def preview_latents(game: Game, n: int, seed: int) -> Tensor:
    """n latents, the same ones whenever they are drawn."""
    return game.latents(Draws(seed, 0, device=game.device, dtype=game.dtype), n, Role.PREVIEW)


def generate(game: Game, latents: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Samples of latents, with these weights in place of the generator's own.

    A generator that fails on latents of the game's shape gets them in the others that it may mean; the game keeps the one it
    takes. ValueError where there is none, or where it does not return one tensor.
    """
    faults = []
    for shape in models.latent_shapes(game.latent_shape):
        try:
            made = _called(game.generator.module, weights, latents.view(len(latents), *shape))
        except torch.OutOfMemoryError:
            raise
        except REFUSALS as error:
            faults.append(error)
            continue
        check(
            isinstance(made, Tensor), f"the generator must return one tensor of samples, got {describe(made)}: return it alone"
        )
        if made.shape[:1] == latents.shape[:1]:
            game.latent_shape = shape
            return made
        faults.append(ValueError(f"it made samples of shape {tuple(made.shape)} of them"))
    raise ValueError(
        f"the generator takes no latents of shape {(len(latents), *game.latent_shape)}: {_line(faults[0])}; "
        + (_of_another_dtype(game.generator) or _LATENTS)
    ) from faults[0]


def _called(module: nn.Module, weights: dict[str, Tensor], latents: Tensor) -> Any:
    """What a module makes, with these weights in place of its own; functional calls know no nn.DataParallel."""
    return torch.func.functional_call(module, weights, (latents,)) if weights else module(latents)


def try_networks(game: Game, images: ImageSet, rows: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """As many latents as an update has rows, the samples made of them, and a sample's shape.

    ValueError where the generator, the data and the discriminator do not fit each other.
    """
    latents = preview_latents(game, rows, game.seed)
    fake = generate(game, latents, {}).to(game.dtype)
    shape = shape_of_samples(tuple(fake.shape[1:]), images)
    try:
        logits = game.discriminator.module(fake)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        flat = tuple(fake.shape[1:]) == (images.features,)
        remedy = f"nn.Unflatten(1, {shape}) at the generator's end" if flat else "nn.Flatten() at the discriminator's beginning"
        remedy = f"give it layers of that size, or {remedy} where that is its shape"
        raise ValueError(
            f"the discriminator takes no samples of shape {tuple(fake.shape)}: {_line(error)}; "
            f"{_of_another_dtype(game.discriminator) or remedy}"
        ) from error
    check(
        isinstance(logits, Tensor) and logits.is_floating_point(),
        f"the discriminator must return one tensor of logits, got {describe(logits)}: return its logits alone",
    )
    return latents.view(rows, *game.latent_shape), fake, shape


def _of_another_dtype(network: FlatNetwork) -> str:
    """What to do about a frozen weight or a buffer that is no number of the trained weights' type; "" where there is none."""
    dtype = network.weight.dtype
    for name, tensor in (*network.module.named_parameters(), *network.module.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != dtype:
            return f"its '{name}' is {tensor.dtype}, and its trained weights {dtype}: make them alike"
    return ""


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def shape_of_samples(made: tuple[int, ...], images: ImageSet) -> tuple[int, ...]:
    """The shape of a sample that a generator makes in a shape: the data's. Flat rows, on either side, take the other's.

    ValueError for another number of numbers, and for another layout: by order alone, pixels would stand in wrong places.
    """
    given = images.shape if images.given_shape is None else images.given_shape
    count = math.prod(made)
    check(count == images.features, f"the generator makes samples of {count} numbers, but {images.name} has {images.features}")
    if len(made) > 1 and made == given:
        return made
    if not _layout(made):
        return images.shape if len(given) == 1 and is_image(given) else given
    if len(given) == 1:
        return made
    if _layout(made) != _layout(given):
        raise ValueError(
            f"the generator makes samples of shape {made}, but {images.name} has {given}, the same numbers in another order: "
            + _how_to_arrange(made, given)
        )
    return images.shape


def _layout(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The extents that decide where a number stands; () for flat rows."""
    extents = tuple(extent for extent in shape if extent != 1)
    return extents if len(extents) > 1 else ()


def _how_to_arrange(made: tuple[int, ...], given: tuple[int, ...]) -> str:
    ours, theirs = _permutation(made, given), _permutation(given, made)
    if not ours:
        return f"let its layers make {given}; a view of what they make would not"
    permuted = (1, *(given[axis - 1] for axis in theirs[1:]))
    refused = bool(channels_first(permuted))  # as data with the channels last
    return f"end it with .permute{ours}" + ("" if refused else f", or give the data's .permute{theirs}")


def _permutation(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation of rows of one shape after which their numbers stand as in the other; () where there is none."""
    if sorted(_layout(one)) != sorted(_layout(other)):
        return ()
    orders = list(itertools.permutations(range(len(one))))
    shapes = [tuple(one[axis] for axis in order) for order in orders]
    alike = [_layout(shape) == _layout(other) for shape in shapes]
    found = orders[shapes.index(other) if other in shapes else alike.index(True)]
    return (0, *(axis + 1 for axis in found))


def ema_weights(network: FlatNetwork) -> dict[str, Tensor]:
    """The weights' moving average by the parameters' names; {} where there is none."""
    ema = network.averages()
    named = network.module.named_parameters(remove_duplicate=False)
    return {name: ema[id(parameter)] for name, parameter in named if id(parameter) in ema}


def make_samples(game: Game, n: int, seed: int, weights: dict[str, Tensor]) -> Tensor:
    """What the generator makes of n preview latents, with these weights in place of its own, in the data's shape."""
    latents = preview_latents(game, n, seed)
    with evaluating(game.generator.module), drawing_from(seed, game.device, game.generator.module):
        made = generate(game, latents, weights)
    return made.reshape(n, *_final_shape(tuple(made.shape[1:]), game.sample_shape))


def _final_shape(made: tuple[int, ...], known: tuple[int, ...] | None) -> tuple[int, ...]:
    """The known shape; where none is known, or another generator's, the one made, of flat rows a square image's if one fits."""
    if known and math.prod(known) == math.prod(made) and _layout(made) in ((), _layout(known)):
        return known
    if len(made) != 1 or not is_image(made):
        return made
    side = math.isqrt(made[0])
    return 1, side, side
