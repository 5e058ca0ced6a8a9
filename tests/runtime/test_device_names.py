"""Which device and precision a run gets, on machines that are described here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastgan.runtime.device import _processor_has_bf16, has_native_bf16, resolve_device
from fastgan.runtime.precision import resolve_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is known of this machine's devices is forgotten."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    _processor_has_bf16.cache_clear()
    yield
    _processor_has_bf16.cache_clear()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("name", "local_rank", "expected"),
    [
        ("auto", None, "cuda:0"),
        ("auto", "1", "cuda:1"),
        ("cuda", None, "cuda:0"),
        ("cuda", "1", "cuda:1"),
        ("cuda:1", None, "cuda:1"),
        ("cuda:0", "1", "cuda:0"),
        (torch.device("cuda", 1), "0", "cuda:1"),
        ("cpu", "1", "cpu"),
    ],
)
def test_a_process_takes_the_gpu_of_its_number_unless_one_is_named(
    name: str | torch.device, local_rank: str | None, expected: str, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize(("name", "local_rank"), [("cuda:2", "0"), ("cuda", "2"), ("auto", "5")])
def test_a_gpu_beyond_the_last_is_not_there(
    name: str, local_rank: str, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(ValueError, match="is not there: this machine has 2"):
        resolve_device(name)


def test_without_a_gpu(no_gpu: None) -> None:
    assert resolve_device("auto") == CPU
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=f"'{name}' is not there: .* finds no CUDA device; use cpu"):
            resolve_device(name)
    for name, problem in (("gpu", "unknown device 'gpu'"), ("meta", "device 'meta' is not supported")):
        with pytest.raises(ValueError, match=f"{problem}; choose auto, cpu or cuda"):
            resolve_device(name)


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True)])
def test_gpus_have_native_bf16_from_sm_80_on(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    cuda = torch.device("cuda", 0)
    assert has_native_bf16(cuda) is native
    assert resolve_precision("auto", cuda, torch.float32) == ("bf16" if native else "fp32")
    assert resolve_precision("auto", cuda, torch.float64) == "fp64"
    assert resolve_precision("tf32", cuda, torch.float32) == "tf32"


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
    ],
    ids=str,
)
def test_cpus_have_native_bf16_by_their_dot_products(
    capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not native, raising=False)
    assert has_native_bf16(CPU) is native
    assert resolve_precision("auto", CPU, torch.float32) == ("bf16" if native else "fp32")
    assert resolve_precision("auto", CPU, torch.float64) == "fp64"


@pytest.mark.parametrize("native", [False, True])
def test_a_torch_that_lists_no_capabilities_is_asked_for_the_one(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    assert has_native_bf16(CPU) is native


def test_a_precision_that_is_impossible_is_refused() -> None:
    for name in ("fp32", "bf16", "fp16", "fp64"):
        assert resolve_precision(name, CPU, torch.float32) == name
    with pytest.raises(ValueError, match="'tf32' exists on CUDA devices only"):
        resolve_precision("tf32", CPU, torch.float32)
    with pytest.raises(ValueError, match="unknown precision 'int8'"):
        resolve_precision("int8", CPU, torch.float32)
    for name in ("fp32", "bf16", "fp16"):
        with pytest.raises(ValueError, match=f"in fp64, which precision '{name}' would not use"):
            resolve_precision(name, CPU, torch.float64)
    assert resolve_precision("fp64", CPU, torch.float64) == "fp64"
