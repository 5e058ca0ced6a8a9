"""Where checkpoints stand, and how one comes to its place: at once, beside others, and past whatever a person keeps there.

One is made in a dot-folder beside its place. Where another stands in that place, it steps aside, and is removed afterwards.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import files
from .checkpoint_files import MANIFEST, reading

STEP = re.compile(r"step_(\d{8,})")
# beside a checkpoint's place: one in the making, one that is being replaced, one that is being removed
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>partial|replaced|removed)", re.DOTALL)
EARLIER_TEMPORARY = re.compile(r"\.(?P<name>step_\d{8,})\.\d+(?P<kind>|\.old)")  # of fastgan 0.2
REPLACED = ("replaced", ".old")
MOST_LOOKS = 100  # at a place whose folder has a name in its list and is not there: it comes and goes, or the disk is broken
WAIT, MOST_WAITS = 0.001, 10_000  # seconds between two tries to be alone, and tries
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step stands among a run's checkpoints.

    Args:
        root: the run's folder of checkpoints.
        step: the steps done.

    Returns:
        ROOT/step_00000040.
    """
    return root / f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a checkpoint of this name; None for any other, also of another way to write the same number."""
    found = STEP.fullmatch(name)
    return int(found[1]) if found and step_folder(Path(), int(found[1])).name == name else None


def places(root: Path) -> list[Path]:
    """The places of a run's checkpoints, newest first; also of one that has stepped aside for one that never came."""
    names = set(_names(root))
    stepped = _aside(names)
    steps = {name: step_of(name) for name in names | stepped.keys()}
    found = {
        step: root / name for name, step in steps.items() if step is not None and (name in stepped or _is_place(root / name))
    }
    return [place for _, place in sorted(found.items(), reverse=True)]


def _aside(names: set[str]) -> dict[str, str]:
    """Of the names in a folder, by their places' names: checkpoints whose places are empty, because one is being replaced."""
    found = {name: _temporary_of(name) for name in names}
    return {m["name"]: name for name, m in found.items() if m and m["kind"] in REPLACED and m["name"] not in names}


def standing(folder: Path) -> Path | None:
    """Where the checkpoint of a place stands: there, or aside; None where there is none."""
    for _ in range(MOST_LOOKS):
        if _mode(folder) is not None:
            return folder
        names = set(_names(folder.parent))
        if folder.name not in names:  # otherwise it has come between the two looks
            stepped = _aside(names).get(folder.name)
            return folder.with_name(stepped) if stepped else None
    return None


def _mode(path: Path) -> int | None:
    """What kind of file has a name, which may be a link's; None where there is none."""
    with reading(path), suppress(FileNotFoundError, NotADirectoryError):
        return os.lstat(path).st_mode
    return None


def _temporary_of(name: str) -> re.Match[str] | None:
    return TEMPORARY.fullmatch(name) or EARLIER_TEMPORARY.fullmatch(name)


def _is_place(path: Path) -> bool:
    """Whether a checkpoint may stand there: in a folder, or in none just now, where it is being replaced."""
    mode = _mode(path)
    with reading(path):
        return mode is None or stat.S_ISDIR(mode) or path.is_dir()


def _names(folder: Path) -> list[str]:
    with reading(folder), suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(folder)
    return []


def _temporary(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.{kind}")


class Partial:
    """A new folder beside a checkpoint's place, locked for as long as something is made in it; after an error it is gone.

    Made where no other process sweeps (`alone_in`): before it is locked it would be taken for an abandoned one.
    """

    def __init__(self, folder: Path) -> None:
        self.path = _temporary(folder, "partial")
        self.path.mkdir()
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        except BaseException:
            files.remove_folder(self.path)
            raise
        _lock(self._descriptor)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            os.close(self._descriptor)
        finally:
            if kind is not None:
                files.remove_folder(self.path)


def _lock(descriptor: int) -> bool:
    """Whether nobody else holds a lock; true on file systems without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def alone_in(parent: Path) -> Iterator[None]:
    """Inside, no other save replaces or sweeps anything in a folder; where locks are missing or another program's, one may."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(MOST_WAITS):
            if _lock(descriptor):
                break
            time.sleep(WAIT)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough: a child forked meanwhile would hold it on
        with suppress(OSError):
            os.close(descriptor)


def land(made: Path, folder: Path) -> None:
    """Renames a checkpoint to its place, and removes the one that stood there."""
    replaced = _exchange(made, folder)
    try:
        files.sync(folder.parent)
    finally:
        if replaced:
            files.remove_folder(replaced)


def _exchange(made: Path, folder: Path) -> Path | None:
    """Renames a folder to its place; returns where the one is now that stood there."""
    while True:
        try:
            os.rename(made, folder)
            return None
        except OSError as error:
            if error.errno not in TAKEN:
                raise
        replaced = _temporary(folder, "replaced")
        try:
            os.rename(folder, replaced)
        except FileNotFoundError:  # another process was here
            continue
        try:
            os.rename(made, folder)
            return replaced
        except BaseException as error:
            with suppress(OSError):
                os.rename(replaced, folder)
            if not (isinstance(error, OSError) and error.errno in TAKEN):
                raise


def remove(folder: Path) -> None:
    """Removes a checkpoint at once, so that nobody finds half of one; OSError where it stays."""
    removed = _temporary(folder, "removed")
    os.rename(folder, removed)
    files.remove_folder(removed)


def sweep(root: str | Path) -> None:
    """Clears up what an interrupted save or removal left behind; a checkpoint that had stepped aside has its place again.

    Args:
        root: the run's folder of checkpoints.
    """
    with alone_in(Path(root)):
        _sweep(Path(root), lambda name: step_of(name) is not None)


def sweep_beside(folder: Path) -> None:
    """The same for the place of one checkpoint, by who is alone there."""
    _sweep(folder.parent, lambda name: name == folder.name)


def _sweep(parent: Path, concerns: Callable[[str], bool]) -> None:
    for name, stepped in _aside(set(_names(parent))).items():
        if concerns(name):
            with suppress(OSError):
                os.rename(parent / stepped, parent / name)
    names = set(_names(parent))
    kept = _aside(names).values()  # those that could not be put back
    for name in names - set(kept):
        found = _temporary_of(name)
        if found and concerns(found["name"]) and not _is_copy(parent / name, found["kind"]):
            _remove_abandoned(parent / name)


def _is_copy(made: Path, kind: str) -> bool:
    """Whether it is a person's copy: what fastgan 0.2 left half made, of no other kind, has no manifest."""
    return kind == "" and os.path.lexists(made / MANIFEST)


def _remove_abandoned(made: Path) -> None:
    """Removes a temporary folder, unless a process is at work in it."""
    try:
        descriptor = os.open(made, os.O_RDONLY)
    except OSError:
        return
    try:
        if _lock(descriptor):
            files.remove_folder(made)
    finally:
        os.close(descriptor)
