"""Triton's interpreter, twice as fast."""

from __future__ import annotations

import functools
import sys
from typing import Any


def patch_once_a_launch() -> None:
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
