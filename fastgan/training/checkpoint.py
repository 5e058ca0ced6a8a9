"""Checkpoints: folders that appear whole or not at all, are found again newest first, and are thinned."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..runtime.arguments import describe
from . import checkpoint_files, checkpoint_places, files
from .arguments import as_path
from .checkpoint_files import FORMAT, MANIFEST, Checkpoint, CheckpointError, check_savable, strangers
from .checkpoint_places import step_folder, sweep

__all__ = (
    "FORMAT",
    "MANIFEST",
    "Checkpoint",
    "CheckpointError",
    "check_fit",
    "check_savable",
    "find",
    "latest",
    "load",
    "prune",
    "save",
    "step_folder",
    "sweep",
    "taken",
    "verify",
)

log = logging.getLogger("fastgan")

Taken = TypeVar("Taken")
Check = Callable[[Checkpoint], None]  # raises CheckpointError for one that its user could not do anything with


def save(folder: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, replacing one that stands there; it is on the disk when this returns.

    Args:
        folder: its place.
        checkpoint: what to write.

    Raises:
        CheckpointError: something else stands there, a network has a state that no checkpoint holds, or the disk is full or
            fails; what stood there still does, and nothing else is left behind.
    """
    folder = as_path("folder", folder, CheckpointError)
    check_savable(checkpoint.weights)
    with _writing(folder):
        with suppress(FileExistsError):
            folder.parent.mkdir(parents=True)
        with checkpoint_places.alone_in(folder.parent):
            _check_replaceable(folder)
            checkpoint_places.sweep_beside(folder)
            partial = checkpoint_places.Partial(folder)
        with partial as made:
            checkpoint_files.write(made, checkpoint)
            with checkpoint_places.alone_in(folder.parent):
                _check_replaceable(folder)  # again: a person may have put something there meanwhile
                checkpoint_places.land(made, folder)
    _remember_whole(folder, None)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Inside, an error of the system is a CheckpointError."""
    try:
        yield
    except OSError as error:
        advice = "" if files.is_fault(error) else "; choose another folder"
        raise CheckpointError(f"{folder} cannot be written: {files.reason(error)}{advice}") from error


def _check_replaceable(folder: Path) -> None:
    """CheckpointError for anything but a folder of a checkpoint's files alone: it would be removed."""
    if not os.path.lexists(folder):
        return
    strange = strangers(folder) if folder.is_dir() else [folder.name]
    if folder.is_symlink() or strange:
        what = "is a link" if folder.is_symlink() else "is no checkpoint"
        found = "" if folder.is_symlink() else f", it has {strange[0]}"
        raise CheckpointError(f"{folder} {what} and was left untouched{found}: choose another folder")


def verify(folder: str | Path) -> None:
    """Checks that a checkpoint is whole: all its files are in its manifest, have their sums, and can be read.

    Args:
        folder: a checkpoint.

    Raises:
        CheckpointError: it is not; the message names the file.
    """
    folder = as_path("folder", folder, CheckpointError)
    if _read(folder, None) is None:
        raise CheckpointError(f"there is no checkpoint in {folder}")


