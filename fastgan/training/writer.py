"""Writes what a run saves beside its training: one piece of work at a time, in a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from .signals import Interrupted

log = logging.getLogger("fastgan")


class Writer:
    """Runs jobs in a thread, one after another; at the end of this context the last one is done.

    An error in a job is raised in the training's thread, by the next call of any method.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Writer:
        return self

    def submit(self, job: Callable[[], None]) -> None:
        """Begins a job, once the one before is done."""
        self.wait()
        # a daemon: where the program has to end at once, it is not waited for
        self._thread = threading.Thread(target=self._run, args=(job,), name="fastgan writer", daemon=True)
        self._thread.start()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Waits for the job that is running."""
        if self._thread:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raises the error of a job that has failed; waits for nothing."""
        error, self._error = self._error, None
        if error:
            raise error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Interrupted):  # what was to be saved is saved, or there is no time for it
            return
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            log.warning("%s", failed)
