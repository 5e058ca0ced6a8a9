"""Which instructions the built extension has, and where: one build runs on any processor of its kind."""

from __future__ import annotations

import functools
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastgan

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")


def functions_with(register: str, listing: str) -> Iterator[str]:
    """The names of functions that use registers of a kind."""
    name = ""
    for line in listing.splitlines():
        if found := FUNCTION.match(line):
            name = found[1]
        elif register in line:
            yield name


@pytest.fixture
def listing(requires_extension: None) -> str:
    """The extension, disassembled."""
    if platform.machine() != "x86_64" or not shutil.which("objdump"):
        pytest.skip("needs x86-64 and objdump")
    return disassembled()


@functools.cache
def disassembled() -> str:
    (extension,) = Path(fastgan.__file__).parent.glob("_C*.so")
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(extension)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("register", ["%ymm", "%zmm"])
def test_wide_vectors_stay_in_functions_that_only_their_own_file_can_call(register: str, listing: str) -> None:
    """A function that several files compile, such as a template of the standard library, is linked once, from any of them."""
    found = set(functions_with(register, listing))
    assert found, "no function has such vectors"
    shared = [name for name in found if "(anonymous namespace)" not in name and ".arch_x86_64_v" not in name]
    assert not shared


@pytest.mark.slow
def test_the_widest_vectors_are_those_of_avx512_alone(listing: str) -> None:
    narrow = ("Avx2", "Portable", "arch_x86_64_v3")
    assert not [name for name in functions_with("%zmm", listing) if any(mark in name for mark in narrow)]


def test_functions_are_found_by_their_registers() -> None:
    listing = "0001 <one>:\n  vmovaps %zmm0,%zmm1\n0002 <two>:\n  ret\n0003 <three(int)>:\n  vaddps %zmm1,%zmm2,%zmm3\n"
    assert list(functions_with("%zmm", listing)) == ["one", "three(int)"]
