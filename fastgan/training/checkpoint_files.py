"""The files of one checkpoint: safetensors weights, one weights-only state file, a config, a manifest of SHA-256 sums.

Whatever is read is bounded before, verified, and then parsed from the same bytes; all that can be wrong with it is a
CheckpointError.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..runtime.arguments import describe
from . import files

FORMAT = 1
MANIFEST, CONFIG, STATE, WEIGHTS = "manifest.json", "config.json", "state.pt", ".safetensors"
ROLES = ("generator", "discriminator", "average")  # whose weights a trainer saves
EXTRA = "extra"  # in the state: what is in the networks' state dicts and in no safetensors file
NAME = re.compile(r"config\.json|state\.pt|\w[\w.-]{0,99}\.safetensors", re.ASCII)  # of a file in the manifest
SUM = re.compile(r"[0-9A-Fa-f]{64}")
MOST_JSON = {MANIFEST: 2**20, CONFIG: 2**24}  # bytes
MOST_HEADER = 100_000_000  # bytes of a safetensors file's, as the format has it
MOST_BESIDE = 2**14  # bytes beside a record of state.pt: its name, and what aligns it
MOST_SAID = 600  # letters of a message


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of something else; the message says which.

    Args:
        message: what is wrong; of many lines it becomes one, and a very long one is cut in its middle.

    Example:
        >>> try:
        ...     Trainer.load("no/such/run")
        ... except CheckpointError as error:
        ...     print(error)
        there is no checkpoint in no/such/run
    """

    def __init__(self, message: str) -> None:
        # what a damaged file holds may be quoted in it, of any length and over many lines
        line = " ".join(message.splitlines())
        super().__init__(line if len(line) <= MOST_SAID else f"{line[: MOST_SAID // 2]} ... {line[-MOST_SAID // 2 :]}")


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

    def snapshot(self) -> Checkpoint:
        """A copy on the CPU, which training does not change.

        Returns:
            With tensors of its own; plain data are shared.
        """
        return Checkpoint(_map_tensors(copied, self.weights), _map_tensors(copied, self.state), self.config)


def _map_tensors(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map_tensors(change, value) for name, value in tree.items()}
    return change(tree) if isinstance(tree, Tensor) else tree


def copied(value: Any) -> Any:
    """A tensor's copy on the CPU, with memory of its own."""
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().cpu() if value.is_cuda else value.detach().clone()
    return copy.contiguous() if copy.layout is torch.strided else copy


def is_weight(value: Any) -> bool:
    """Whether a safetensors file can hold it; an extra state may be anything, and a buffer sparse or complex."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and not (value.is_complex() or value.is_quantized)
    )


def check_savable(weights: dict[str, dict[str, Any]]) -> None:
    """Checks that a checkpoint can hold everything in some networks' state dicts, and will be loaded again.

    Args:
        weights: state dicts by name ("generator", ...).

    Raises:
        CheckpointError: an extra state or a buffer is neither a tensor nor plain data; the message names its module.
    """
    for role, state in weights.items():
        for name, value in state.items():
            if not (is_weight(value) or _survives(copied(value))):
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


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes and syncs the files of a checkpoint into a new folder, and the folder."""
    contents = _serialized(checkpoint)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    contents[MANIFEST] = _json({"format": FORMAT, "sha256": sums})
    for name, data in contents.items():
        files.write(folder / name, data)
    files.sync(folder)


def _serialized(checkpoint: Checkpoint) -> dict[str, files.Bytes]:
    """What the files hold, by their names. Made in memory, so that a disk that fails does so in `files` alone."""
    contents: dict[str, files.Bytes] = {}
    extra: dict[str, dict[str, Any]] = {}
    for role, state in checkpoint.weights.items():
        weights = {name: value for name, value in state.items() if is_weight(value)}
        contents[f"{role}{WEIGHTS}"] = safetensors.torch.save(_apart(weights))
        extra[role] = {name: copied(value) for name, value in state.items() if name not in weights}
    stream = io.BytesIO()
    torch.save(checkpoint.state | ({EXTRA: extra} if any(extra.values()) else {}), stream)
    return contents | {STATE: stream.getbuffer(), CONFIG: _json(checkpoint.config)}


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in tensors that share no memory, which the format does not hold: copies where they do."""
    found, seen = {}, set()
    for name, tensor in weights.items():
        memory = tensor.untyped_storage()
        alone = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        found[name] = tensor.detach() if alone and not tensor.is_cuda else copied(tensor)
    return found


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def is_own(name: str) -> bool:
    """Whether a trainer's checkpoint has a file of this name."""
    return name in (MANIFEST, CONFIG, STATE) or name in [f"{role}{WEIGHTS}" for role in ROLES]


