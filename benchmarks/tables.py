"""The tables of README.md, written from stored rows: python -m benchmarks.tables.

What stands between `<!-- steps -->` and `<!-- end -->` is replaced; a test asks that nobody typed it. Each machine with rows of
steps has a table for each instruction set, GPUs first, of the newest whole run of each work, and a line about the article's
whole game if it was played.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.rows import RESULTS, ROOT
from benchmarks.peers import WORKS
from benchmarks.step.comparison import yardstick

README = ROOT / "README.md"
BATCH = 64
BLOCK = re.compile(r"(<!-- steps -->\n).*?(<!-- end -->)", re.DOTALL)
CANDIDATES = {  # by their names without a precision, in the order of the table
    "article": "the article's loop with its DataLoader",
    "eager": "eager torch, fused Adam",
    "compile": "torch.compile of the whole update, Adam in the graph",
    "graph": "eager torch, whole step in a CUDA graph",
    "autotuned graph": "torch.compile, its products autotuned, whole step in a CUDA graph",
    "compile graph": "torch.compile, whole step in a CUDA graph",
    "jax": "JAX, jit of the whole step",
    "jax rbg": "JAX, on XLA's own generator",
    "fastgan autograd": "fastgan, any pair of modules (autograd engine)",
    "fastgan": "fastgan, pairs of MLPs (closed form)",
}
PRECISIONS = ("fp32", "tf32", "bf16")
NOTE = "fastgan is: how many times as fast {} was as the line's candidate. scikit-learn's digits as 60,000 pictures."
SETS = {"amx": "AMX", "avx512-bf16": "AVX512-BF16", "avx512": "AVX-512", "avx2": "AVX2"}
UNSAID = "avx512-bf16"  # of rows from before they said what they ran on
TITLES = {"standard": "standard", "wgan-gp": "WGAN-GP, 5 + 1"}

Row = dict[str, Any]


def set_of(row: Row) -> str:
    """The instruction set that a row of a CPU ran on."""
    return row.get("instruction_set", UNSAID)


def best_of(rows: list[Row]) -> str:
    """The candidate that all others are compared with; a GPU has products in bf16."""
    return yardstick(set_of(rows[0]) in ("amx", "avx512-bf16"))


def by_set(rows: list[Row]) -> list[list[Row]]:
    """The rows of each instruction set of a machine, the widest first: processors of one name may have others."""
    found = sorted({set_of(row) for row in rows}, key=lambda name: [*SETS, name].index(name))
    return [[row for row in rows if set_of(row) == name] for name in found]


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def runs_of(rows: list[Row], work: str) -> list[dict[str, Row]]:
    """The rows of each run of a work at the table's batch size, by candidate, in their order; runs without fastgan are none.

    Older rows do not say which run they are of: there a run ends where a candidate comes again.
    """
    runs: list[dict[str, Row]] = []
    last: Row | None = None
    for row in rows:
        if row["benchmark"] == "step" and row["label"] == work and row["shape"] == [BATCH]:
            if last is None or row.get("run") != last.get("run") or row["name"] in runs[-1]:
                runs.append({})
            runs[-1][row["name"]] = last = row
    return [run for run in runs if best_of(list(run.values())) in run]


def run_of(rows: list[Row], work: str) -> dict[str, Row]:
    """The newest run that is a whole one: with half as many candidates as the largest, and not quick if another is not."""
    runs = runs_of(rows, work)
    most = max(map(len, runs), default=0)
    whole = [run for run in runs if len(run) >= most / 2]
    quick = [run[best_of(list(run.values()))]["quick"] for run in whole]
    return max(enumerate(whole), key=lambda pair: (not quick[pair[0]], pair[0]), default=(0, {}))[1]


def plain(row: Row) -> str:
    """A candidate's name without its precision."""
    return row["name"].removesuffix(f" {row['dtype']}")


def place(row: Row) -> tuple[int, int]:
    """Where a candidate stands in the table."""
    return list(CANDIDATES).index(plain(row)), PRECISIONS.index(row["dtype"])


def is_gpu(machine: str) -> bool:
    """Whether a machine is named after its GPU, see `harness.rows.machine`."""
    return not machine.endswith("cores")


def of_machine(rows: list[Row]) -> Iterator[str]:
    """One machine's table and what belongs to it; nothing where it has no rows of steps."""
    runs = {work: run_of(rows, work) for work in WORKS}
    known = {name: row for run in runs.values() for name, row in run.items()}
    if not known:
        return
    gpu = is_gpu(rows[0]["machine"])
    unit, scale = ("us", 1.0) if gpu else ("ms", 1e3)
    heads = [f"{TITLES[work]}, {unit} | fastgan is" for work in WORKS]
    yield f"| one step, {BATCH} rows | products | {' | '.join(heads)} |"
    yield "|---|---" + "|---:|---:" * len(WORKS) + "|"
    for name, row in sorted(known.items(), key=lambda item: place(item[1])):
        cells = []
        for work in WORKS:
            one = runs[work].get(name)
            times = f"{1 / one['ratio']:.1f} x" if one and name != best_of(rows) else ""
            cells += [f"{one['p50'] / scale:.1f}" if one else "", times]
        yield f"| {CANDIDATES[plain(row)]} | {row['dtype']} | {' | '.join(cells)} |"
    yield ""
    yield circumstances([row for run in runs.values() for row in run.values()], gpu)
    yield from article(rows)


def circumstances(rows: list[Row], gpu: bool) -> str:
    """What the numbers of a table were measured on, with and by."""
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row["versions"].items():
            versions.setdefault(name, set()).add(version)
    named = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
    commits = " and ".join(sorted({row["commit"].removesuffix("+") for row in rows}))
    counts = sorted({row["n"] for row in rows})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    threads = "" if gpu else f", {rows[-1]['threads']} threads"
    vectors = "" if gpu else f" with {SETS.get(set_of(rows[-1]), set_of(rows[-1]))}"
    place = f"`{rows[-1]['machine']}`{vectors}{threads}, {named}, commit {commits}"
    return f"{place}; medians of {count} processes each, which took turns.\n{NOTE.format(best_of(rows))}"


def article(rows: list[Row]) -> Iterator[str]:
    """How long the article's whole game took."""
    played = [row for row in rows if row["benchmark"] == "article" and row["label"] == "100 epochs"]
    if played:
        row = played[-1]
        seconds = f"{row['seconds']:.1f} s" if row["seconds"] < 100 else f"{row['seconds'] / 60:.1f} minutes"
        cold = f", after {row['cold_start']:.1f} s of cold start" if "cold_start" in row else ""
        yield f"The article's game on MNIST, {row['label']}, took {seconds} there{cold}."


def steps_block() -> str:
    """All machines' tables, GPUs first."""
    files = sorted(RESULTS.glob("*.jsonl"), key=lambda path: (not is_gpu(path.stem), path.stem))
    tables = ["\n".join(of_machine(rows)) for path in files for rows in by_set(rows_of(path))]
    return "\n\n".join(table for table in tables if table)


def written(text: str) -> str:
    """A page with its tables as the rows have them."""
    return BLOCK.sub(lambda match: f"{match[1]}{steps_block()}\n{match[2]}", text)


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
