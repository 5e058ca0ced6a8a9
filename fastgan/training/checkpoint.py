"""Checkpoints: a folder of safetensors weights, one weights-only state file, a config, and a manifest of SHA-256 sums.

A checkpoint appears whole or not at all: it is written to a dot-folder beside its place, synced, then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
MANIFEST = "manifest.json"


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
        weights: state dicts by name ("generator", ...).
        state: tensors and plain data.
        config: plain data.
    """

    weights: dict[str, dict[str, Tensor]]
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


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, replacing one that stands there.

    Args:
        folder: its place.
        checkpoint: what to write.
    """
    folder = Path(folder)
    partial = folder.parent / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, tensors in checkpoint.weights.items():
        # copies, because the tensors are views of one buffer, which the format does not hold
        copies = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        save_file(copies, partial / f"{name}.safetensors")
    torch.save(checkpoint.state, partial / "state.pt")
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def load(folder: Path) -> Checkpoint:
    """Reads a verified checkpoint onto the CPU; nothing is unpickled beyond tensors and plain data.

    Args:
        folder: a checkpoint, or a run folder for its newest one.

    Returns:
        What it holds.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = find(Path(folder))
    verify(folder)
    weights = {file.stem: load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
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
    """
    for folder in sorted(root.glob("step_*"), reverse=True):
        try:
            verify(folder)
            return folder
        except CheckpointError:
            continue
    return None


def check_fit(role: str, own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Checks that two state dicts have the same names and shapes.

    Args:
        role: the network's, for the message.
        own: of the network that is there.
        saved: of the checkpoint.

    Raises:
        CheckpointError: they have not; the message names the first difference.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in own.items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        there, here = theirs.get(name, "absent"), ours.get(name, "absent")
        if there != here:
            raise CheckpointError(f"the checkpoint is of another architecture: {role}'s {name} is {there} there, {here} here")


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
