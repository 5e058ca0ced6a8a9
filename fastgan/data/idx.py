"""IDX, the file format of MNIST, plain or gzip: read whole, checked before anything is allocated.

A file is two zero bytes, a type code, the number of dimensions, one big-endian 32-bit size per dimension, then the
values in row-major order and nothing else. Images are uint8 [N, H, W], magic number 0x00000803; labels are
uint8 [N], magic number 0x00000801.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch import Tensor

from .errors import DataError, DataNotFound

DIMENSIONS = {"images": 3, "labels": 1}
TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
UINT8 = 0x08
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # one deflated byte never unpacks to more
GZIP_LIMIT = 2 << 30  # bytes; a compressed file may be small and its contents not, so unpacking has a bound of its own
CHUNK = 1 << 20


class Unpacked(NamedTuple):
    """A whole IDX file in memory: its unpacked bytes and the sizes that its header claims and its length confirms."""

    content: bytearray
    sizes: tuple[int, ...]

    def values(self) -> Tensor:
        """uint8, of shape `sizes`; shares the memory."""
        return torch.frombuffer(self.content, dtype=torch.uint8, offset=4 + 4 * len(self.sizes)).reshape(self.sizes)

    def sha256(self) -> str:
        """The SHA-256 of the unpacked file, header included, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def read(path: Path, kind: str) -> Unpacked:
    """Reads a file of "images" or "labels", plain or gzip.

    Raises DataError where the file is not exactly one IDX array of that kind: a wrong magic number, another type than
    uint8, no values, fewer or more bytes than the header claims, or a gzip stream that is cut off or damaged.
    """
    with _opened(path) as (stream, packed):
        header, sizes = _header(stream, path, kind)
        claimed = math.prod(sizes)
        _check_claim(path, claimed, os.path.getsize(path) - (0 if packed else len(header)), packed)
        content = bytearray(len(header) + claimed)
        content[: len(header)] = header
        filled = _fill(stream, memoryview(content)[len(header) :])
        if filled < claimed:
            raise DataError(f"{path} is truncated: its header claims {claimed:,} bytes of values, it holds {filled:,}")
        # reading on to the end of a gzip stream is what checks its CRC and length
        if stream.read(1):
            raise DataError(f"{path} has trailing bytes after the {claimed:,} bytes of values that its header claims")
    return Unpacked(content, sizes)


def kind_of(path: Path) -> str | None:
    """What a file begins like: "images" or "labels", an IDX file of three dimensions or one and of any type; else None.

    Raises DataError where a gzip stream is damaged or the file cannot be read.
    """
    with _opened(path) as (stream, _):
        start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in TYPES:
        return None
    return next((kind for kind, dimensions in DIMENSIONS.items() if dimensions == start[3]), None)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], bool]]:
    """(stream, whether it is compressed); what goes wrong while reading becomes a DataError."""
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            if not packed:
                yield file, False
                return
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream, True  # type: ignore[misc]
    except DataError:
        raise
    except EOFError as error:
        raise DataError(f"{path} is truncated: its gzip stream ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    except FileNotFoundError as error:
        raise DataNotFound(f"{path}: there is no such file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _header(stream: IO[bytes], path: Path, kind: str) -> tuple[bytes, tuple[int, ...]]:
    """The header's bytes and the sizes in it."""
    dimensions = DIMENSIONS[kind]
    start = stream.read(4)
    if len(start) == 4:
        _check_magic(start, path, kind)
    sizes = stream.read(4 * dimensions)
    if len(start) + len(sizes) < 4 + 4 * dimensions:
        raise DataError(f"{path} is truncated: it ends inside the header")
    numbers = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
    if 0 in numbers:
        raise DataError(f"{path} holds no {kind}: its header claims a size of {' x '.join(map(str, numbers))}")
    return start + sizes, numbers


def _check_magic(start: bytes, path: Path, kind: str) -> None:
    magic, expected = int.from_bytes(start, "big"), UINT8 << 8 | DIMENSIONS[kind]
    if magic == expected:
        return
    found = f"{path} begins with 0x{magic:08x} where 0x{expected:08x} ({kind}) is expected"
    if start[:2] != b"\0\0" or start[2] not in TYPES:
        raise DataError(f"{found}: it is not an IDX file")
    if start[2] != UINT8:
        raise DataError(f"{found}: it holds {TYPES[start[2]]} values, and only uint8 is supported")
    other = next((name for name, dimensions in DIMENSIONS.items() if dimensions == start[3]), f"{start[3]} dimensions")
    raise DataError(f"{found}: it is an IDX file of {other}")


def _check_claim(path: Path, claimed: int, available: int, packed: bool) -> None:
    """Refuses a header that claims more (or, in a plain file, less) than what follows it."""
    if not packed and claimed > available:
        raise DataError(f"{path} is truncated: its header claims {claimed:,} bytes of values, {available:,} follow")
    if not packed and claimed < available:
        raise DataError(f"{path} has {available - claimed:,} trailing bytes after the values that its header claims")
    if packed and claimed > DEFLATE_RATIO * available:
        raise DataError(
            f"{path} is damaged: its header claims {claimed:,} bytes of values, "
            f"more than {available:,} compressed bytes can hold"
        )
    if packed and claimed > GZIP_LIMIT:
        raise DataError(
            f"{path} unpacks to {claimed:,} bytes, more than the {GZIP_LIMIT:,} allowed for a compressed file; "
            "if that is right, unpack it with gunzip first"
        )


def _fill(stream: IO[bytes], view: memoryview) -> int:
    """Reads into `view` until it is full or the stream ends; returns how many bytes arrived."""
    filled = 0
    while filled < len(view):
        chunk = stream.read(min(CHUNK, len(view) - filled))
        if not chunk:
            break
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return filled