def load(folder: str | Path, check: Check | None = None) -> Checkpoint:
    """Reads a verified checkpoint onto the CPU; nothing is unpickled beyond tensors and plain data.

    Args:
        folder: a checkpoint, or a run folder for its newest whole one.
        check: what else makes it whole.

    Returns:
        What it holds.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return next(_found(folder, check))[1]


def taken(folder: str | Path, check: Check, take: Callable[[Checkpoint], Taken]) -> Taken:
    """What is made of a checkpoint; of a run's newest one, or of the next older one where nothing can be made of that.

    Args:
        folder: a checkpoint, or a run folder.
        check: what else makes one whole.
        take: makes it, or raises CheckpointError.

    Returns:
        What `take` has returned.

    Raises:
        CheckpointError: there is none; or that of the newest, where none is taken.
    """
    refused: list[tuple[Path, CheckpointError]] = []
    for place, saved in _found(folder, check):
        try:
            made = take(saved)
        except CheckpointError as error:
            refused.append((place, error))
            continue
        for newer, reason in refused:
            log.warning("a checkpoint is passed over: %s: %s", newer, reason)
        return made
    raise refused[0][1]


def find(folder: str | Path) -> Path:
    """The checkpoint a path means.

    Args:
        folder: a checkpoint or a run folder.

    Returns:
        The path itself, or the newest whole one of the run folder.

    Raises:
        CheckpointError: there is none.
    """
    return next(_found(folder, None))[0]


def _found(path: str | Path, check: Check | None) -> Iterator[tuple[Path, Checkpoint]]:
    """The checkpoint that a path is, or the whole ones of the run that it is, newest first; CheckpointError for none."""
    folder = as_path("folder", path, CheckpointError)
    runs = _whole_ones(folder / "checkpoints", check)
    empty = True
    for found in runs if _is_run(folder) else filter(None, [_read(folder, check)]):
        empty = False
        yield found
    if empty:
        raise CheckpointError(f"there is no checkpoint in {folder}")


def _is_run(folder: Path) -> bool:
    """Whether a path is a run folder; a folder without a manifest is one too, though an empty one."""
    with checkpoint_files.reading(folder):
        while folder.is_dir():
            before = _identity(folder)
            if (folder / "checkpoints").is_dir():
                return True
            if os.path.lexists(folder / MANIFEST):
                return False
            # another checkpoint may have taken the place of one meanwhile
            if before and _identity(folder) == before:
                return True
    return False


def latest(root: str | Path, check: Check | None = None) -> Path | None:
    """The newest whole checkpoint of a run; what is damaged is passed over, and said.

    Args:
        root: the run's folder of checkpoints.
        check: what else makes one whole.

    Returns:
        Its folder, None if there is none.

    Raises:
        CheckpointError: no such path can be.
    """
    return next((place for place, _ in _whole_ones(as_path("root", root, CheckpointError), check)), None)


def _whole_ones(root: Path, check: Check | None) -> Iterator[tuple[Path, Checkpoint]]:
    """The whole checkpoints of a run, newest first; those that are passed over are said."""
    begun = False
    while not begun:
        places, damaged = _listed(root), []
        for place in places:
            try:
                found = _read(place, check)
            except CheckpointError as error:
                damaged.append(error)
                found = None
            # a run that writes has removed this one, for a newer one: an older one would not do
            if found is None and not begun and _listed(root) != places:
                break
            if found:
                _say(damaged)
                begun = True
                yield found
        else:
            _say(damaged)
            return


def _say(damaged: list[CheckpointError]) -> None:
    while damaged:
        log.warning("a damaged checkpoint is passed over: %s", damaged.pop(0))


def _listed(root: Path) -> list[Path]:
    """The places of a run's checkpoints, as two looks in a row find them: what comes and goes in one may be missed by it."""
    first, second = None, checkpoint_places.places(root)
    while first != second:
        first, second = second, checkpoint_places.places(root)
    return second


def _read(folder: Path, check: Check | None) -> tuple[Path, Checkpoint] | None:
    """Reads the checkpoint of a place, and where it stands; again, where another took its place meanwhile."""
    while True:
        place = checkpoint_places.standing(folder)
        if place is None:
            return None
        before = _identity(place)
        try:
            found = checkpoint_files.read(place)
            break
        except CheckpointError:
            if before and _identity(place) == before and checkpoint_places.standing(folder) == place:
                raise
    try:
        if check:
            check(found)
    except CheckpointError as error:
        raise CheckpointError(f"{place} is damaged: {error}") from error
    return place, found


def _identity(place: Path) -> tuple[int, int] | None:
    """Of what is there, or of a link to nothing."""
    for look in (os.stat, os.lstat):
        with suppress(OSError):
            found = look(place)
            return found.st_ino, found.st_mtime_ns
    return None


