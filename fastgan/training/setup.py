"""What a trainer's arguments become: two networks on one device, a game of them, and the engine that plays it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .. import models
from ..engines.buffers import is_written
from ..engines.flat_network import FlatNetwork
from ..engines.game import Game
from ..losses import GANLoss
from ..models import Network
from ..ops.reference import RULES
from ..optim import Optimizer
from ..penalties import Penalty, Spec, WeightClip
from ..runtime import distributed
from ..runtime.arguments import describe
from ..runtime.input_gradient import HALVES
from .arguments import check, check_whole, is_whole
from .options import FitOptions

ENGINES = ("auto", "closed-form", "autograd")
CAPTURES = ("auto", "off")


def check_kinds(generator: Any, discriminator: Any, loss: Any, optimizers: Mapping[str, Any], ema: Any) -> None:
    """TypeError for an argument that is something else than what it must be; the message says what to write."""
    for role, network in (("generator", generator), ("discriminator", discriminator)):
        _check_module(role, network)
    if not isinstance(loss, str):
        name = loss.kind if isinstance(loss, GANLoss) else "hinge"
        raise TypeError(
            f"loss must be a preset's name, such as loss={name!r}, got {describe(loss)}: "
            "a loss of your own needs a loop of your own"
        )
    for name, optimizer in optimizers.items():
        is_spec = isinstance(optimizer, Optimizer) and getattr(optimizer, "rule", None) in RULES  # the base class has none
        if optimizer is not None and not is_spec:
            raise TypeError(
                f"{name} must be a spec of fastgan.optim, such as {name}=fastgan.optim.Adam(2e-4, betas=(0.5, 0.999)), got "
                f"{describe(optimizer)}: the trainer makes the updates itself, and has the parameters"
            )
    check_ema(ema)


def check_ema(ema: Any) -> None:
    """TypeError for a decay that is neither None nor a number."""
    if ema is not None and (isinstance(ema, bool) or not isinstance(ema, (int, float))):
        raise TypeError(f"ema must be None or a decay in [0, 1), such as ema=0.999, got {ema!r}")


def _check_module(role: str, network: Any) -> None:
    if not isinstance(network, nn.Module):
        is_class = isinstance(network, type) and issubclass(network, nn.Module)
        remedy = f"write {network.__name__}(...)" if is_class else "put what it does into the forward of one"
        raise TypeError(f"{role} must be an nn.Module, got {describe(network)}: {remedy}")
    if any(isinstance(part, torch.jit.ScriptModule) for part in network.modules()):
        raise TypeError(f"{role} is scripted or traced by torch.jit: give the trainer the module that it was made of")
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"{role}'s '{name}' has no size yet: call the network once, on rows of the data's size, before")
        if tensor.is_meta:
            raise ValueError(f"{role}'s '{name}' is on the meta device: write {role}.to_empty(device=...) and load its weights")
        if tensor.is_inference():
            raise ValueError(f"{role}'s '{name}' was made under torch.inference_mode(), and cannot be trained: make it outside")


def check_reporting(names: Iterable[str]) -> None:
    """TypeError for an argument that a run does not have."""
    known = [field.name for field in fields(FitOptions) if field.name not in ("steps", "epoch_steps", "out", "command")]
    for name in names:
        if name not in (*known, "command"):
            raise TypeError(f"fit() has no argument {name!r}; besides data, epochs, steps, batch_size and out it has {known}")


def check_choices(d_steps: Any, seed: Any, ema: Any, engine: Any, capture: Any, steps_per_graph: Any) -> None:
    """ValueError for an argument out of its range; the message names it."""
    check(is_whole(d_steps, 1, 2**16 - 1), f"d_steps must be a whole number >= 1, got {d_steps!r}")
    check(is_whole(seed, 0, 2**63 - 1), f"seed must be a whole number in [0, 2^63), got {seed!r}")
    check(ema is None or 0.0 <= ema < 1.0, f"ema must be None or a decay in [0, 1), got {ema!r}")
    check(engine in ENGINES, f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    check(capture in CAPTURES, f"unknown capture {capture!r}; choose one of {', '.join(CAPTURES)}")
    check_whole("steps_per_graph", steps_per_graph, 1)


def place(networks: tuple[nn.Module, nn.Module], seed: int, device: torch.device, precision: str) -> torch.dtype:
    """Moves both networks to the device, with initial weights of the seed where they are its to draw; returns their dtype."""
    generator, discriminator = networks
    shared = {id(p) for p in generator.parameters()} & {id(p) for p in discriminator.parameters()}
    check(not shared, "the generator and the discriminator share parameters")
    for role, network in zip(("generator", "discriminator"), networks, strict=True):
        _check_weights(role, network, precision)
        if isinstance(network, Network) and network.is_untouched():
            network.reset_parameters(seed)
        network.to(device, torch.float64 if precision == "fp64" else None)
    dtypes = [next((p.dtype for p in network.parameters() if p.requires_grad), torch.float32) for network in networks]
    check(dtypes[0] == dtypes[1], f"the generator's weights are {dtypes[0]}, the discriminator's {dtypes[1]}: make them alike")
    return dtypes[0]


def _check_weights(role: str, network: nn.Module, precision: str) -> None:
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.dtype in HALVES and precision != "fp64":
            raise ValueError(
                f"the {role}'s parameter '{name}' is {parameter.dtype}, and weights are trained in fp32: give the trainer "
                f'{role}.float(), and precision="bf16" or "fp16" for products in half precision'
            )


@contextmanager
def memory_for(batch_size: int, device: torch.device) -> Iterator[None]:
    """Around what first holds a batch: ValueError that names it where there is no memory for it."""
    try:
        yield
    except Exception as error:
        if _is_out_of_memory(error):
            message = f"batch_size={batch_size} rows do not fit into the memory of {device}: give a smaller batch_size"
            raise ValueError(message) from error
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, by torch's own error on a GPU and by its text on a CPU; also behind another error."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error):
        return True
    return error.__cause__ is not None and _is_out_of_memory(error.__cause__)


def clip_bound(specs: Iterable[Spec]) -> float:
    """The bound that weights are clipped to, 0 for none."""
    return next((spec.bound for spec in specs if isinstance(spec, WeightClip)), 0.0)


def make_game(generator: FlatNetwork, discriminator: FlatNetwork, specs: Iterable[Spec], **options: Any) -> Game:
    """The game of two networks, whose weights, averages and buffers are then those of the first process."""
    game = Game(
        generator=generator,
        discriminator=discriminator,
        penalties=tuple(spec for spec in specs if isinstance(spec, Penalty)),
        latent_shape=models.latent_shape(generator.module),
        **options,
    )
    for network in (game.generator, game.discriminator):
        average = () if network.ema is None else (network.ema,)
        frozen = [parameter.detach() for parameter in network.module.parameters() if not parameter.requires_grad]
        buffers = [buffer for _, _, buffer in network.buffers() if is_written(buffer)]
        for tensor in (network.weight, *average, *frozen, *buffers):
            distributed.broadcast_(tensor, game.world.size)
    return game
