"""What the packed products of a CPU are made of, on processors that this machine need not have."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from fastgan.runtime import instruction_sets as sets
from fastgan.runtime.device import has_native_bf16
from fastgan.runtime.instruction_sets import InstructionSet, choose

FOUND = {
    "avx2": InstructionSet(0, "avx2", 16, 1),
    "avx512": InstructionSet(1, "avx512", 64, 1),
    "avx512-bf16": InstructionSet(2, "avx512-bf16", 64, 2),
    "portable": InstructionSet(3, "portable", 16, 1),
}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this processor another one."""

    def patch(*names: str, machine: str = "x86_64", amx: bool = False, problem: str | None = None) -> None:
        monkeypatch.setattr(sets, "available", lambda: {name: FOUND[name] for name in names})
        monkeypatch.setattr(sets, "extension_problem", lambda: problem)
        monkeypatch.setattr(sets, "_has_amx", lambda: amx)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return patch


def names(precision: str) -> str | None:
    chosen = choose(precision).instruction_set
    return chosen.name if chosen else None


@pytest.mark.parametrize(
    ("processor", "fp32", "bf16"),
    [
        pytest.param(dict(), "avx2", None, id="avx2"),
        pytest.param(dict(more=("avx512",)), "avx512", None, id="avx512"),
        pytest.param(dict(more=("avx512", "avx512-bf16")), "avx512", "avx512-bf16", id="avx512-bf16"),
        pytest.param(dict(more=("avx512", "avx512-bf16"), amx=True), "avx512", None, id="amx: torch's are faster"),
        pytest.param(dict(first=()), None, None, id="x86 without avx2, where torch's products know more than plain C++"),
        pytest.param(dict(first=(), machine="aarch64"), "portable", None, id="arm"),
    ],
)
def test_the_widest_that_a_processor_has_is_taken(processor: dict, fp32: str | None, bf16: str | None, on: Callable) -> None:
    on(*processor.pop("first", ("avx2",)), *processor.pop("more", ()), "portable", **processor)
    assert (names("fp32"), names("bf16"), names("fp64")) == (fp32, bf16, None)
    assert all(choose(precision).reason for precision in ("fp32", "bf16", "fp64"))


@pytest.mark.parametrize(
    ("forced", "fp32", "bf16", "capped"),
    [
        ("avx2", "avx2", None, True),
        ("avx512", "avx512", None, True),
        ("avx512-bf16", "avx512", "avx512-bf16", False),
        ("portable", "portable", None, True),
        ("off", None, None, False),
        ("auto", "avx512", None, False),
    ],
)
def test_one_that_is_forced_is_taken_and_caps_the_precision(
    forced: str, fp32: str | None, bf16: str | None, capped: bool, on: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(*FOUND, amx=True)
    monkeypatch.setattr("fastgan.runtime.device._processor_has_bf16", lambda: True)
    with sets.forced(forced):
        assert (names("fp32"), names("bf16")) == (fp32, bf16)
        assert has_native_bf16(torch.device("cpu")) is not capped


def test_one_that_is_unknown_or_missing_is_an_error_that_says_what_there_is(on: Callable) -> None:
    on("avx2", "portable")
    with sets.forced("sse9"), pytest.raises(ValueError, match="FASTGAN_CPU=sse9 is unknown; choose one of auto, avx2, avx512"):
        choose("fp32")
    with sets.forced("avx512"), pytest.raises(ValueError, match=r"avx512 cannot run here: .* has only avx2, portable"):
        has_native_bf16(torch.device("cpu"))


def test_without_the_extension_there_are_none_and_nothing_can_be_forced(on: Callable) -> None:
    on(problem="it was not built")
    assert choose("fp32") == (None, "it was not built")
    with sets.forced("avx2"), pytest.raises(ValueError, match="FASTGAN_CPU=avx2 cannot run here: it was not built"):
        choose("fp32")
    with sets.forced("off"):
        assert choose("fp32").instruction_set is None


def test_those_of_this_machine_can_be_forced(requires_extension: None) -> None:
    assert "portable" in sets.available()
    for name, found in sets.available().items():
        assert found.name == name and found.panel % 16 == 0 and found.group == (2 if name == "avx512-bf16" else 1)
        with sets.forced(name):
            assert choose("bf16" if found.group == 2 else "fp32").instruction_set == found


@pytest.mark.slow
@pytest.mark.parametrize("command", [["doctor"], ["train", "--data", "digits", "--steps", "1"]])
def test_a_command_says_in_one_line_what_cannot_be_forced(command: list[str]) -> None:
    environment = os.environ | {"FASTGAN_CPU": "mmx"}
    result = subprocess.run([sys.executable, "-m", "fastgan", *command], env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "FASTGAN_CPU=mmx is unknown" in result.stderr
