"""What two processes make of their own tensors together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = """
import sys, time, pathlib, torch
from fastgan.runtime import distributed
folder = pathlib.Path(sys.argv[1])
with distributed.process_group("cpu") as world:
    own = (torch.arange(3.0, dtype=torch.float64) + 3 * world.rank).requires_grad_()
    rows = distributed.all_rows(own, world)
    (rows * torch.arange(1.0, 7.0)).sum().backward()
    opposed = torch.tensor([[5.0, -1.0], [2.0, 3.0]][world.rank])
    with distributed.first_process_first():
        there = (folder / "made").exists()
        if world.rank == 0:
            time.sleep(0.5)
            (folder / "made").touch()
    results = dict(
        world=tuple(world),
        rows=rows.detach(),
        slope=own.grad,
        sum=distributed.sum_(opposed.clone(), world.size),
        max=distributed.max_(opposed.clone(), world.size),
        first=distributed.broadcast_(opposed.clone(), world.size),
        std=distributed.std(own.detach().square(), world),
        there=there,
    )
    torch.save(results, folder / f"{world.rank}.pt")
"""


def test_two_processes_share_what_they_have(tmp_path: Path, run_two_processes: Callable[..., list]) -> None:
    for rank, found in enumerate(run_two_processes(tmp_path, SCRIPT)):
        assert found["world"] == (rank, 2)
        assert found["rows"].tolist() == [0, 1, 2, 3, 4, 5]
        assert found["slope"].tolist() == [[1, 2, 3], [4, 5, 6]][rank], "a process has the gradient of its own rows"
        assert found["sum"].tolist() == [7, 2]
        assert found["max"].tolist() == [5, 3]
        assert found["first"].tolist() == [5, -1]
        torch.testing.assert_close(found["std"], torch.arange(6, dtype=torch.float64).square().std())
        assert found["there"] is bool(rank), "the first process has left before the others enter"
