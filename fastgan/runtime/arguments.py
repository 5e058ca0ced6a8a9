"""What an argument is, in the words of an error: one wording for losses, penalties and trainers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])
NUMBERS = (int, float, np.integer, np.floating)  # bool is an int


def describe(value: Any) -> str:
    """What somebody passed, short enough for a message."""
    if value is None or isinstance(value, (str, *NUMBERS)):
        return repr(value)
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {_qualified(value)}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(repr, value)) or 'nothing'}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{'a module' if isinstance(value, nn.Module) else 'an object'} of {_qualified(type(value))}"


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def shown_without(*hidden: str, **renamed: str) -> Callable[[Function], Function]:
    """Leaves out of inspect.signature what a function takes only to refuse it, and shows others by another name."""

    def show(function: Function) -> Function:
        signature = inspect.signature(function)
        shown = [p.replace(name=renamed.get(name, name)) for name, p in signature.parameters.items() if name not in hidden]
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return function

    return show
