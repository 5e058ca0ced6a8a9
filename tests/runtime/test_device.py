"""Which device and precision a run gets, on processors that this machine need not have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastgan.runtime import device as runtime
from fastgan.runtime.device import has_native_bf16, has_tf32, resolve_device
from fastgan.runtime.precision import resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)
FP32, FP64 = torch.float32, torch.float64


@pytest.fixture(autouse=True)
def _asked_again() -> Iterator[None]:
    """What a processor can is remembered."""
    runtime._processor_has_bf16.cache_clear()
    yield
    runtime._processor_has_bf16.cache_clear()


CAPABILITIES = [
    pytest.param(dict(avx2=True, avx512_f=True, amx_tile=True, avx512_fp16=True), False, id="no bf16"),
    pytest.param(dict(avx2=True, avx512_bf16=True), True, id="avx512"),
    pytest.param(dict(avx512_bf16=False, amx_bf16=True), True, id="amx"),
    pytest.param(dict(bf16=True, sve=True), True, id="arm"),
    pytest.param(dict(avx512_bf16=False, amx_bf16=False, bf16=False), False, id="none of them"),
]


@pytest.mark.parametrize(("capabilities", "native"), CAPABILITIES)
def test_auto_is_bf16_on_processors_that_have_it(
    capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_native_bf16(CPU) is native
    assert resolve_precision("auto", CPU, FP32) == ("bf16" if native else "fp32")
    assert resolve_precision("auto", CPU, FP64) == "fp64"


@pytest.mark.parametrize("native", [True, False])
def test_an_older_torch_is_asked_for_avx512(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    assert has_native_bf16(CPU) is native
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    runtime._processor_has_bf16.cache_clear()
    assert not has_native_bf16(CPU)


@pytest.mark.parametrize(
    ("capability", "native"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 9), True), ((12, 0), True)]
)
def test_auto_is_bf16_on_gpus_from_sm_80(capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability if device == CUDA else (0, 0))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert has_native_bf16(CUDA) is native
    assert resolve_precision("auto", CUDA, FP32) == ("bf16" if native else "fp32")
    assert resolve_precision("auto", CUDA, FP64) == "fp64"


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "fp64"])
def test_a_precision_that_is_named_is_taken(name: str) -> None:
    """On every device, whatever is native; and networks in fp64 stay in it."""
    assert resolve_precision(name, CPU, FP32) == resolve_precision(name, CUDA, FP32) == name
    if name != "fp64":
        with pytest.raises(ValueError, match=rf"in fp64, which precision '{name}' would not use"):
            resolve_precision(name, CPU, FP64)


def test_tf32_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_tf32(CUDA) and resolve_precision("tf32", CUDA, FP32) == "tf32"
    assert not has_tf32(CPU)
    monkeypatch.setattr(runtime, "is_launched_by_tool", lambda: True)
    assert has_tf32(CPU)


@pytest.mark.parametrize(
    ("name", "local_rank", "found"),
    [
        ("auto", None, "cuda:0"),
        ("auto", "2", "cuda:2"),
        ("cuda", "1", "cuda:1"),
        ("cuda:1", "2", "cuda:1"),
        (torch.device("cuda", 2), None, "cuda:2"),
        ("cpu", "1", "cpu"),
    ],
)
def test_a_process_gets_the_gpu_of_its_own(
    name: str | torch.device, local_rank: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another one is named; on a machine of three."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    if local_rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert resolve_device(name) == torch.device(found)


@pytest.mark.parametrize(("name", "local_rank"), [("cuda:3", "0"), ("cuda", "3"), ("auto", "7")])
def test_a_gpu_beyond_the_last_is_not_there(name: str, local_rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(ValueError, match=r"is not there: this machine has 3"):
        resolve_device(name)


def test_without_a_gpu_auto_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    with pytest.raises(ValueError, match="finds no CUDA device; use cpu"):
        resolve_device("cuda")
