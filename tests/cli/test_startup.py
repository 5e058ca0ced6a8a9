"""What the command imports, and when: nothing heavy before there is work, and then what the modules hold at that moment."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="the command needs tyro")

import fastgan
from fastgan import cli
from fastgan.cli import train
from fastgan.training import report, trainer

HEAVY = {"torch", "triton", "numpy", "torchvision", "sklearn", "matplotlib", "PIL"}
RUN = """
import sys
from fastgan import cli
try:
    code = cli.main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(code, sorted(sys.modules))
"""


def run(*arguments: str) -> tuple[int, set[str], str]:
    """The command's exit code, all that its process imported, and what it said; in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    code, _, modules = last.partition(" ")
    return int(code), set(ast.literal_eval(modules)), "\n".join([*said, done.stderr])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["--version"], 0, f"fastgan {fastgan.__version__}", id="version"),
        pytest.param(["--help"], 0, "--version", id="help"),
        pytest.param(["train", "--help"], 0, "--batch-size", id="help of train"),
        pytest.param(["sample", "--help"], 0, "run folder", id="help of sample"),
        pytest.param(["doctor", "--help"], 0, "which implementation", id="help of doctor"),
        pytest.param(["train", "--speed", "9"], 2, "--speed", id="unknown flag"),
        pytest.param(["train", "--resume"], 2, "--out", id="resume without a folder"),
    ],
)
def test_what_needs_no_computation_imports_nothing_heavy(arguments: list[str], code: int, words: str) -> None:
    found, modules, said = run(*arguments)
    assert found == code and words in said
    assert not HEAVY & modules


def test_the_version_stands_alone_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastgan {fastgan.__version__}\n"


def test_a_command_uses_what_the_modules_hold_when_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever replaces a function of the package replaces it for the command too."""
    points = fastgan.data.load("ring")
    asked, written = [], []

    class Recorded(trainer.Trainer):
        @classmethod
        def load(cls, *arguments: object, **options: object) -> Recorded:
            return cls(fastgan.Generator(image_size=2), fastgan.Discriminator(image_size=2), device="cpu")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fastgan.data, "load", lambda name, *_, **__: asked.append(name) or points)
    monkeypatch.setattr(trainer, "Trainer", Recorded)
    monkeypatch.setattr(report, "write_grid", lambda path, images: written.append((path, tuple(images.shape))))
    assert type(train.Train(data="anything", device="cpu", steps=1)._trainer(points)) is Recorded
    with pytest.raises(report.RunFolderError, match="refused"):
        monkeypatch.setattr(report.RunFolder, "check_free", lambda folder: refuse())
        train.Train(data="anything", device="cpu", steps=1).prepare()
    assert asked == ["anything"]
    assert cli.main(["sample", "any", "-n", "3", "--out", "three.png"]) == 0
    assert written == [(Path("three.png"), (3, 2))] and "3 samples of step 0" in capsys.readouterr().out


def refuse() -> None:
    raise report.RunFolderError("refused")
