"""One thing that was timed, and the row that it becomes."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

PATIENCE = 31  # timings of one measurement


class Measurement(NamedTuple):
    """Microseconds of one thing, sorted; `facts` are what a row says besides."""

    label: str
    name: str
    times: list[float]
    shape: tuple[int, ...] = ()
    dtype: str = ""
    facts: dict[str, Any] = {}  # noqa: RUF012  (read, never written)

    def row(self, part: str) -> dict[str, Any]:
        """A row's fields, without the circumstances."""
        row = dict(benchmark=f"micro.{part}", label=self.label, name=self.name, shape=list(self.shape), dtype=self.dtype)
        return row | quantiles(self.times) | self.facts


def quantiles(times: list[float]) -> dict[str, float]:
    """What a row says of microseconds, sorted."""
    p20, p50, p80 = (round(times[int(q * (len(times) - 1))], 3) for q in (0.2, 0.5, 0.8))
    return dict(p20=p20, p50=p50, p80=p80, n=len(times))


def rate(name: str, amount: float, times: list[float]) -> dict[str, float]:
    """An amount by the median of some times, in millions a microsecond: TB/s of bytes, TFLOP/s of operations."""
    return {name: round(amount / statistics.median(times) / 1e6, 3)}


def slopes(short: list[float], long: list[float], more: int) -> list[float]:
    """Of a run that differs from a short one by `more` things alike: microseconds of each of them."""
    base = statistics.median(short)
    return [(time - base) / more for time in long]
