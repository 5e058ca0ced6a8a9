"""Compiles C++ programs of this folder with the kernels that they check, without torch, and runs them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
CSRC = FOLDER.parent.parent / "csrc"
SANITIZED = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DFASTGAN_VARIANTS=")  # quick to compile

Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Compiles `<program>.cpp` and kernels' files, and runs what that makes: an exit code other than 0 is an error."""

    def run(
        program: str,
        *kernels: str,
        compiler: str = "g++",
        flags: tuple[str, ...] = SANITIZED,
        emulator: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        for needed in (compiler, *emulator[:1]):
            if not shutil.which(needed):
                pytest.skip(f"there is no {needed}")
        sources = [FOLDER / f"{program}.cpp", *(CSRC / "cpu" / f"{name}.cpp" for name in kernels)]
        binary = tmp_path / program
        # no OpenMP: its threads are not known to the sanitizers
        command = [compiler, "-std=c++17", "-fopenmp-simd", *flags, f"-I{CSRC}", "-pthread"]
        compiled = subprocess.run([*command, *map(str, sources), "-o", str(binary)], capture_output=True, text=True)
        assert compiled.returncode == 0, compiled.stderr
        done = subprocess.run([*emulator, str(binary)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run
