"""The GPUs whose figures are known: what a prediction begins with, and what a step is meant to take on them.

memory is a large copy between two places of a card's memory, bytes read and written, as measured on each (`micro.ceilings` is
that measurement): 3.0 TB/s on an H100 80GB HBM3, 4.3 TB/s on an H200. cache is what torch reports as L2_cache_size. Both cards
have 132 multiprocessors and the same rate of products. What differs is the optimizer's bytes: 77 MB of a standard step are
26 us at an H100's rate and 18 us at an H200's. The steps' times are the same for both all the same: on an H100 they need these
bytes hidden or halved.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple


class Steps(NamedTuple):
    """Microseconds of a step of 64 rows in bf16: what it must take at most, and what it should."""

    must: float
    goal: float


class Card(NamedTuple):
    """memory: bytes a us of a large copy; cache: bytes of the second cache; steps: by work."""

    name: str
    memory: float
    cache: int
    steps: dict[str, Steps]


HOPPER = {"standard": Steps(70.0, 50.0), "wgan-gp": Steps(205.0, 160.0)}
CARDS = {
    "h100": Card("H100 80GB HBM3", 3.0e6, 50 << 20, HOPPER),
    "h200": Card("H200", 4.3e6, 60 << 20, HOPPER),
}
DEFAULT = "h200"


def card_of(machine: str) -> Card:
    """A card by the name of its machine, see `harness.rows.machine`, or the default one where that is no known card."""
    return CARDS[next((name for name in CARDS if name in machine.lower()), DEFAULT)]


def add_option(parser: argparse.ArgumentParser, default: str | None = DEFAULT) -> None:
    """Lets people choose a card."""
    usual = default or "by the name of the machine"
    parser.add_argument("--card", choices=CARDS, default=default, help=f"{usual} unless given")
