"""Writes what golden tests compare with.

    python -m tests.golden write FOLDER     a checkpoint of each game and precision after 5 steps, and the weights 3 steps later
    python -m tests.golden follow NAME      the weights 3 steps after each stored checkpoint, as NAME beside those of before

The stored checkpoints, in format1/, are the first edition's and are never written again. Where the order of sums changes on
purpose, or for another processor, `follow` stores the new weights beside the old ones: `follow after-2`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.golden import FORMAT1, games


def main(command: str, name: str) -> None:
    torch.set_num_threads(games.THREADS)
    if command == "write":
        games.write(Path(name))
        return
    for folder in sorted(FORMAT1.iterdir()):
        if (folder / name).exists():
            raise SystemExit(f"{name} is stored already")
        games.follow(games.resume(folder), folder / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
