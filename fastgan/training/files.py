"""Files that appear whole or not at all, and that are read up to a bound.

What must outlive a crash goes through the system's own calls, one by one, so that a test can let each of them fail.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Bytes = bytes | memoryview


def reason(error: OSError) -> str:
    """What the system says of an error, without the number and the path."""
    return error.strerror or str(error)


def is_fault(error: OSError) -> bool:
    """Whether the disk is full, by a quota or a limit too, or fails: another place would not help."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_all(descriptor: int, data: Bytes) -> None:
    """Writes all of it, in as many calls as that takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def write(path: Path, data: Bytes) -> None:
    """A new file with the data in it, which is on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Puts what a file holds on the disk, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems whose folders cannot be synced
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Inside, a file is made at the path given, or none; then it stands in its place. After an error nothing has changed."""
    partial = partial_of(path)
    try:
        yield partial
        if os.path.lexists(partial):
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


def partial_of(path: Path) -> Path:
    """Where a file is made before it stands in its place."""
    return path.with_name(f".{path.name}")


def replace(path: Path, data: Bytes) -> None:
    """Writes a file whole or not at all; it is on the disk when this returns."""
    with replacing(path) as partial:
        write(partial, data)
    sync(path.parent)


def read(path: str | Path, most: int, folder: int | None = None) -> bytes:
    """What a regular file holds; whether it is one, and how long, is looked at before anything is read.

    folder: a descriptor that the path starts from. OSError for another kind of file, more than `most` bytes, or a file that is
    cut off while it is read.
    """
    # a FIFO without a writer would wait
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, more than {most:,}")
        parts, left = [], found.st_size
        while left:
            parts.append(os.read(descriptor, left))
            left -= len(parts[-1])
            if not parts[-1]:
                raise OSError(errno.EIO, "it was cut off while it was read")
        return b"".join(parts)
    finally:
        os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Removes a folder as far as that is possible."""
    shutil.rmtree(path, ignore_errors=True)
