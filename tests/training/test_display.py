"""Progress is shown for as long as that can be done, and never in the way of the training."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

import pytest

from fastgan.training.display import Bar, Guarded, Output, PlainLines, Silent, display

ROW = {"step": 3, "d_loss": 0.5, "g_loss": float("nan"), "d_real": 1.0, "d_fake": -1.0, "images_per_second": 1234.5}


class Broken(io.StringIO):
    """Writes so many characters, and fails then."""

    def __init__(self, error: int, limit: int) -> None:
        super().__init__()
        self.error, self.limit = error, limit

    def write(self, text: str) -> int:
        if self.tell() + len(text) > self.limit:
            raise OSError(self.error, os.strerror(self.error))
        return super().write(text)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [Bar, PlainLines])
@pytest.mark.parametrize("limit", [0, 200])
@pytest.mark.parametrize(("error", "told"), [(errno.EPIPE, 1), (errno.EIO, 0), (errno.ENOSPC, 0)])
def test_an_output_that_fails_is_left_alone(kind: Any, limit: int, error: int, told: int, monkeypatch) -> None:
    gone: list[int] = []
    before, stream = sys.stdout, Broken(error, limit)
    console = Output(file=stream, force_terminal=True, width=80)
    shown = Guarded(lambda: kind(console, 0, 9, 3), lambda: gone.append(1))
    for step in range(1, 9):
        shown.advance(step)
        shown.metrics(ROW)
    shown.close()
    assert len(gone) == told and isinstance(shown.display, Silent) and stream.tell() <= limit
    assert sys.stdout is before


def test_what_is_shown_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(display(False, 0, 9, 3, lambda: None), Silent)
    lines = display(True, 0, 9, 3, lambda: None)
    assert isinstance(lines, Guarded) and isinstance(lines.display, PlainLines)
    lines.advance(3)
    lines.metrics(ROW)
    lines.close()
    assert (
        capsys.readouterr().out
        == "step 3/9  epoch 1.00  d_loss 0.5000  g_loss nan  D(real) +1.000  D(fake) -1.000  1,234 images/s\n"
    )
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = display(True, 0, 9, 3, lambda: None)
    assert isinstance(bar, Guarded) and isinstance(bar.display, Bar)
    bar.close()
