"""Checkpoints: a folder of safetensors weights, one weights-only state file, a config, and a manifest of SHA-256 sums.

A checkpoint appears whole or not at all: it is written to a dot-folder beside its place, synced, then renamed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..runtime.arguments import describe
from .arguments import as_path

FORMAT = 1
MANIFEST = "manifest.json"
FILES = (MANIFEST, "config.json", "state.pt")  # and safetensors
EXTRA = "extra"  # in state.pt: what is in the networks' state dicts and in no safetensors file


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of something else; the message says which.

    Example:
        >>> try:
        ...     Trainer.load("no/such/run")
        ... except CheckpointError as error:
        ...     print(error)
        there is no checkpoint in no/such/run
    """


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Args:
        weights: state dicts by name ("generator", ...); extra states in them are tensors or plain data.
        state: tensors and plain data.
        config: plain data.
    """

    weights: dict[str, dict[str, Any]]
    state: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step stands among a run's checkpoints.

    Args:
        root: the run's folder of checkpoints.
        step: the steps done.

    Returns:
        ROOT/step_00000040.
    """
    return root / f"step_{step:08d}"


def save(folder: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, replacing one that stands there.

    Args:
        folder: its place.
        checkpoint: what to write.

    Raises:
        CheckpointError: something else stands there, no folder can be made there, or a network has a state that no checkpoint
            holds; nothing was written.
    """
    folder = as_path("folder", folder, CheckpointError)
    check_savable(checkpoint.weights)
    try:
        _check_replaceable(folder)
        partial = folder.parent / f".{folder.name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    extra: dict[str, dict[str, Any]] = {}
    for role, state in checkpoint.weights.items():
        # copies, because tensors may share memory, which the format does not hold
        copies = {name: _copied(value) for name, value in state.items()}
        save_file({n: value for n, value in copies.items() if _is_weight(value)}, partial / f"{role}.safetensors")
        extra[role] = {name: value for name, value in copies.items() if not _is_weight(value)}
    torch.save(checkpoint.state | ({EXTRA: extra} if any(extra.values()) else {}), partial / "state.pt")
    (partial / "config.json").write_text(json.dumps(checkpoint.config, indent=2) + "\n")
    sums = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
    (partial / MANIFEST).write_text(json.dumps({"format": FORMAT, "sha256": sums}, indent=2) + "\n")
    for file in partial.iterdir():
        _sync(file)
    _sync(partial)
    replaced = folder.parent / f"{partial.name}.old"
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    """CheckpointError for a file, or a folder with anything that is not a checkpoint's: it would be removed."""
    if not folder.exists():
        return
    inside = [file.name for file in folder.iterdir()] if folder.is_dir() else [folder.name]
    strange = sorted(name for name in inside if name not in FILES and not name.endswith(".safetensors"))
    if strange or not folder.is_dir():
        raise CheckpointError(f"{folder} is no checkpoint and was left untouched, it has {strange[0]}: choose another folder")


def _is_weight(value: Any) -> bool:
    """Whether a safetensors file can hold it; an extra state may be anything, and a buffer sparse or complex."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and not (value.is_complex() or value.is_quantized)
    )


def _copied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().cpu().clone()
    return copy.contiguous() if copy.layout is torch.strided else copy


def check_savable(weights: dict[str, dict[str, Any]]) -> None:
    """Checks that a checkpoint can hold everything in some networks' state dicts, and will be loaded again.

    Args:
        weights: state dicts by name ("generator", ...).

    Raises:
        CheckpointError: an extra state or a buffer is neither a tensor nor plain data; the message names its module.
    """
    for role, state in weights.items():
        for name, value in state.items():
            if not (_is_weight(value) or _survives(_copied(value))):
                module, _, what = name.rpartition(".")
                where = f"{role}'s module {module!r}" if module else role
                raise CheckpointError(
                    f"no checkpoint holds what the {where} keeps, {what} with a {_stranger(value)} in it: "
                    "have its get_extra_state return tensors, numbers, texts, and lists and dicts of these"
                )


def _survives(value: Any) -> bool:
    """Whether a value can be saved, and read without unpickling more than tensors and plain data."""
    stream = io.BytesIO()
    try:
        torch.save(value, stream)
        stream.seek(0)
        torch.load(stream, weights_only=True)
    except Exception:  # whatever a value's own way of pickling raises
        return False
    return True


def _stranger(value: Any) -> str:
    """The type of what spoils a value, or of the value itself."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return next((_stranger(part) for part in inner if not _survives(part)), type(value).__name__)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Inside, an error of the system is a CheckpointError about a file or folder."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {error.strerror}") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: Path) -> None:
    """Checks that every file of the manifest is there and has its sum.

    Args:
        folder: a checkpoint.

    Raises:
        CheckpointError: one is not, or the manifest is missing, damaged or of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sums, version = dict(manifest["sha256"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint: its {MANIFEST} is missing or damaged") from error
    if version != FORMAT:
        raise CheckpointError(f"{folder} has checkpoint format {version}; this fastgan reads {FORMAT}")
    for name, expected in sums.items():
        file = folder / Path(name).name
        if not file.is_file() or _sha256(file) != expected:
            raise CheckpointError(f"{file} is missing or damaged: it does not have the sum in {MANIFEST}")


def load(folder: str | Path) -> Checkpoint:
    """Reads a verified checkpoint onto the CPU; nothing is unpickled beyond tensors and plain data.

    Args:
        folder: a checkpoint, or a run folder for its newest one.

    Returns:
        What it holds.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = find(as_path("folder", folder, CheckpointError))
    verify(folder)
    weights = {file.stem: load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    for role, extra in state.pop(EXTRA, {}).items():
        weights[role] |= extra
    return Checkpoint(weights, state, json.loads((folder / "config.json").read_text()))


def find(folder: Path) -> Path:
    """The checkpoint a path means.

    Args:
        folder: a checkpoint or a run folder.

    Returns:
        The path itself, or the newest whole one of the run folder.

    Raises:
        CheckpointError: there is none.
    """
    with _reading(folder):
        if (folder / MANIFEST).is_file():
            return folder
    newest = latest(folder / "checkpoints")
    if newest is None:
        raise CheckpointError(f"there is no checkpoint in {folder}")
    return newest


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint of a run; damaged ones are passed over.

    Args:
        root: the run's folder of checkpoints.

    Returns:
        Its folder, None if there is none.

    Raises:
        CheckpointError: no such path can be.
    """
    with _reading(root):
        folders = sorted(root.glob("step_*"), reverse=True)
    for folder in folders:
        try:
            verify(folder)
            return folder
        except CheckpointError:
            continue
    return None


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


def sweep(root: Path) -> None:
    """Removes what an interrupted save left behind.

    Args:
        root: the run's folder of checkpoints.
    """
    for leftover in root.glob(".step_*"):
        shutil.rmtree(leftover, ignore_errors=True)


def prune(root: Path, keep: int) -> None:
    """Keeps the first checkpoint of a run and its newest ones, and removes the others.

    Args:
        root: the run's folder of checkpoints.
        keep: how many of the newest.
    """
    folders = sorted(root.glob("step_*"))
    for folder in folders[1 : max(1, len(folders) - keep)]:
        shutil.rmtree(folder)