def strangers(folder: Path) -> list[str]:
    """What is in a folder and is no checkpoint's: no file that a trainer's has, and none that its manifest names."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        present = os.listdir(descriptor)
        with suppress(CheckpointError):
            named = _sums(folder, descriptor)
            present = [name for name in present if name not in named]
    finally:
        os.close(descriptor)
    return sorted(name for name in present if not is_own(name))


def read(folder: Path) -> Checkpoint:
    """Reads a checkpoint whose files all have their sums; CheckpointError for anything that is wrong with it.

    The folder stays the same one while it is read, even where another takes its place meanwhile.
    """
    with reading(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        contents = _verified(folder, descriptor)
    finally:
        os.close(descriptor)
    weights = {
        name.removesuffix(WEIGHTS): _parsed(folder / name, safetensors.torch.load, data)
        for name, data in contents.items()
        if name.endswith(WEIGHTS)
    }
    state = _parsed(folder / STATE, _load_state, contents[STATE])
    with _malformed(folder / STATE):
        for role, extra in state.pop(EXTRA, {}).items():
            weights[role].update(extra)
    return Checkpoint(weights, state, _parsed(folder / CONFIG, _load_config, contents[CONFIG]))


def _verified(folder: Path, descriptor: int) -> dict[str, bytes]:
    """The bytes of every file that the manifest names, which have the sums that it has."""
    contents = {}
    for name, expected in _sums(folder, descriptor).items():
        try:
            contents[name] = files.read(name, _most(name, descriptor), descriptor)
        except OSError as error:
            raise CheckpointError(f"{folder / name} is missing or damaged: {files.reason(error)}") from error
        except MemoryError as error:
            raise CheckpointError(f"{folder / name} does not fit into the memory") from error
        except Exception as error:  # of a header that is none
            raise CheckpointError(f"{folder / name} is missing or damaged: {said(error)}") from error
        if hashlib.sha256(contents[name]).hexdigest() != expected.lower():
            raise CheckpointError(f"{folder / name} is missing or damaged: it does not have the sum in {MANIFEST}")
    return contents


def _most(name: str, descriptor: int) -> int:
    """How many bytes a file may have: for tensors it says so itself, and is not read where it has more."""
    if name in MOST_JSON or not stat.S_ISREG(os.stat(name, dir_fd=descriptor).st_mode):  # a device may have no end
        return MOST_JSON.get(name, 0)
    with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=descriptor), "rb") as stream:
        if name == STATE:
            records = _records(stream)
            return sum(record.file_size for record in records) + MOST_BESIDE * (len(records) + 1)
        size = int.from_bytes(stream.read(8), "little")
        if size > MOST_HEADER:
            raise ValueError(f"it has a header of {size:,} bytes")
        header = json.loads(stream.read(size))
        return 8 + size + max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)


def _records(stream: IO[bytes]) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(stream) as archive:
        return archive.infolist()


def _sums(folder: Path, descriptor: int) -> dict[str, str]:
    """The sums in the manifest, by the files' names."""
    try:
        manifest = files.read(MANIFEST, MOST_JSON[MANIFEST], descriptor)
        return _checked(folder, json.loads(manifest, object_pairs_hook=_without_repeats), os.listdir(descriptor))
    except (OSError, RecursionError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} is not a whole checkpoint: its {MANIFEST} is missing or damaged") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _checked(folder: Path, manifest: Any, present: list[str]) -> dict[str, str]:
    """The sums of a manifest that names every file of the checkpoint and nothing else."""
    if not isinstance(manifest, dict):
        raise ValueError(f"it holds {describe(manifest)}")
    version, sums = manifest.get("format"), manifest.get("sha256")
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(f"{folder} has checkpoint format {str(version)[:20]}; this fastgan reads {FORMAT}")
    if not isinstance(sums, dict):
        raise ValueError("it has no sums")
    for name, digits in sums.items():
        if not NAME.fullmatch(name) or not isinstance(digits, str) or not SUM.fullmatch(digits):
            raise ValueError(f"it has {name!r}: {describe(digits)}")
    unnamed = [name for name in {CONFIG, STATE, *filter(is_own, present)} - {MANIFEST} if name not in sums]
    if unnamed:
        raise CheckpointError(f"{folder} is not a whole checkpoint: its {MANIFEST} has no sum of {', '.join(sorted(unnamed))}")
    return sums


def _load_state(data: bytes) -> dict[str, Any]:
    # torch writes them as they are; packed ones could unfold into any size
    if sum(record.file_size for record in _records(io.BytesIO(data))) > len(data):
        raise ValueError("its records are larger than the file")
    state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    if not isinstance(state, dict):
        raise ValueError(f"it holds {describe(state)}")
    return state


def _load_config(data: bytes) -> dict[str, Any]:
    config = json.loads(data)
    if not isinstance(config, dict):
        raise ValueError(f"it holds {describe(config)}")
    return config


def _parsed(file: Path, parse: Callable[[bytes], dict[str, Any]], data: bytes) -> dict[str, Any]:
    with _malformed(file):
        return parse(data)


@contextmanager
def _malformed(file: Path) -> Iterator[None]:
    """Inside, whatever is wrong with what a file holds is a CheckpointError, whichever library finds it."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{file} is damaged, although it has its sum: {said(error)}") from error


def said(error: Exception) -> str:
    """What another library says of an error, in a line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Inside, an error of the system is a CheckpointError about a file or folder."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {files.reason(error)}") from error