def prune(root: str | Path, keep: int, check: Check | None = None) -> None:
    """Keeps the first whole checkpoint of a run and its newest whole ones, and removes the others.

    What is damaged, is a link, or has something else in it, is left alone and not counted.

    Args:
        root: the run's folder of checkpoints.
        keep: how many of the newest.
        check: what else makes one whole.
    """
    root = as_path("root", root, CheckpointError)
    try:
        whole = [place for place in checkpoint_places.places(root) if _is_ours_alone(place) and _is_whole(place, check)]
    except (CheckpointError, OSError) as error:
        log.warning("%s could not be looked through, and everything is kept: %s", root, error)
        return
    for folder in whole[keep:-1]:
        try:
            checkpoint_places.remove(folder)
        except OSError as error:
            log.warning("%s could not be removed: %s", folder, files.reason(error))


def _is_ours_alone(place: Path) -> bool:
    """Whether it stands in its place, and nobody has put anything into it, or a link there."""
    return place.is_dir() and not place.is_symlink() and not strangers(place)


# what was found whole, and by which check: so that no file is read again at every save
_whole: dict[Path, tuple[Any, Check | None]] = {}
DISTINCT_NS = 20_000_000  # so old a file must be that a later change of it shows in its time
MOST_REMEMBERED = 256


def _is_whole(place: Path, check: Check | None) -> bool:
    known = _whole.get(place)
    if known and known[0] == _looks(place) and known[1] in (None, check):
        return True
    try:
        _read(place, check)
    except CheckpointError:
        return False
    _remember_whole(place, check)
    return True


def _remember_whole(place: Path, check: Check | None) -> None:
    """Notes what its files look like, if a change of them would show."""
    if len(_whole) >= MOST_REMEMBERED:
        _whole.clear()
    _whole.pop(place, None)
    looks = _looks(place)
    if looks and time.time_ns() - max(modified for *_, modified in looks) > DISTINCT_NS:
        _whole[place] = looks, check


def _looks(place: Path) -> list[tuple[str, int, int, int]]:
    with suppress(OSError):
        entries = sorted((entry.name, entry.stat()) for entry in os.scandir(place))
        return [(name, found.st_ino, found.st_size, found.st_mtime_ns) for name, found in entries]
    return []


def check_fit(role: str, own: dict[str, Any], saved: dict[str, Any]) -> None:
    """Checks that two state dicts have the same names, shapes and dtypes.

    Args:
        role: the network's, for the message.
        own: of the network that is there.
        saved: of the checkpoint.

    Raises:
        CheckpointError: they have not; the message names the first difference.
    """
    for name, there, here in _differences(own, saved, lambda tensor: tuple(tensor.shape)):
        raise CheckpointError(f"the checkpoint is of another architecture: {role}'s {name} is {there} there, {here} here")
    for name, there, here in _differences(own, saved, lambda tensor: tensor.dtype):
        advice = ' (a trainer with precision="fp64" has networks in float64)' if torch.float64 in (there, here) else ""
        raise CheckpointError(f"the checkpoint is of another dtype: {role}'s {name} is {there} there, {here} here{advice}")


def _differences(own: dict[str, Any], saved: dict[str, Any], look: Callable[[Tensor], Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names, and what two state dicts have there; of extra states it counts only whether they are present."""
    for name in sorted(own.keys() | saved.keys(), key=str):
        there, here = (_seen(state, name, look) for state in (saved, own))
        if there != here:
            yield name, there, here


def _seen(state: dict[str, Any], name: str, look: Callable[[Tensor], Any]) -> Any:
    if name not in state:
        return "absent"
    if str(name).rpartition(".")[2] == "_extra_state":
        return "present"
    return look(state[name]) if isinstance(state[name], Tensor) else describe(state[name])
