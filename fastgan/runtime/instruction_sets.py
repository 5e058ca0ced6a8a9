"""Which instruction set the packed products of a CPU are made of, and why.

The environment variable FASTGAN_CPU (as it is when this module is imported) forces one. "auto" takes the widest that the
processor has; "off" leaves the packed products out, and torch's own products take their place.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch

from ..ops.backend import extension_problem

CHOICES = ("auto", "avx2", "avx512", "avx512-bf16", "portable", "off")
ENVIRONMENT = os.environ.get("FASTGAN_CPU", "auto")
FORCED = ENVIRONMENT

# for each precision, those that a choice allows, the best first; "portable" is no faster than torch's products where these know
# the processor's vectors, which on x86 they do
_FP32 = {"avx2": ("avx2",), "avx512": ("avx512",), "avx512-bf16": ("avx512",), "portable": ("portable",), "off": ()}
_BF16 = {"avx512-bf16": ("avx512-bf16",)}
_X86 = ("x86_64", "AMD64")


class InstructionSet(NamedTuple):
    """One that the extension has kernels for and the processor has; panel, group: how it packs (csrc/cpu/packed/kernels.h)."""

    number: int
    name: str
    panel: int
    group: int


class Choice(NamedTuple):
    """What packed products of a precision use, or None where torch's products run; `reason` says why."""

    instruction_set: InstructionSet | None
    reason: str


@cache
def available() -> dict[str, InstructionSet]:
    """By name, those that both this processor and the extension have; none without the extension."""
    if extension_problem():
        return {}
    lines = [line.split() for line in torch.ops.fastgan.instruction_sets().splitlines()]
    return {name: InstructionSet(int(number), name, int(panel), int(group)) for number, name, panel, group in lines}


def check() -> str:
    """What FASTGAN_CPU asks for; ValueError for what is unknown, or missing here."""
    if FORCED not in CHOICES:
        raise ValueError(f"FASTGAN_CPU={FORCED} is unknown; choose one of {', '.join(CHOICES)}")
    if FORCED in ("auto", "off") or FORCED in available():
        return FORCED
    problem = extension_problem() or f"this processor, or this build, has only {', '.join(available())}"
    raise ValueError(f"FASTGAN_CPU={FORCED} cannot run here: {problem}")


def caps_bf16() -> bool:
    """Whether FASTGAN_CPU asks for instructions older than those for bf16."""
    return check() in ("avx2", "avx512", "portable")


def choose(precision: str) -> Choice:
    """What the packed products of a chain in fp32 use on this CPU, by its precision (fp32, bf16, ...)."""
    forced, found = check(), available()
    if not found:
        return Choice(None, extension_problem() or "the extension has no packed products")
    if forced == "off":
        return Choice(None, "FASTGAN_CPU=off")
    if precision not in ("fp32", "bf16"):
        return Choice(None, f"there are no packed products in {precision}")
    names = _auto(precision) if forced == "auto" else (_FP32 if precision == "fp32" else _BF16).get(forced, ())
    for name in names:
        if name in found:
            return Choice(found[name], "the widest here" if forced == "auto" else f"FASTGAN_CPU={forced}")
    return Choice(None, _why_none(precision, forced))


def _auto(precision: str) -> tuple[str, ...]:
    if precision == "bf16":
        return () if _has_amx() else ("avx512-bf16",)
    return ("avx512", "avx2") if platform.machine() in _X86 else ("portable",)


def _why_none(precision: str, forced: str) -> str:
    if forced != "auto":
        return f"FASTGAN_CPU={forced} has no dot products in bf16"
    if precision == "bf16":
        return "torch's products use AMX" if _has_amx() else "no AVX512-BF16 here"
    return "no AVX2 here, or not in this build"


@cache
def _has_amx() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Inside, FASTGAN_CPU is this one."""
    global FORCED
    before, FORCED = FORCED, name
    try:
        yield
    finally:
        FORCED = before
