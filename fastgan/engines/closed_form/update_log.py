"""What the updates of a network leave on the device until somebody may look: values, mean logits, penalties, statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from ...chain.triton_tiles import TritonProducts
from ...ops.triton.update import FINITE_CHECK, PENALTY_VALUES, RESULTS, flush_
from ..flat_network import FlatNetwork
from .update import UpdateResult


class UpdateLog:
    """A row for each update since the last flush, then their count and the last one's results.

    penalty_values: how many numbers the penalties of an update leave at most; programs: of the kernel that ends an update.
    """

    def __init__(self, products: TritonProducts, network: FlatNetwork, penalty_values: int, programs: int) -> None:
        self.launch, self.network, self.programs = products.launch, network, programs
        self.statistics, self.device = PENALTY_VALUES + penalty_values, products.device
        self.finite_checks = PENALTY_VALUES - FINITE_CHECK
        self.rows = torch.empty(0)
        self.reserve(1)

    def reserve(self, updates: int) -> None:
        """Allocates records of so many updates between two flushes, and forgets those of an unfinished step."""
        self.used = 0
        if updates > len(self.rows):
            width = self.statistics + 2 * self.programs
            # every row begins on 16 bytes, or kernels would be compiled for two kinds of rows
            self.rows = torch.zeros(updates, -(-width // 4) * 4, device=self.device)
            self.flags = 1 << (updates - 1).bit_length()

    def begin(self) -> Tensor:
        """Opens the next update's record and returns it."""
        if self.used == 0:  # a tensor of their own: somebody may still hold the results before
            self.results = torch.zeros(RESULTS, device=self.device)
        self.finite_checks = PENALTY_VALUES - FINITE_CHECK
        return self.rows[self.used]

    def penalty_values(self, count: int) -> Tensor:
        """Where a penalty's values go in the open record."""
        first = FINITE_CHECK + self.finite_checks
        self.finite_checks += count
        return self.rows[self.used][first : first + count]

    def location(self) -> tuple:
        """Where an update's kernel finds its record and those before it; closes the record."""
        self.used += 1
        return self.rows, self.rows.stride(0), self.used - 1, self.finite_checks, self.statistics

    def result(self) -> UpdateResult:
        """The last update's, once it is flushed."""
        return UpdateResult(self.results[0], self.results[1:3], self.results[3], self.results[4:6])

    def flush(self) -> None:
        """Counts the updates since the last time, and gathers the last one's results."""
        counters = self.network.count, self.network.skips
        flush_(self.launch, self.rows, self.used, self.finite_checks, self.statistics, self.programs, *counters, self.results)
        self.used = 0
