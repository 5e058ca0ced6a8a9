"""Samples from fixed latents: what a run shows of its generator, and what is tried before it begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data import ImageSet
from ..engines.flat_network import FlatNetwork
from ..engines.game import Game
from ..ops.sample import Draws, Role
from ..runtime.module_state import modes_kept
from .setup import check


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


def try_generator(game: Game, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Two latents and the samples made of them; ValueError where these have another size than the data's."""
    latents = preview_latents(game, 2, game.seed)
    fake = game.generator.module(latents)
    made, wanted = fake[0].numel(), images.features
    check(made == wanted, f"the generator makes samples of {made} numbers, but {images.name} has {wanted}")
    return latents, fake


def ema_weights(network: FlatNetwork) -> dict[str, Tensor]:
    """The weights' moving average by the parameters' names; {} where there is none."""
    if network.ema is None:
        return {}
    names = [name for name, parameter in network.module.named_parameters() if parameter.requires_grad]
    return dict(zip(names, network.views(network.ema), strict=True))


def make_samples(game: Game, n: int, seed: int, weights: dict[str, Tensor]) -> Tensor:
    """What the generator makes of n preview latents, with these weights in place of its own."""
    generator = game.generator.module
    latents = preview_latents(game, n, seed)
    with evaluating(generator):
        return torch.func.functional_call(generator, weights, (latents,))


def sample_shape(images: Tensor, data: ImageSet | None) -> tuple[int, ...]:
    """The shape of one sample: the generator's own or the data's; without either a square image where it could be one."""
    if images.dim() > 2:
        return tuple(images.shape[1:])
    if data is not None:
        return tuple(data.shape)
    side = math.isqrt(images.shape[1])
    return (1, side, side) if side * side == images.shape[1] else (images.shape[1],)
