"""What a row says of times: quantiles, rates and slopes, in their units."""

from __future__ import annotations

from benchmarks.harness.measurement import Measurement, quantiles, rate, slopes


def test_quantiles_are_those_of_sorted_times() -> None:
    assert quantiles([float(number) for number in range(11)]) == {"p20": 2.0, "p50": 5.0, "p80": 8.0, "n": 11}
    assert quantiles([3.0]) == {"p20": 3.0, "p50": 3.0, "p80": 3.0, "n": 1}


def test_a_rate_is_in_millions_a_microsecond() -> None:
    """2e12 bytes in a second of 1e6 microseconds are 2 TB/s."""
    assert rate("tb_per_s", 2e12, [1e6, 1e6, 1e9]) == {"tb_per_s": 2.0}


def test_slopes_are_of_what_was_added() -> None:
    assert slopes([1.0, 2.0, 9.0], [12.0, 22.0], more=10) == [1.0, 2.0]


def test_a_row_has_what_was_measured() -> None:
    row = Measurement("product", "bf16", [1.0, 2.0, 3.0], (4, 5), "bf16", {"tb_per_s": 7.0}).row("ceilings")
    assert row == {
        **{"benchmark": "micro.ceilings", "label": "product", "name": "bf16", "shape": [4, 5], "dtype": "bf16"},
        **{"p20": 1.0, "p50": 2.0, "p80": 2.0, "n": 3, "tb_per_s": 7.0},
    }
