"""More than one process: each holds its own rows of the same global batch, and gradients are summed.

The loss is computed on the logits of all processes, so every objective, the relativistic averages among them, means
the same for W processes of B / W rows as for one process of B.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class World(NamedTuple):
    """This process's number and how many there are."""

    rank: int = 0
    size: int = 1


ALONE = World()


def world() -> World:
    """The running process group, or a world of one."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


@contextmanager
def process_group(device: str = "auto") -> Iterator[World]:
    """Joins the process group that torchrun describes in the environment, if it does; NCCL on GPUs, Gloo on CPUs."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield world()
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield world()
    finally:
        dist.destroy_process_group()


@contextmanager
def first_process_first() -> Iterator[None]:
    """The other processes enter when the first one has left: what it downloaded is there."""
    group = world()
    if group.rank:
        dist.barrier()
    yield
    if group.size > 1 and group.rank == 0:
        dist.barrier()


def local_rows(batch_size: int, size: int) -> int:
    """How many rows of a batch each process holds; ValueError unless they divide evenly."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    if batch_size >= 2**31:
        raise ValueError(f"batch_size must be less than 2^31 rows, got {batch_size}")
    if batch_size % size:
        raise ValueError(f"batch_size {batch_size} does not divide by {size} processes")
    return batch_size // size


def sum_(tensor: Tensor, size: int) -> Tensor:
    """The sum over all processes, in place."""
    if size > 1:
        dist.all_reduce(tensor)
    return tensor


def all_rows(local: Tensor, group: World) -> Tensor:
    """The rows of all processes, [W * B, ...]; gradients reach this process's own rows only, and are summed later."""
    if group.size == 1:
        return local
    rows = [torch.empty_like(local) for _ in range(group.size)]
    dist.all_gather(rows, local.detach().contiguous())
    rows[group.rank] = local
    return torch.cat(rows)


def std(local: Tensor, group: World) -> Tensor:
    """The standard deviation (n - 1) of all elements on all processes, 0-d."""
    if group.size == 1:
        return local.std()
    total = group.size * local.numel()
    mean = sum_(local.sum(), group.size) / total
    return (sum_((local - mean).square().sum(), group.size) / (total - 1)).sqrt()


def max_(tensor: Tensor, size: int) -> Tensor:
    """The maximum over all processes, in place."""
    if size > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def broadcast_(tensor: Tensor, size: int) -> Tensor:
    """The first process's values, in place."""
    if size > 1:
        dist.broadcast(tensor, 0)
    return tensor
