"""Reading numbers and times off a device without stopping it."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """A moment: when the device gets there, on a GPU; now, on a CPU.

    Args:
        device: whose current stream it is in.

    Returns:
        What `seconds` subtracts.
    """
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds(before: Mark, after: Mark) -> float:
    """The time between two moments of one device, which have both come.

    Args:
        before: the earlier one.
        after: the later one.

    Returns:
        Seconds.
    """
    if isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event):
        return before.elapsed_time(after) / 1e3
    assert isinstance(before, float) and isinstance(after, float)
    return after - before


class Reading:
    """0-d tensors on their way to the host, in one transfer; `arrived`: the moment when they are there.

    Args:
        metrics: the tensors by their names, all on one device.
    """

    def __init__(self, metrics: Mapping[str, Tensor]) -> None:
        values = torch.stack([value.double() for value in metrics.values()])
        self.names, self.values, device = list(metrics), values, values.device
        if device.type == "cuda":
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.values = pinned.copy_(values, non_blocking=True)
        self.arrived = mark(device)

    def numbers(self) -> dict[str, float]:
        """The tensors as floats; waits for them.

        Returns:
            Floats by their names.
        """
        if isinstance(self.arrived, torch.cuda.Event):
            self.arrived.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))
