"""The shape of the code: who may import whom, how long a file may be, what a step may not do, and how things are named."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEMS = ("sample", "linear", "loss", "penalty", "update")

# from the ground up: folders of fastgan/ and its flat modules. What stands on a floor imports only from lower ones.
# "" is the package's own __init__
FLOORS = (
    ("_version", "kernels"),
    ("ops",),
    ("runtime",),
    ("data", "layers", "losses", "optim"),
    ("mlp",),
    ("chain", "models"),
    ("penalties",),
    ("engines",),
    ("testing", "training"),
    ("",),
    ("cli",),
    ("__main__",),
)
MOST = {"fastgan": (10, 20), "benchmarks": (10, 20)}  # files that stand flat in a folder, and the folders beside them
STORAGES = {"torch_mm", "packed", "triton_tiles"}  # of the operands of a chain's products
# what all stems of a folder use, and the instruction sets that a folder is compiled for
HELPERS = {
    "kernels": ("launch", "record", "tiles"),
    "csrc/cpu": ("philox", "threads"),
    "csrc/cpu/packed": ("avx2", "avx512", "portable"),
}
HELPERS |= {"fastgan/ops": ("backend", "objective"), "fastgan/ops/reference": ("precision",)}
WAITING = ("item", "cpu", "tolist")  # methods of a tensor that synchronise
HEIGHT = {place: height for height, floor in enumerate(FLOORS) for place in floor}


def modules() -> dict[str, Path]:
    """Every module of the package: dotted name -> file."""
    names = {}
    for package, folder in (("fastgan", ROOT / "fastgan"), ("fastgan.kernels", ROOT / "kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            names[".".join((package, *parts)).removesuffix(".__init__")] = path
    return names


MODULES = modules()


def place_of(module: str) -> str:
    """fastgan.ops.sample -> ops; fastgan.mlp -> mlp; fastgan -> "" """
    return (module + "..").split(".")[1]


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """A syntax tree's nodes, apart from those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from running(node)


def imported(module: str, path: Path) -> Iterator[str]:
    """The fastgan modules that a module imports anywhere in its text, apart from types."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if ours(name.name))
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{source}.{name.name}" for name in node.names]
            yield from (name if name in MODULES else source for name in names if ours(source))


def ours(name: str) -> bool:
    return name.partition(".")[0] == "fastgan"


def test_every_folder_has_a_floor() -> None:
    places = {place_of(name) for name in MODULES}
    assert places == set(HEIGHT), f"not in FLOORS: {places - set(HEIGHT)}; not there: {set(HEIGHT) - places}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_upward(module: str) -> None:
    here = place_of(module)
    sources = {place_of(name) for name in imported(module, MODULES[module])} - {here}
    upward = sorted(source for source in sources if HEIGHT.get(source, 0) >= HEIGHT.get(here, 99))
    assert not upward, f"{module} imports {upward}, which do not stand below it"


def test_no_circle() -> None:
    order = TopologicalSorter({module: set(imported(module, path)) - {module} for module, path in MODULES.items()})
    order.prepare()  # CycleError names the circle


@pytest.mark.parametrize("folder", MOST)
def test_a_folder_can_be_overseen(folder: str) -> None:
    inside = [path for path in (ROOT / folder).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    files, folders = MOST[folder]
    assert sum(path.is_file() for path in inside) <= files and sum(path.is_dir() for path in inside) <= folders


def test_the_import_reader_sees_every_form(tmp_path: Path) -> None:
    path = tmp_path / "layers.py"
    lines = [
        "import os, fastgan.losses",
        "from . import models",
        "from ._version import __version__",
        "from .ops import sample",
        "from fastgan.mlp import MLP",
    ]
    path.write_text("\n".join([*lines, "if TYPE_CHECKING:", "    from .trainer import Trainer", ""]))
    found = sorted(imported("fastgan.layers", path))
    assert found == ["fastgan._version", "fastgan.losses", "fastgan.mlp", "fastgan.models", "fastgan.ops.sample"]


def sources() -> list[Path]:
    suffixes = {".py", ".cpp", ".cu", ".h", ".cuh"}
    folders = ("fastgan", "kernels", "csrc", "tests", "benchmarks", "examples")
    return sorted(path for name in folders for path in (ROOT / name).rglob("*") if path.suffix in suffixes)


def test_files_stay_short() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in sources()}
    long = {name: length for name, length in lengths.items() if length >= 400}
    assert not long, f"split these by idea: {long}"


@pytest.mark.parametrize("folder", ["fastgan/engines", "fastgan/chain", "kernels"])
def test_a_step_never_waits_for_the_device(folder: str) -> None:
    calls = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        methods = [function for function in called if isinstance(function, ast.Attribute)]
        calls += [f"{path.name}:{method.lineno} .{method.attr}()" for method in methods if method.attr in WAITING]
    assert not calls


def stems_of(folder: str, pattern: str) -> set[str]:
    return {path.stem for path in (ROOT / folder).glob(pattern)} - {"__init__"}


STEM_FOLDERS = ("csrc/cpu", "csrc/cpu/packed", "csrc/cuda", "kernels", "benchmarks/ops")
STEM_FOLDERS += ("fastgan/ops", "fastgan/ops/reference", "fastgan/ops/cpp", "fastgan/ops/triton")


@pytest.mark.parametrize("folder", STEM_FOLDERS)
def test_a_stem_keeps_its_name_on_every_floor(folder: str) -> None:
    names = {name for pattern in ("*.py", "*.cpp", "*.cu") for name in stems_of(folder, pattern)}
    known = (*STEMS, *HELPERS.get(folder, ()))
    strange = sorted(name for name in names if name.partition("_")[0] not in known)
    assert not strange, f"{folder} holds stems ({', '.join(STEMS)}), not {strange}"


def test_operators_and_their_tests_are_pairs() -> None:
    assert stems_of("fastgan/ops", "*.py") == {*STEMS, *HELPERS["fastgan/ops"]}
    assert stems_of("fastgan/chain", "*.py") >= STORAGES
    tests = {name.removeprefix("test_") for name in stems_of("tests/ops", "test_*.py")}
    strange = sorted(name for name in tests if name.partition("_")[0] not in (*STEMS, "backend"))
    assert not strange, f"no operator is called {strange}"


def test_the_command_line_library_stays_in_the_command_line() -> None:
    users = [name for name, path in MODULES.items() if "import tyro" in path.read_text() or "from tyro" in path.read_text()]
    assert {place_of(name) for name in users} <= {"cli"}


@pytest.mark.slow
def test_importing_asks_for_no_device_no_triton_and_no_heavy_library() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
def refuse(*arguments):
    raise AssertionError("a CUDA query at import")
torch.cuda.is_available = torch.cuda.device_count = torch.cuda.current_device = refuse
import fastgan, fastgan.ops.sample, fastgan.ops.linear, fastgan.ops.loss, fastgan.ops.penalty, fastgan.ops.update
assert not torch.cuda.is_initialized()
heavy = {"torchvision", "sklearn", "matplotlib", "tyro", "torchmetrics"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
