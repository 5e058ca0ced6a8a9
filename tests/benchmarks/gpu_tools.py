"""What test_gpu_tools.py asks of a process whose launches do something else.

python -m tests.benchmarks.gpu_tools tune FOLDER | compile ARCHITECTURE ...
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastgan.kernels import tiles

from benchmarks.gpu import predict
from benchmarks.harness import offline_compile
from benchmarks.micro import kernels
from benchmarks.tune import search
from benchmarks.tune.launches import Update
from fastgan.ops import backend


def tile_of(calls: list[Any]) -> tiles.Tile:
    """The tile that launches would take now."""
    tile = calls[0].updates.tile if isinstance(calls[0], Update) else calls[0].chooser.chosen
    assert tile is not None
    return tile


def clock(calls: list[Callable[[], None]], replays: int) -> float:
    """A device on which tiles of 32 x 64 are fast, two parts faster, and launches run at all."""
    tile = tile_of(calls)
    for call in calls:
        call()
    return 1.0 + abs(tile.rows - 32) + abs(tile.columns - 64) + (0.5 if tile.splits == 1 else 0.0)


def tune_on_paper(folder: Path) -> None:
    """Looks for tiles of a small batch with that clock, on launches that are only written down."""
    backend.launch_by(lambda device: predict.Notebook(torch.device("cpu"), 90))
    table = folder / "tiles.json"
    table.write_text('{"90 forward 1x1x1 2": [16, 32, 64, 2, 4, 1]}\n')
    rows: list[dict[str, Any]] = []
    given = dict(batch=[16], case=["standard"], precision="bf16", only="", minutes=5.0, seconds_per_product=60.0, jobs=0)
    search.tune(argparse.Namespace(**given, table=table), 90, "cpu", clock, rows.append)
    (folder / "rows.json").write_text(json.dumps(rows))


def compile_micro(arch: int) -> None:
    """Compiles the kernels of benchmarks.micro; prints the architecture and their names."""
    offline_compile.compile_for(arch)
    words, arrived = torch.zeros(2, 8, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    launch = offline_compile.Compiler(torch.device("cpu"), arch)
    for word in (False, True):
        launch(kernels.node_kernel, (8,), words=words, round_=1, WORD=word)
        barrier, options = dict(words=words, arrived=arrived, rounds=9, WORD=word), dict(launch_cooperative_grid=True)
        launch.run(kernels.barrier_kernel, (8,), barrier, options | dict(num_warps=8))
    for dtype in (torch.float32, torch.bfloat16):
        buffers = [torch.zeros(1000, dtype=kind) for kind in (torch.float32, dtype, dtype, torch.float32)]
        for gradient in (False, True):
            given = dict(zip("wmvg", buffers, strict=True)) | dict(size=1000, beta1=0.5, beta2=0.9, rate=0.0)
            launch(kernels.adam_kernel, (1,), **given, GRADIENT=gradient, BLOCK=1024)
    made = [kernel.metadata for kernel in launch.made.values() if kernel.metadata.target.arch == arch]
    print(json.dumps([arch, [metadata.name for metadata in made]]))


if __name__ == "__main__":
    if sys.argv[1] == "tune":
        tune_on_paper(Path(sys.argv[2]))
    else:
        for arch in map(int, sys.argv[2:]):
            compile_micro(arch)
