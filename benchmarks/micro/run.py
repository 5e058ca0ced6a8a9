"""What a GPU's parts can do, each alone: python -m benchmarks.micro [--parts nodes barriers ...] [--minutes 5].

Parts: ceilings (a copy, products), nodes (one more launch of a graph), replays (of a graph, host and device), optimizers (Adam
from the second cache or from memory), libraries (cuBLASLt at a step's shapes), barriers (of a whole grid), tiles (each product
and grouped update of a step over its candidates), peers (a step beside others', `benchmarks.step`).

Every measurement is a row of results/<machine>.jsonl. What they say about a persistent kernel is printed last.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness.cuda_graphs import warm
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.rows import ROOT, append, circumstances
from benchmarks.micro import barriers, memory, nodes, products

BATCH = 64
BARRIER_SHARE = 0.7  # of a node's gap: a persistent kernel's barriers must not cost more
RESIDENT = 1.15  # times as fast as from memory: less is memory
WORD = ", a word"  # in the names of those whose blocks wait for each other's data

Row = dict[str, Any]
Measure = Callable[[float], Iterator[Measurement]]  # given how many seconds there are


def always(measure: Callable[[], Iterator[Measurement]]) -> Measure:
    """A part that takes the same short time whatever it is given."""
    return lambda _: measure()


PARTS: dict[str, Measure] = {
    "ceilings": always(memory.ceilings),
    "nodes": always(nodes.node_gaps),
    "replays": always(nodes.replays),
    "optimizers": always(memory.optimizers),
    "libraries": always(partial(products.libraries, BATCH)),
    "barriers": always(barriers.barriers),
    "tiles": partial(products.tiles, BATCH),
}


def verdict(rows: list[Row]) -> list[str]:
    """Whether a persistent kernel would pay, by its two conditions, of which one is enough; a line each, with the numbers."""
    return [of_barriers(rows), of_memory(rows)]


def of_barriers(rows: list[Row]) -> str:
    """The cheapest barrier of the grid against a node of it, both with a word that passes from block to block."""
    of = {
        part: [row for row in rows if row["benchmark"] == f"micro.{part}" and WORD in row["name"]]
        for part in ("nodes", "barriers")
    }
    grids = [row for row in of["barriers"] if "cluster" not in row["name"]]
    gaps = [row for row in of["nodes"] if row["label"] == "node" and row["shape"][0] > 1]
    if not grids or not gaps:
        return "barriers against nodes: not measured"
    barrier, node = (min(found, key=lambda row: row["p50"]) for found in (grids, gaps))
    share = barrier["p50"] / node["p50"]
    text = f"a barrier ({barrier['name']}) takes {barrier['p50']:.2f} us, a node ({node['name']}) {node['p50']:.2f}"
    return f"{text}: {share:.2f} of it, at most {BARRIER_SHARE}: {'pays' if share <= BARRIER_SHARE else 'does not pay'}"


def of_memory(rows: list[Row]) -> str:
    """Adam on a step's two networks in turn against as many as no cache holds."""
    times = {row["shape"][0]: row["p50"] for row in rows if row["name"] == f"{memory.STEP} bytes a weight"}
    if not {memory.PAIR, memory.FRESH} <= times.keys():
        return "Adam from cache or memory: not measured"
    near, far = times[memory.PAIR], times[memory.FRESH]
    says = "memory bounds it: pays" if far / near < RESIDENT else "the cache holds much of it: does not pay"
    return f"Adam on two networks in turn {near:.2f} us, from memory {far:.2f}: {far / near:.2f} times as fast, {says}"


def show(part: str, rows: list[Row], console: Console) -> None:
    """The table of one part."""
    table = Table("what", "name", "shape", "p20", "p50", "p80", "besides", title=f"{part}, us")
    known = {"benchmark", "label", "name", "shape", "dtype", "p20", "p50", "p80", "n"}
    for row in rows:
        besides = ", ".join(f"{name} {value}" for name, value in row.items() if name not in known)
        label = f"{row['label']} {row['dtype']}".strip()
        quantiles = (f"{row[name]:.3f}" for name in ("p20", "p50", "p80"))
        table.add_row(label, row["name"], "x".join(map(str, row["shape"])), *quantiles, besides)
    console.print(table)


def peers(seconds: float) -> None:
    """A step beside its peers, in processes of their own."""
    command = [sys.executable, "-m", "benchmarks.step", "--quick", "--keep-going", "--batch", str(BATCH)]
    subprocess.run([*command, "--minutes", f"{seconds / 60.0:.2f}"], cwd=ROOT, check=False)


def run(names: list[str], deadline: float, keep: Callable[[Row], None], console: Console) -> tuple[list[Row], list[str]]:
    """Parts in turn, each given what time is left; their rows, and what went wrong."""
    rows: list[Row] = []
    problems = []
    for name in names:
        here: list[Row] = []
        try:
            for measurement in PARTS[name](deadline - time.monotonic()):
                here.append(measurement.row(name))
                keep(here[-1])
        except Exception as error:
            problems.append(f"{name}: {type(error).__name__}: {error}")
        show(name, here, console)
        rows += here
    return rows, problems


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.micro", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = [*PARTS, "peers"]
    parser.add_argument("--parts", nargs="+", choices=choices, default=choices, help="always in the order of this list")
    parser.add_argument("--minutes", type=float, default=5.0, help="for everything; the last two parts fill them")
    parser.add_argument("--no-rows", action="store_true", help="print, keep nothing")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.micro needs a CUDA device, and there is none")
        return 2
    deadline = time.monotonic() + 60.0 * arguments.minutes
    common, console = circumstances(quick=False), Console(width=150)
    with_peers = "peers" in arguments.parts
    limit = deadline - (30.0 * arguments.minutes if with_peers else 0.0)
    warm()
    names = [name for name in PARTS if name in arguments.parts]
    rows, problems = run(names, limit, lambda row: None if arguments.no_rows else append(row | common), console)
    if with_peers:
        peers(deadline - time.monotonic())
    print("\n".join(["persistent kernel:", *verdict(rows), *(f"FAILED {problem}" for problem in problems)]), flush=True)
    return 2 if problems else 0
