"""What every command is: checked first, run afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Job = Callable[[], None]  # what is left of a command once everything that a person can get wrong has been checked


class Command(Protocol):
    """A command with the flags that a line gave it, which are its dataclass's fields."""

    def prepare(self) -> Job:
        """Checks everything; ValueError, TypeError or OSError says what is wrong."""


class UsageError(ValueError):
    """A combination of flags that cannot be."""
