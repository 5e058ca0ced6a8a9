"""fastgan doctor: what it says of machines that this one need not be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("tyro", reason="the command needs tyro")

from fastgan import cli
from fastgan.cli import doctor
from fastgan.ops import backend
from fastgan.ops.backend import Choice
from fastgan.runtime.device import _processor_has_bf16


@pytest.mark.parametrize("extension", [None, "the C++ extension was not built"])
@pytest.mark.parametrize("triton", [None, "triton is not installed"])
def test_native_code_is_ready_or_has_a_problem(
    extension: str | None, triton: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "extension_problem", lambda: extension)
    monkeypatch.setattr(backend, "triton_problem", lambda: triton)
    assert doctor.native_code() == {"C++ extension": extension or "ready", "Triton": triton or "ready"}


class Machine:
    """What torch says of a machine with two GPUs, or with none."""

    def __init__(self, gpus: int, bf16: bool) -> None:
        self.gpus, self.bf16 = gpus, bf16

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: self.gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: self.gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((7, 5), (9, 0))[device.index])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: ("Old", "New")[device.index])
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": self.bf16}, raising=False)
        _processor_has_bf16.cache_clear()


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    yield lambda machine: machine.patch(monkeypatch)
    _processor_has_bf16.cache_clear()


def test_devices_have_their_own_precision(on: Any) -> None:
    on(Machine(gpus=2, bf16=False))
    found = doctor.devices()
    assert list(found) == ["cpu", "cuda:0", "cuda:1"]
    assert found["cpu"].endswith("auto precision fp32")
    assert found["cuda:0"] == "Old, sm_75, auto precision fp32" and found["cuda:1"] == "New, sm_90, auto precision bf16"


def test_a_machine_without_a_gpu_says_so(on: Any) -> None:
    on(Machine(gpus=0, bf16=True))
    found = doctor.devices()
    assert found["cpu"].endswith("auto precision bf16") and found["cuda"] == "no device" and len(found) == 2


@pytest.mark.parametrize("gpus", [0, 2])
def test_operators_are_listed_for_every_kind_of_device(gpus: int, on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on(Machine(gpus, bf16=False))
    monkeypatch.setattr(backend, "choices", lambda kind: [Choice("loss.d_loss", f"the one for {kind}", "a reason")])
    kinds = ["cpu", "cuda"] if gpus else ["cpu"]
    assert doctor.choices() == [("loss.d_loss", kind, f"the one for {kind}", "a reason") for kind in kinds]


def test_the_command_prints_what_it_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor, "versions", lambda: {"torch": "9.9"})
    monkeypatch.setattr(doctor, "devices", lambda: {"cpu": "a processor"})
    monkeypatch.setattr(doctor, "native_code", lambda: {"Triton": "a problem"})
    monkeypatch.setattr(doctor, "choices", lambda: [("loss.d_loss", "cpu", "cpp", "triton: a problem")])
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    lines = [line.strip("│ ").split(" │ ") for line in said.splitlines()]
    rows = [[cell.strip() for cell in line] for line in lines]
    for row in (["torch", "9.9"], ["cpu", "a processor"], ["Triton", "a problem"]):
        assert row in rows
    assert ["loss.d_loss", "cpu", "cpp", "triton: a problem"] in rows
