"""Decides which implementation of an operator is called, and says why.

An operator has a reference (always) and may have a C++ and a Triton implementation. The keyword
``backend`` of a public operator chooses one, then the environment variable FASTGAN_BACKEND (as it is when this module is
imported); "auto" takes the fastest that is available for the device. An explicit choice that is impossible raises.
An implementation leaves to the reference what it does not take: tensors of other dtypes, subclasses, torch.func transforms.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch.autograd import forward_ad

BACKENDS = ("auto", "reference", "cpp", "triton")
PREFERENCE = ("triton", "cpp", "reference")

ENVIRONMENT = os.environ.get("FASTGAN_BACKEND", "auto")  # read once: a lookup would cost more than all else that chooses
FORCED = ENVIRONMENT

log = logging.getLogger("fastgan")


# whether a torch.func transform is at work, which C++ operators and Triton's launches do not see through
transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def is_transformed() -> bool:
    """Whether a torch.func transform or forward-mode derivatives are at work, for which an autograd function has no rule."""
    return transforms_active() or forward_ad._current_level >= 0


class BackendUnavailable(RuntimeError):
    """An implementation was asked for by name and cannot run; the message says why."""


class Launch(Protocol):
    """Launches Triton kernels on a device, as `kernels.launch.Launcher` does."""

    device: torch.device
    arch: int  # 90 for sm_90
    pdl: bool  # whether programmatic dependent launch is used

    def __call__(self, kernel: Any, grid: tuple[int, ...], *, warps: int = 4, stages: int = 1, **arguments: Any) -> None:
        """Runs a kernel on a grid, all arguments by name."""


class Choice(NamedTuple):
    """One line of `fastgan doctor`."""

    operator: str
    backend: str
    reason: str


_make_launcher: Callable[[torch.device], Launch] | None = None  # of a tool, see `launch_by`
_fakes: dict[str, Callable[..., Any]] = {}  # C++ operator -> what it returns, without the numbers
_implementations: dict[str, dict[str, dict[str, Callable]]] = {}  # operator -> backend -> device type -> function


def implementation(operator: str, backend: str, *devices: str) -> Callable[[Callable], Callable]:
    """Register a function as the implementation of `operator` for the given device types ("any" for all)."""

    def register(function: Callable) -> Callable:
        table = _implementations.setdefault(operator, {}).setdefault(backend, {})
        table.update(dict.fromkeys(devices or ("any",), function))
        return function

    return register


def fake(*operators: str) -> Callable[[Callable], Callable]:
    """Register a function as what these C++ operators return for tensors without numbers, as torch.compile and export have."""

    def register(function: Callable) -> Callable:
        _fakes.update(dict.fromkeys(operators, function))
        return function

    return register


@functools.cache
def extension_problem() -> str | None:
    """Loads the C++ extension once. None when it is there, otherwise why it is not."""
    try:
        spec = importlib.util.find_spec("fastgan._C")
    except ImportError as error:
        return str(error)
    if spec is None or spec.origin is None:
        return "the C++ extension was not built (pip install --no-build-isolation . builds it)"
    try:
        importlib.import_module("fastgan._C")
    except ImportError as error:
        return f"the C++ extension does not load with torch {torch.__version__}: {error}"
    for operator, function in _fakes.items():
        torch.library.register_fake(f"fastgan::{operator}", function)
    return None


@functools.cache
def cuda_problem() -> str | None:
    """None when the C++ extension has kernels for CUDA, otherwise why not: it can be built without nvcc."""
    if reason := extension_problem():
        return reason
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key("fastgan::loss", "CUDA")
    return None if compiled else "the C++ extension was built without CUDA"


@functools.cache
def triton_problem(device: str = "cuda") -> str | None:
    """None when Triton kernels can run on a device type, otherwise why not. On the CPU its interpreter can, for tests."""
    if is_launched_by_tool():
        return None
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
        return None if interpreted else "on a CPU Triton needs TRITON_INTERPRET=1"
    return None if torch.cuda.is_available() else "there is no CUDA device"


def new_launcher(device: torch.device | str) -> Launch:
    """What launches Triton kernels on a device, with settings of its own."""
    from ..kernels import launch

    return (_make_launcher or launch.Launcher)(torch.device(device))


@functools.cache
def launcher(device: torch.device | str) -> Launch:
    """The one that all operators on a device share."""
    return new_launcher(device)


def launch_by(make: Callable[[torch.device], Launch] | None) -> None:
    """From now on this process takes Triton for every operator, launched by what `make` returns for a device.

    For tools that compile, count or time launches: whether the device can run them is their matter. None: as it was.
    """
    global _make_launcher, FORCED
    _make_launcher = make
    FORCED = ENVIRONMENT if make is None else "triton"
    for remembered in (launcher, triton_problem, _resolve):
        remembered.cache_clear()


def is_launched_by_tool() -> bool:
    """Whether launches go to a tool, whatever the device of their tensors is."""
    return _make_launcher is not None


def _problem(backend: str, device: str) -> str | None:
    if backend == "triton":
        return triton_problem(device)
    if backend == "cpp":
        return cuda_problem() if device == "cuda" else extension_problem()
    return None


def _find(operator: str, backend: str, device: str) -> Callable | None:
    table = _implementations[operator].get(backend, {})
    return table.get(device) or table.get("any")


def why_not(operator: str, backend: str, device: str) -> str | None:
    """None if `backend` can run `operator` on a device type, otherwise the reason it cannot."""
    if _find(operator, backend, device) is None:
        return f"{operator} has no {backend} implementation for {device}"
    return _problem(backend, device)


def check_name(backend: str) -> None:
    """ValueError that lists them all for an unknown one, TypeError for no string."""
    if not isinstance(backend, str):
        raise TypeError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got a {type(backend).__name__}")
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")


@functools.cache
def _resolve(operator: str, backend: str, device: str, explicit: bool) -> Callable:
    check_name(backend)
    if backend != "auto" and (reason := _problem(backend, device)):
        raise BackendUnavailable(f"backend {backend!r} cannot run: {reason}")
    if explicit and (reason := why_not(operator, backend, device)):
        raise BackendUnavailable(f"backend {backend!r} cannot run: {reason}")
    order = PREFERENCE if backend == "auto" else (backend, "reference")
    chosen = next(name for name in order if why_not(operator, name, device) is None)
    function = _find(operator, chosen, device)
    assert function is not None
    return function


@contextmanager
def forced(backend: str) -> Iterator[None]:
    """Inside, FASTGAN_BACKEND is this one."""
    global FORCED
    before, FORCED = FORCED, backend
    try:
        yield
    finally:
        FORCED = before


def resolve(operator: str, device: str, backend: str = "auto") -> Callable:
    """The function that runs `operator` on a device type ("cpu", "cuda", ...).

    A keyword choice must be able to run this operator. FASTGAN_BACKEND chooses for all operators: it must be able to
    run on this machine, and operators that it does not implement run the reference.
    """
    if isinstance(backend, str) and backend == "auto":
        return _resolve(operator, FORCED, device, False)
    check_name(backend)
    return _resolve(operator, backend, device, True)


def choices(device: str) -> list[Choice]:
    """What runs for every operator on a device type, and why."""
    return [Choice(operator, *_explain(operator, device)) for operator in sorted(_implementations)]


def _explain(operator: str, device: str) -> tuple[str, str]:
    chosen = resolve(operator, device)
    name = next(name for name in _implementations[operator] if _find(operator, name, device) is chosen)
    if FORCED != "auto":
        return name, "FASTGAN_BACKEND"
    faster = PREFERENCE[: PREFERENCE.index(name)]
    unwritten = [other for other in faster if _find(operator, other, device) is None]
    problems = [f"{other}: {_problem(other, device)}" for other in faster if other not in unwritten]
    missing = [f"no {' or '.join(unwritten)} version for {device}"] if unwritten else []
    return name, "; ".join(problems + missing) or "the fastest there is"
