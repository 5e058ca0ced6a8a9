"""Times tiles on this device and writes the fastest into kernels/tiles.json: python -m benchmarks.tune [--batch 64].

The products and updates are those that steps of the article's networks launch, repeated with other tiles: of two trainers in
turn, so that as many weights and moments pass through the caches as in a step, in a graph of many launches. Candidates are
compiled beside this process, and what is not compiled in time is not tried. Entries that are not measured stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from fastgan.kernels import tiles
from fastgan.kernels.launch import architecture

from benchmarks.harness.cuda_graphs import warm
from benchmarks.harness.rows import append, circumstances
from benchmarks.tune.search import CASES, JOBS, SECONDS, time_by_graph, tune


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 256, 1024, 8192], help="the first matter most")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precision", choices=("bf16", "tf32", "fp32"), default="bf16")
    parser.add_argument("--only", default="", help="lines of the table that contain this, such as 'update'")
    parser.add_argument("--minutes", type=float, default=5.0, help="for everything")
    parser.add_argument("--seconds-per-product", type=float, default=SECONDS, help="at most")
    parser.add_argument("--jobs", type=int, default=JOBS, help="processes that compile; 0: none")
    parser.add_argument("--table", type=Path, default=tiles.TABLE)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.tune needs a CUDA device")
    warm()
    common = circumstances(quick=False)
    tune(arguments, architecture(), "cuda", time_by_graph, lambda row: append(row | common))


if __name__ == "__main__":
    main()
