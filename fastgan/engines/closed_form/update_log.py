"""Where updates leave what they did until somebody looks: on the host as they go, or on the device for many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...ops.backend import Launch
from ...ops.triton.update import FINITE_CHECK, PENALTY_VALUES, RESULTS, RecordLocation, flush_
from ...runtime.distributed import ALONE, World
from ..flat_network import FlatNetwork
from .result import UpdateResult


class UpdateLog(Protocol):
    """What a step asks of a network's log. network: whose updates these are; world: the processes that play it together."""

    network: FlatNetwork
    world: World

    def reserve(self, updates: int) -> None:
        """Makes place for so many updates between two flushes, and forgets those of an unfinished step."""

    def flush(self, counter: int | Tensor) -> None:
        """Counts the updates since the last flush. counter: of the step, a tensor in a captured one."""


@dataclass
class HostUpdateLog:
    """A log whose updates are counted one by one, by the network itself."""

    network: FlatNetwork
    world: World = ALONE

    def reserve(self, updates: int) -> None:
        """Nothing to do."""

    def flush(self, counter: int | Tensor) -> None:
        """Counts what updates left alone, before a captured run ends: what was recorded is then gone."""
        if isinstance(counter, Tensor):
            self.network.count_skipped()


class DeviceUpdateLog:
    """A record for each update since the last flush, a row each, then their count and the last one's results.

    launch: what launches kernels; penalty_values: how many numbers the penalties of an update leave at most; programs: of the
    kernel that ends an update.
    """

    def __init__(self, launch: Launch, network: FlatNetwork, world: World, penalty_values: int, programs: int) -> None:
        self.launch, self.network, self.world, self.programs = launch, network, world, programs
        self.statistics_at, self.device = PENALTY_VALUES + penalty_values, network.weight.device
        self.finite_checks = PENALTY_VALUES - FINITE_CHECK
        self.records = torch.empty(0)
        self.reserve(1)

    def reserve(self, updates: int) -> None:
        """Allocates records of so many updates between two flushes, and forgets those of an unfinished step."""
        self.used = 0
        if updates > len(self.records):
            width = self.statistics_at + 2 * self.programs
            # every record begins on 16 bytes, or kernels would be compiled for two kinds of them
            self.records = torch.zeros(updates, -(-width // 4) * 4, device=self.device)
            self.flags = 1 << (updates - 1).bit_length()

    def resize(self, programs: int, updates: int) -> None:
        """Records for an update that so many programs end, and of so many updates."""
        self.programs, self.records = programs, torch.empty(0)
        self.reserve(updates)

    def begin(self) -> Tensor:
        """Opens the next update's record and returns it."""
        if self.used == 0:  # a tensor of their own: somebody may still hold the results before
            self.results = torch.zeros(RESULTS, device=self.device)
        self.finite_checks = PENALTY_VALUES - FINITE_CHECK
        return self.records[self.used]

    def rewind(self, finite_checks: int) -> None:
        """Opens the first record again as it was before the update was closed that had so many numbers to check."""
        self.used, self.finite_checks = 0, finite_checks

    def penalty_values(self, count: int) -> Tensor:
        """Where a penalty's values go in the open record."""
        first = FINITE_CHECK + self.finite_checks
        self.finite_checks += count
        return self.records[self.used][first : first + count]

    def close(self) -> RecordLocation:
        """Where an update's kernel finds its record and those before it; closes the record."""
        self.used += 1
        size = self.records.stride(0)
        return RecordLocation(self.records, size, self.used - 1, self.finite_checks, self.statistics_at, self.flags)

    def result(self) -> UpdateResult:
        """The last update's, once it is flushed."""
        return UpdateResult(self.results[0], self.results[1:3], self.results[3], self.results[4:6])

    def flush(self, counter: int | Tensor) -> None:
        """Counts the updates since the last time, and gathers the last one's results."""
        last = RecordLocation(
            self.records, self.records.stride(0), self.used, self.finite_checks, self.statistics_at, self.flags
        )
        flush_(self.launch, last, self.programs, self.network.count, self.network.skips, self.results)
        self.used = 0
