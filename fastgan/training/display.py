"""How a run shows its progress: by a bar on a terminal, by plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Output(Console):
    """A console whose writes raise what the system says of them; rich's own ends the program where nobody reads."""

    def on_broken_pipe(self) -> None:
        raise


class Display(Protocol):
    """How progress is shown."""

    def advance(self, step: int) -> None: ...

    def metrics(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class PlainLines:
    """One line at every report, for logs and pipes."""

    def __init__(self, console: Console, start: int, total: int, epoch_steps: int) -> None:
        self.console, self.total, self.epoch_steps = console, total, epoch_steps

    def advance(self, step: int) -> None:
        pass

    def metrics(self, row: Mapping[str, Any]) -> None:
        place = f"step {row['step']}/{self.total}  epoch {row['step'] / self.epoch_steps:.2f}"
        losses = f"d_loss {row['d_loss']:.4f}  g_loss {row['g_loss']:.4f}"
        logits = f"D(real) {row['d_real']:+.3f}  D(fake) {row['d_fake']:+.3f}"
        line = f"{place}  {losses}  {logits}  {row['images_per_second']:,.0f} images/s"
        self.console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        pass


class Bar:
    """A progress bar with losses, images per second and time left, for terminals."""

    REFRESH_SECONDS = 0.1

    def __init__(self, console: Console, start: int, total: int, epoch_steps: int) -> None:
        left = TimeRemainingColumn(compact=True)
        # 80 columns hold all of it with a bar of 20
        columns = (BarColumn(20), MofNCompleteColumn(), left, TextColumn("{task.fields[losses]}"))
        self.progress = Progress(*columns, console=console, auto_refresh=False)
        self.progress.start()
        self.task = self.progress.add_task("train", total=total, completed=start, losses="")
        self.due = 0.0

    def advance(self, step: int) -> None:
        # redrawing takes about a millisecond, a step not much longer
        now = time.monotonic()
        if now >= self.due:
            self.due = now + self.REFRESH_SECONDS
            self.progress.update(self.task, completed=step, refresh=True)

    def metrics(self, row: Mapping[str, Any]) -> None:
        losses = f"d {row['d_loss']:.3f} g {row['g_loss']:.3f}"
        self.progress.update(self.task, completed=row["step"], losses=f"{losses} {row['images_per_second']:,.0f} images/s")

    def close(self) -> None:
        self.progress.refresh()
        self.progress.stop()


class Silent:
    """Shows nothing."""

    def advance(self, step: int) -> None:
        pass

    def metrics(self, row: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class Guarded:
    """Shows progress for as long as that can be written: a run goes on without.

    make: what shows it; unread: called where a pipe's reader has gone away.
    """

    def __init__(self, make: Callable[[], Display], unread: Callable[[], None]) -> None:
        self.display: Display = Silent()
        self.unread = unread
        self._streams = sys.stdout, sys.stderr  # in whose place a bar puts its own
        self._show(lambda: self._begin(make))

    def _begin(self, make: Callable[[], Display]) -> None:
        self.display = make()

    def advance(self, step: int) -> None:
        self._show(lambda: self.display.advance(step))

    def metrics(self, row: Mapping[str, Any]) -> None:
        self._show(lambda: self.display.metrics(row))

    def close(self) -> None:
        self._show(self.display.close)

    def _show(self, show: Callable[[], None]) -> None:
        try:
            show()
        except OSError as error:
            shown, self.display = self.display, Silent()
            with suppress(OSError):
                shown.close()
            sys.stdout, sys.stderr = self._streams
            if isinstance(error, BrokenPipeError):
                self.unread()


def display(show: bool, start: int, total: int, epoch_steps: int, unread: Callable[[], None]) -> Display:
    """How progress is shown here: by a bar on a terminal, by plain lines elsewhere.

    Args:
        show: False for nothing at all.
        start: the steps done before.
        total: the whole run's steps.
        epoch_steps: steps in an epoch.
        unread: called where a pipe's reader has gone away.

    Returns:
        What is told of each step.
    """
    if not show:
        return Silent()
    console = Output()
    kind = Bar if console.is_terminal else PlainLines
    return Guarded(lambda: kind(console, start, total, epoch_steps), unread)
