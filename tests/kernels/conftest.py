"""Kernels run natively on a CUDA device, else on the CPU under Triton's interpreter; elsewhere nothing is collected.

The interpreter knows fp32 alone: its bf16 product is wrong.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
RUNS = importlib.util.find_spec("triton") is not None and (INTERPRETED or torch.cuda.is_available())
collect_ignore_glob = [] if RUNS else ["test_*.py"]


def _patch_once_a_launch() -> None:
    """Half of the interpreter's time goes into replacing triton.language's functions, at each call of a device function too.

    Once in a launch is enough; its scope puts the functions back.
    """
    from triton.runtime import interpreter

    patch, scope_type = interpreter._patch_lang, getattr(interpreter, "_LangPatchScope", None)
    if scope_type is None:  # another version of Triton, which does it in another way
        return
    patched: set[str] = set()

    def patch_once(function: Any) -> Any:
        languages = {name for name in ("triton.language", "triton.language.core") if _sees(function, name)}
        if languages <= patched:
            return scope_type()
        scope = patch(function)
        restore = scope.restore
        scope.restore = lambda: (restore(), patched.clear())
        patched.update(languages)
        return scope

    interpreter._patch_lang = patch_once


@functools.cache
def _sees(function: Any, name: str) -> bool:
    return any(value is sys.modules[name] for value in function.__globals__.values())


if INTERPRETED and RUNS:
    _patch_once_a_launch()


@pytest.fixture
def device() -> torch.device:
    """Where kernels run."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(params=["fp32", "tf32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    """Of products; fp32 alone under the interpreter."""
    if INTERPRETED and request.param != "fp32":
        pytest.skip("the interpreter has fp32 products only")
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """FASTGAN_TEST_SHARD=1/4 keeps the second, sixth, ... test: tests/test_interpreter.py runs each shard in a process."""
    if shard := os.environ.get("FASTGAN_TEST_SHARD"):
        number, _, count = shard.partition("/")
        items[:] = items[int(number) :: int(count)]
