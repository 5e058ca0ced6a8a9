"""What every command is: checked first, run afterwards."""

from __future__ import annotations

from collections.abc import Callable

Job = Callable[[], None]  # what is left of a command once everything that a person can get wrong has been checked


class UsageError(ValueError):
    """A combination of flags that cannot be."""
