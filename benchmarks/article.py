"""The article's game as it is printed: python -m benchmarks.article --data-root FOLDER [--epochs 100] [--out runs/article].

Its networks, optimizers and batches of 64 on MNIST's 60,000 digits; fastgan's defaults are the article's. The run folder has
the samples and curves of this run. Of all 100 epochs a row says how long they took, results/article-<machine>.json has each
epoch's losses, and docs/images/article.png those of all machines side by side, which `--draw` draws again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness.rows import RESULTS, ROOT, append, circumstances, machine
from fastgan import Discriminator, Generator, Trainer, data  # here, so that no import is timed

BATCH, EPOCHS, SEED, LOSS = 64, 100, 0, "nonsaturating"
LOG_EVERY = 64  # steps: whole graphs, and 14 points of an epoch
IMAGES = ROOT / "docs" / "images"
LOSSES = ("d_loss", "g_loss")


def trainer_of(loss: str = LOSS) -> Trainer:
    return Trainer(Generator(), Discriminator(), loss=loss, seed=SEED)


def cold_start(folder: Path) -> float:
    """Seconds that a fresh process, with no kernels from before, needs until its first steps are done, beyond those steps."""
    command = [sys.executable, "-m", "benchmarks.article", "--data-root", str(folder), "--cold"]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache}
        run = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


def first_steps(digits: data.ImageSet, loss: str = LOSS) -> float:
    """The same for this process, on a trainer that is thrown away."""
    start = time.perf_counter()
    trainer = trainer_of(loss).attach(digits, BATCH)
    float(trainer.step(LOG_EVERY)["d_loss"])
    middle = time.perf_counter()
    float(trainer.step(LOG_EVERY)["d_loss"])
    return (middle - start) - (time.perf_counter() - middle)


def play(digits: data.ImageSet, epochs: int, out: Path, cold: float | None, loss: str = LOSS) -> dict[str, Any]:
    """Trains into a run folder, which is made anew; the row of the run. cold: of a fresh process, where it was measured."""
    shutil.rmtree(out, ignore_errors=True)
    first_steps(digits, loss)  # loads what is compiled: a cold start is a figure of its own
    start, trainer = time.perf_counter(), trainer_of(loss)
    summary = trainer.fit(digits, epochs=epochs, batch_size=BATCH, out=out, log_every=LOG_EVERY)
    wall = time.perf_counter() - start
    seconds = summary["seconds"]
    row: dict[str, Any] = dict(
        benchmark="article", label=f"{epochs} epochs", name="fastgan", shape=[BATCH], dtype=trainer.precision
    )
    row |= dict(seconds=round(seconds, 3), wall_seconds=round(wall, 3), steps=trainer.step_count)
    row |= {} if cold is None else dict(cold_start=round(cold, 3))
    return row | dict(us_per_step=round(1e6 * seconds / trainer.step_count, 2), engine=trainer.engine)


def epochs_of(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Each epoch's mean losses, of a run's metrics."""
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[int(-(-row["epoch"] // 1))].append(row)
    return {
        name: [round(statistics.fmean(row[name] for row in groups[epoch]), 4) for epoch in sorted(groups)] for name in LOSSES
    }


def keep(row: dict[str, Any], out: Path) -> None:
    """Stores the row, the curves and the last samples."""
    around = circumstances(quick=False)
    append(row | around)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curves = dict(machine=machine(), commit=around["commit"], precision=row["dtype"], **epochs_of(metrics))
    (RESULTS / f"article-{machine()}.json").write_text(json.dumps(curves) + "\n")
    last = max((out / "samples").glob("step_*.png"))
    shutil.copy(last, IMAGES / f"article-{machine()}.png")


def draw(path: Path) -> None:
    """All machines' curves, D's loss beside G's; nothing where none are stored."""
    if not (files := sorted(RESULTS.glob("article-*.json"))):
        return
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for file in files:
        curves = json.loads(file.read_text())
        for axis, name, title in zip(axes, LOSSES, ("discriminator's loss", "generator's loss"), strict=True):
            axis.plot(
                range(1, 1 + len(curves[name])), curves[name], linewidth=1, label=f"{curves['machine']}, {curves['precision']}"
            )
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.article", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, help="the folder of MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "article", help="made anew")
    parser.add_argument("--loss", default=LOSS, help="another game of the same networks; its row is printed and not kept")
    parser.add_argument("--no-cold", action="store_true", help="measure no cold start, which compiles everything again")
    parser.add_argument("--no-rows", action="store_true", help="keep nothing but the run folder, as for fewer epochs")
    parser.add_argument("--draw", action="store_true", help="only draw what is stored")
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.draw:
        draw(IMAGES / "article.png")
        return
    digits = data.load("mnist", arguments.data_root)
    if arguments.cold:
        print(first_steps(digits))
        return
    cold = None if arguments.no_cold or arguments.loss != LOSS else cold_start(arguments.data_root)
    row = play(digits, arguments.epochs, arguments.out, cold, arguments.loss)
    if arguments.epochs == EPOCHS and arguments.loss == LOSS and not arguments.no_rows:
        keep(row, arguments.out)
        draw(IMAGES / "article.png")
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
