"""The scripts of examples/: each trains for a few steps, moves both networks, logs finite numbers and draws what is asked."""

from __future__ import annotations

import importlib.util
import math
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

EXAMPLES = sorted((Path(__file__).resolve().parent.parent.parent / "examples").glob("*.py"))
FEW = ["--steps", "4", "--batch", "8", "--log-every", "2", "--device", "cpu"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem),
]


def load(path: Path) -> ModuleType:
    """A script as a module, which does not run it."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def optimized(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[Tensor, Tensor]]]:
    """For each torch.optim.Adam that is made: its parameters, each with a copy of what it was."""
    made: list[list[tuple[Tensor, Tensor]]] = []

    class Recorded(torch.optim.Adam):
        def __init__(self, parameters: Any, **options: Any) -> None:
            parameters = list(parameters)
            made.append([(parameter, parameter.detach().clone()) for parameter in parameters])
            super().__init__(parameters, **options)

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    return made


def test_both_networks_train(path: Path, optimized: list, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = load(path).main(FEW)
    assert {"g_loss"} < set(metrics)
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert len(optimized) == 2
    for network in optimized:
        weights = [(now, before) for now, before in network if now.dim() > 1]  # a WGAN's last bias has no gradient
        assert all(now.isfinite().all() and not torch.equal(now, before) for now, before in weights)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["step", "2"], ["step", "4"]]


def test_samples_are_drawn(path: Path, tmp_path: Path) -> None:
    load(path).main([*FEW, "--out", str(tmp_path / "new" / "folder")])
    files = [file.name for file in (tmp_path / "new" / "folder").iterdir()]
    assert files == ["samples.png"]
    grid = np.asarray(Image.open(tmp_path / "new" / "folder" / "samples.png").convert("L"))
    columns = 10 if path.stem == "manual_optimization" else 8
    assert grid.shape == (8 * 30 + 2, columns * 30 + 2)  # 28 pixels a sample, 2 between
    assert len(np.unique(grid)) > 50


def test_it_is_the_same_run_twice(path: Path) -> None:
    assert load(path).main(FEW) == load(path).main(FEW)


def test_it_explains_itself(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(path), run_name="__main__")
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--steps", "--batch", "--device", "--log-every", "--out"))


def test_it_can_be_read_at_a_glance(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 120
    assert f"python examples/{path.name}" in text.partition('"""')[2].partition('"""')[0]
