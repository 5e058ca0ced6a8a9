"""Signals while training: the running step ends, the run is saved, then the program does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AT_ONCE = 3  # so many signals leave whatever is running


class Interrupted(KeyboardInterrupt):
    """Training stopped on a signal, after a checkpoint; `exit_code` is the shell's 128 + signal.

    SIGPIPE stands for a reader of the output that went away.

    Args:
        number: the signal's.

    Example:
        >>> stopped = Interrupted(2)
        >>> str(stopped), stopped.exit_code
        ('stopped by SIGINT', 130)
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Interrupts:
    """Within this context signals are noted, the first one in `received`; the third one raises Interrupted, wherever it comes.

    at_once: the first one raises it already, where nothing is lost by that.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.received: int | None = None
        self.count = 0
        self.at_once = at_once

    def __enter__(self) -> Interrupts:
        # Python allows handlers in the main thread alone. What was ignored before (by nohup, say) stays ignored, and what
        # another language's runtime handles stays with it
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.note(number)
        if self.at_once or self.count >= AT_ONCE:
            raise Interrupted(self.received or number)

    def note(self, number: int) -> None:
        """Counts a signal, or what is like one."""
        self.count += 1
        self.received = self.received or number

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, the first signal raises Interrupted already: nothing is lost there."""
        self.at_once, before = True, self.at_once
        try:
            yield
            self._raise_lost()
        finally:
            self.at_once = before

    def _raise_lost(self) -> None:
        """What is raised while Python collects garbage is lost there."""
        if self.at_once and self.received:
            raise Interrupted(self.received)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self._raise_lost()
