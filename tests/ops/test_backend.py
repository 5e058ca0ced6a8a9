"""Who decides what runs: the keyword, then FASTGAN_BACKEND, then the fastest there is."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from fastgan import losses
from fastgan.ops import backend, loss, penalty, reference, sample, update  # noqa: F401
from fastgan.ops.backend import BackendUnavailable, resolve
from fastgan.runtime.precision import resolve_precision


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> str:
    """An operator that has a reference alone."""
    monkeypatch.setitem(backend._implementations, "loss.unwritten", {"reference": {"any": reference.d_loss}})
    return "loss.unwritten"


def test_auto_takes_the_fastest_that_can_run(requires_extension: None, unwritten: str) -> None:
    assert resolve("loss.d_loss", "cpu") is not reference.d_loss
    assert resolve(unwritten, "cpu") is reference.d_loss, "nothing faster is written"
    assert resolve("loss.d_loss", "meta") is reference.d_loss, "nothing faster for this device"


def test_the_keyword_goes_before_the_environment(requires_extension: None) -> None:
    native, before = resolve("loss.d_loss", "cpu", "cpp"), resolve("loss.d_loss", "cpu")
    with backend.forced("reference"):
        assert resolve("loss.d_loss", "cpu") is reference.d_loss
        assert resolve("loss.d_loss", "cpu", "cpp") is native
    assert resolve("loss.d_loss", "cpu") is before


def test_the_environment_leaves_operators_alone_that_it_does_not_have(requires_extension: None, unwritten: str) -> None:
    with backend.forced("cpp"):
        assert resolve(unwritten, "cpu") is reference.d_loss


def test_an_impossible_choice_says_why(unwritten: str) -> None:
    logits = torch.zeros(4)
    with pytest.raises(ValueError, match="reference, cpp, triton"):
        losses.d_loss(logits, logits, backend="cuda")
    with pytest.raises(BackendUnavailable, match=r"unwritten has no cpp implementation|not built"):
        resolve(unwritten, "cpu", "cpp")
    with pytest.raises(BackendUnavailable, match="triton"):
        losses.d_loss(logits, logits, backend="triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_environment_cannot_ask_for_what_this_machine_lacks() -> None:
    with backend.forced("triton"), pytest.raises(BackendUnavailable, match=r"TRITON_INTERPRET|not installed"):
        losses.d_loss(torch.zeros(4), torch.zeros(4))


def test_a_tool_gets_the_launches_of_a_device_that_need_not_be_there() -> None:
    pytest.importorskip("triton")
    asked: list[str] = []

    class Counting:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __call__(self, kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
            asked.append(kernel.__name__)

    before, cpu = resolve("sample.gather_rows", "cpu"), torch.device("cpu")
    with pytest.raises(ValueError, match="tf32"):
        resolve_precision("tf32", cpu, torch.float32)
    backend.launch_by(Counting)
    try:
        assert backend.launcher(cpu) is backend.launcher(cpu)
        assert backend.new_launcher(cpu) is not backend.launcher(cpu), "a chain's settings are its own"
        assert resolve_precision("tf32", cpu, torch.float32) == "tf32"
        sample.gather_rows(torch.zeros(4, 6), torch.zeros(2, dtype=torch.int64))
        assert asked == ["gather_kernel"]
    finally:
        backend.launch_by(None)
    assert resolve("sample.gather_rows", "cpu") is before
    assert not backend.is_launched_by_tool()


def test_an_extension_without_cuda_kernels_is_not_chosen_for_cuda(
    requires_extension: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "cuda_problem", lambda: "built without CUDA")
    monkeypatch.setattr(backend, "_resolve", backend._resolve.__wrapped__)  # as it is before anything is remembered
    assert resolve("loss.d_loss", "cuda") is reference.d_loss
    assert resolve("loss.d_loss", "cpu") is not reference.d_loss
    assert backend.why_not("loss.d_loss", "cpp", "cpu") is None
    with pytest.raises(BackendUnavailable, match="built without CUDA"):
        resolve("loss.d_loss", "cuda", "cpp")


@pytest.mark.cuda
def test_an_extension_with_cuda_kernels_runs_losses_and_penalties(requires_cuda_kernels: None) -> None:
    for operator in ("loss.d_loss", "loss.loss_gradients_", "penalty.norm_penalty_gradient"):
        assert resolve(operator, "cuda") is resolve(operator, "cuda", "cpp")


def test_every_choice_has_a_reason() -> None:
    lines = backend.choices("cpu")
    assert {line.operator.partition(".")[0] for line in lines} >= {"loss", "update"}
    assert all(line.backend in backend.BACKENDS and line.reason for line in lines)


REFERENCE, CPP, TRITON = (object() for _ in range(3))
TABLE = {
    "all": {"reference": {"any": REFERENCE}, "cpp": {"any": CPP}, "triton": {"any": TRITON}},
    "no triton": {"reference": {"any": REFERENCE}, "cpp": {"cpu": CPP, "cuda": CPP}},
    "only for gpus": {"reference": {"any": REFERENCE}, "triton": {"cuda": TRITON}},
    "reference alone": {"reference": {"any": REFERENCE}},
}
FASTEST = "the fastest there is"


@pytest.mark.parametrize(
    ("problems", "device", "expected"),
    [
        pytest.param(
            {},
            "cuda",
            [
                ("all", "triton", FASTEST),
                ("no triton", "cpp", "no triton version for cuda"),
                ("only for gpus", "triton", FASTEST),
                ("reference alone", "reference", "no triton or cpp version for cuda"),
            ],
            id="a GPU with everything",
        ),
        pytest.param(
            dict(triton_problem="no interpreter"),
            "cpu",
            [
                ("all", "cpp", "triton: no interpreter"),
                ("no triton", "cpp", "no triton version for cpu"),
                ("only for gpus", "reference", "no triton or cpp version for cpu"),
                ("reference alone", "reference", "no triton or cpp version for cpu"),
            ],
            id="a processor with the extension",
        ),
        pytest.param(
            dict(triton_problem="no interpreter", extension_problem="not built"),
            "cpu",
            [
                ("all", "reference", "triton: no interpreter; cpp: not built"),
                ("no triton", "reference", "cpp: not built; no triton version for cpu"),
                ("only for gpus", "reference", "no triton or cpp version for cpu"),
                ("reference alone", "reference", "no triton or cpp version for cpu"),
            ],
            id="a processor without",
        ),
        pytest.param(
            dict(triton_problem="not installed", cuda_problem="built without CUDA"),
            "cuda",
            [
                ("all", "reference", "triton: not installed; cpp: built without CUDA"),
                ("no triton", "reference", "cpp: built without CUDA; no triton version for cuda"),
                ("only for gpus", "reference", "triton: not installed; no cpp version for cuda"),
                ("reference alone", "reference", "no triton or cpp version for cuda"),
            ],
            id="a GPU that nothing was built for",
        ),
    ],
)
def test_the_reason_names_what_cannot_run(
    problems: dict[str, str], device: str, expected: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_implementations", TABLE)
    monkeypatch.setattr(backend, "_resolve", backend._resolve.__wrapped__)
    for name in ("triton_problem", "extension_problem", "cuda_problem"):
        monkeypatch.setattr(backend, name, partial(lambda problem, *_: problem, problems.get(name)))
    assert backend.choices(device) == expected
    for operator, name, _ in expected:
        assert resolve(operator, device) is TABLE[operator][name].get(device, TABLE[operator][name].get("any"))
    with backend.forced("reference"):
        assert {line[1:] for line in backend.choices(device)} == {("reference", "FASTGAN_BACKEND")}


@pytest.mark.parametrize(
    ("installed", "device", "interpret", "gpu", "problem"),
    [
        (False, "cuda", "1", True, "triton is not installed"),
        (True, "cpu", "1", False, None),
        (True, "cpu", "0", True, "on a CPU Triton needs TRITON_INTERPRET=1"),
        (True, "cpu", "", True, "on a CPU Triton needs TRITON_INTERPRET=1"),
        (True, "cuda", "0", True, None),
        (True, "cuda", "0", False, "there is no CUDA device"),
    ],
)
def test_why_triton_cannot_run(
    installed: bool, device: str, interpret: str, gpu: bool, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    assert backend.triton_problem.__wrapped__(device) == problem
