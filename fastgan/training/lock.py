"""The lock of a run folder: one process writes there at a time, and the kernel frees it when that process ends."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import weakref
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from . import files

log = logging.getLogger("fastgan")

NAME = ".lock"
MOST_BYTES = 4096  # of what its holder says about itself


class FolderInUse(Exception):
    """Another process, or another run of this one, holds the lock; the message says who, where and since when."""


class FolderLock:
    """Holds FOLDER/.lock until `release`, or until the process ends, however it does.

    Raises FolderInUse where it is held, OSError where no file can be made. Readers need no lock.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        descriptor = _locked(path)
        self._end = weakref.finalize(self, _release, path, descriptor)
        _held.add(self)
        self.descriptor = descriptor
        with suppress(OSError):  # a full disk does not matter: who holds it is news for others alone
            os.ftruncate(descriptor, 0)
            files.write_all(descriptor, json.dumps(_holder()).encode())

    def release(self) -> None:
        """Frees the folder; a second call does nothing."""
        self._end()


def _locked(path: Path) -> int:
    """A descriptor of the file with the lock on it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            _lock(descriptor, path)
            # whoever held it before may have removed the file in the meantime
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(_told(path)) from None
    except OSError as error:
        log.warning("%s cannot be locked (%s): see to it that no other run writes there", path.parent, files.reason(error))


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _holder() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}


def _told(path: Path) -> str:
    """Who holds the lock, by what it has written there."""
    try:
        holder = json.loads(files.read(path, MOST_BYTES))
        return f"process {int(holder['pid'])} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _release(path: Path, descriptor: int) -> None:
    with suppress(OSError):
        if _is_at(descriptor, path):
            os.unlink(path)
    with suppress(OSError):
        os.close(descriptor)


# a forked child has the descriptor too, and would keep the folder locked when its parent is gone
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in _held:
        if lock._end.detach():
            os.close(lock.descriptor)


os.register_at_fork(after_in_child=_forget_in_child)
