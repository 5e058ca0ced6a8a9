"""SIGINT and SIGTERM while training: the running step ends, the run is saved, then the program does."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training stopped on a signal, after a checkpoint; `exit_code` is the shell's 128 + signal.

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
    """Within this context the first signal is only noted in `received`; the second one acts as it did before."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> Interrupts:
        # Python allows handlers in the main thread alone
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
