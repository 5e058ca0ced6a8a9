"""metrics.jsonl: one JSON object (RFC 8259) a line, and numbers that are not finite as null."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import files
from .arguments import is_whole


def plain(content: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(content, Mapping):
        return {name: plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


class MetricsFile:
    """Rows of metrics in a file; a row that could not be written is kept, and written with the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: list[bytes] = []

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row; OSError where the disk has no space for it now."""
        self._unwritten.append(_line(row))
        self.flush()

    def flush(self) -> None:
        """Writes rows that are left, each whole or not at all."""
        if not self._unwritten:
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)  # a FIFO would wait
        try:
            length = os.fstat(descriptor).st_size
            try:
                files.write_all(descriptor, b"".join(self._unwritten))
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)
        self._unwritten.clear()

    def sync(self) -> None:
        """Puts the rows on the disk."""
        with suppress(FileNotFoundError):
            files.sync(self.path)

    def read(self) -> list[dict[str, Any]]:
        """The rows; what a crash has left of one is passed over."""
        rows = []
        for line in self._content().splitlines():
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and is_whole(row.get("step"), 0):
                    rows.append(row)
        return rows

    def _content(self) -> bytes:
        return files.read(self.path, 2**63) if self.path.is_file() else b""

    def numbers(self) -> list[dict[str, Any]]:
        """The rows with None for whatever is no finite number."""
        return [{name: _number(value) for name, value in row.items()} for row in self.read()]

    def cut_after(self, step: int) -> None:
        """Leaves the rows up to a step, and nothing of broken ones."""
        kept = b"".join(_line(row) for row in self.read() if row["step"] <= step)
        if kept != self._content():
            files.replace(self.path, kept)


def _number(value: Any) -> float | None:
    try:
        return value if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:  # of a whole number that no float is
        return None


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain(row), allow_nan=False) + "\n").encode()
