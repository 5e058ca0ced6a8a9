"""What every test runs under: fixed seeds, uninitialised memory full of nan, and fixtures for what a machine may lack."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# workers of pytest-xdist share the processor: one thread each, and for what they start; read when torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from filelock import FileLock

from fastgan.ops import backend

LONGEST = ("test_interpreter.py", "test_cubins.py")  # minutes each
ROOT = Path(__file__).resolve().parent.parent

# each has a function on_rank(folder, world), which runs on two processes that all of them share
ON_RANKS = ("tests.contexts.test_processes", "tests.runtime.test_distributed", "tests.training.test_processes")
SCRIPT_OF_RANKS = f"""
import importlib, sys, torch
from pathlib import Path
from fastgan.runtime import distributed
with distributed.process_group("cpu") as world:
    found = {{}}
    for name in {ON_RANKS}:
        folder = Path(sys.argv[1]) / name
        folder.mkdir(exist_ok=True)
        found[name] = importlib.import_module(name).on_rank(folder, world)
    torch.save(found, f"{{sys.argv[1]}}/{{world.rank}}.pt")
"""


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks() -> Iterator[None]:
    """No machine loses its power here. That everything is synced, and when, is tested with the checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fill what torch.empty and its C++ siblings return with nan (integers with their maximum): reading it shows.

    This comes with torch's deterministic algorithms. On a GPU they differ from those that users get, so tests marked
    `cuda` run without.
    """
    torch.use_deterministic_algorithms("cuda" not in request.keywords, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny tensors, whose threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads until the test ends. A test with this fixture is marked `threads`: no worker runs beside it."""
    count = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(count)


@pytest.fixture
def requires_extension() -> None:
    """Skips without the C++ extension, saying why; fails when FASTGAN_REQUIRE_EXT=1 promises one."""
    if reason := backend.extension_problem():
        (pytest.fail if os.environ.get("FASTGAN_REQUIRE_EXT", "0") != "0" else pytest.skip)(reason)


@pytest.fixture
def mnist_root() -> Path:
    """The folder with MNIST's four IDX files that FASTGAN_TEST_MNIST names; skips without."""
    if folder := os.environ.get("FASTGAN_TEST_MNIST"):
        return Path(folder)
    pytest.skip("FASTGAN_TEST_MNIST does not name a folder with MNIST's files")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # a name with an address in it is another one in each process, and processes that share the tests would refuse to
    assert not [item.nodeid for item in items if " at 0x" in item.nodeid]
    for item in items:
        if "set_threads" in getattr(item, "fixturenames", ()):
            item.add_marker("threads")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_order)


def _order(item: pytest.Item) -> int:
    """The longest first, so that workers do not wait for the last one."""
    return 0 if item.path.name in LONGEST else 1 if item.get_closest_marker("slow") else 2


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """The folder of a name, which `make(folder)` fills once for all workers."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, partial = root / name, root / f"{name}.partial"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def run_two_processes() -> Callable[..., list[Any]]:
    """Runs a script as two processes that find each other, and returns what each has saved as FOLDER/RANK.pt.

    Its first argument is the folder; the files `modules` lie there, to be imported under their names.
    """

    def run(folder: Path, script: str, environment: dict[str, str] | None = None, **modules: Path) -> list[Any]:
        (folder / "run.py").write_text(script)
        for name, path in modules.items():
            (folder / f"{name}.py").write_text(path.read_text())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        shared |= environment or {}
        command = [sys.executable, str(folder / "run.py"), str(folder)]
        both = [subprocess.Popen(command, env=shared | {"RANK": str(rank)}) for rank in range(2)]
        try:
            assert [process.wait(timeout=240) for process in both] == [0, 0]
        finally:
            for process in both:  # one may wait for the other in vain
                process.kill()
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]

    return run


@pytest.fixture(scope="session")
def folder_of_ranks(make_once: Callable[..., Path], run_two_processes: Callable[..., list[Any]]) -> Path:
    """Where two processes have run what ON_RANKS names: a folder for each module, and RANK.pt with what was returned."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return make_once("ranks", lambda folder: run_two_processes(folder, SCRIPT_OF_RANKS, {"PYTHONPATH": path}))


@pytest.fixture(scope="module")
def ranks(folder_of_ranks: Path, request: pytest.FixtureRequest) -> list[Any]:
    """What the test module's on_rank returned on each of two processes."""
    name = ".".join(request.path.relative_to(ROOT).with_suffix("").parts)
    return [torch.load(folder_of_ranks / f"{rank}.pt", weights_only=True)[name] for rank in range(2)]
