"""A function's outputs, and the gradients of the first one: by autograd, or in one region that torch.compile makes.

Both derivatives are inside a region, by torch.func: in every loss that was faster than autograd around a compiled value, which
costs another 100 us of Python a call. Shapes are static: a region of symbolic ones is as fast at 4,096 elements, and sums a
million fp32 numbers at a quarter of the speed. Compiling, by Inductor in its default mode, is no part of what is timed, and
compiling again is an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]  # tensors -> a tensor, or a tuple that begins with the one that is differentiated


def outputs(result: Any) -> tuple[Tensor, ...]:
    """A function's result as a flat tuple."""
    if isinstance(result, Tensor):
        return (result,)
    return tuple(tensor for part in result for tensor in outputs(part))


def run_both(function: Function, inputs: Sequence[Tensor], wanted: Sequence[Tensor], upstream: Tensor | None = None) -> tuple:
    """The outputs and the gradients of `wanted`, None where the first output does not depend on one."""
    values = outputs(function(*inputs))
    return *values, *torch.autograd.grad(values[0], wanted, upstream, allow_unused=True)


def compiled(function: Function) -> Function:
    """The function as one region; gradients do not pass through it."""
    import torch._dynamo.config  # not before: who has imported it is asked at every penalty whether a critic is compiled

    torch._dynamo.config.error_on_recompile = True
    return torch.compile(function, fullgraph=True, dynamic=False)


def compiled_both(function: Function, wanted: Sequence[int]) -> Function:
    """(upstream or None, *inputs) -> the outputs and the gradients of the wanted inputs, as one region."""

    def region(upstream: Tensor | None, *inputs: Tensor) -> tuple[Tensor, ...]:
        def of_wanted(*tensors: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            known = dict(zip(wanted, tensors, strict=True))
            value, *others = outputs(function(*(known.get(i, x) for i, x in enumerate(inputs))))
            return value, tuple(others)

        pulled: Any = torch.func.vjp(of_wanted, *(inputs[i] for i in wanted), has_aux=True)  # declared as two or three
        value, pull, others = pulled
        return value, *others, *pull(torch.ones_like(value) if upstream is None else upstream)

    return compiled(region)


def forget() -> None:
    """Drops every region, so that caches and the guards of one function do not grow from case to case."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def add_option(parser: argparse.ArgumentParser) -> None:
    """Lets people say how much is compiled, which takes most of the time of a quick run."""
    parser.add_argument("--compile", choices=("all", "few", "none"), help="cases to compile: all unless given, few if --quick")


def is_wanted(label: str, options: argparse.Namespace, few: tuple[str, ...]) -> bool:
    """Whether a case is compiled; few: how the labels begin that are compiled if there shall be few."""
    wanted = options.compile or ("few" if options.quick else "all")
    return wanted == "all" or (wanted == "few" and label.startswith(few))
