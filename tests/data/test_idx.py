"""IDX files: what is written comes back, and everything else is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastgan import data
from fastgan.data import idx

IMAGES = torch.arange(60).reshape(5, 4, 3).to(torch.uint8)
LABELS = torch.tensor([3, 1, 4, 1, 5], dtype=torch.uint8)


def encoded(values: Tensor) -> bytes:
    """An IDX file written by the book: magic number, big-endian sizes, values."""
    magic = 0x00000800 | values.dim()
    return struct.pack(f">{1 + values.dim()}I", magic, *values.shape) + bytes(values.flatten().tolist())


def write(path: Path, content: bytes, packed: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)
    return path


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_files_come_back_as_written(tmp_path: Path, packed: bool) -> None:
    for kind, values in (("images", IMAGES), ("labels", LABELS)):
        path = write(tmp_path / kind, encoded(values), packed)
        assert torch.equal(idx.read(path, kind).values(), values)
        assert idx.kind_of(path) == kind


def test_compression_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    packed = write(tmp_path / "packed", encoded(IMAGES), packed=True)
    plain = write(tmp_path / "plain.gz", encoded(IMAGES))
    for path in (packed, plain):
        assert torch.equal(idx.read(path, "images").values(), IMAGES)


def refused(path: Path, kind: str = "images") -> str:
    """The message with which a file is refused; it names the file."""
    with pytest.raises(data.DataError) as caught:
        idx.read(path, kind)
    assert str(path) in str(caught.value)
    return str(caught.value)


def header(magic: int, *sizes: int) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "ends inside the header", id="empty"),
        pytest.param(encoded(IMAGES)[:15], "ends inside the header", id="cut-header"),
        pytest.param(encoded(IMAGES)[:-1], "truncated", id="one-byte-short"),
        pytest.param(header(0x803, 5, 4, 3), "truncated", id="no-values"),
        pytest.param(encoded(IMAGES) + b"\0", "trailing bytes", id="one-byte-long"),
        pytest.param(encoded(LABELS), "an IDX file of labels", id="labels-for-images"),
        pytest.param(header(0x804, 1, 1, 1, 1) + b"\0", "an IDX file of 4 dimensions", id="four-dimensions"),
        pytest.param(header(0xD03, 1, 1, 1) + bytes(4), "it holds float32 values", id="float32"),
        pytest.param(header(0xA03, 1, 1, 1) + b"\0", "not an IDX file", id="unknown-type"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(20), "not an IDX file", id="png"),
        pytest.param(header(0x803, 0, 28, 28), "holds no images", id="zero-images"),
        pytest.param(header(0x803, 5, 0, 3), "holds no images", id="zero-rows"),
        # 2^32 and 2^96 bytes: a product taken in 32 or 64 bits would wrap around to something small
        pytest.param(header(0x803, 1 << 16, 1 << 8, 1 << 8), "truncated|more than", id="2^32"),
        pytest.param(header(0x803, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), "truncated|more than", id="2^96"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    path = write(tmp_path / "file", content, packed)
    with pytest.raises(data.DataError, match=message):
        idx.read(path, "images")
    refused(path)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, packed: bool) -> None:
    whole = write(tmp_path / "whole", encoded(IMAGES), packed).read_bytes()
    for length in range(len(whole)):
        refused(write(tmp_path / "cut", whole[:length]))


def test_a_flipped_header_bit_is_refused(tmp_path: Path) -> None:
    content = encoded(IMAGES)
    for bit in range(8 * 16):
        refused(write(tmp_path / "file", flipped(content, bit)))


def test_a_flipped_bit_in_gzip_is_refused_or_harmless(tmp_path: Path) -> None:
    content = gzip.compress(encoded(IMAGES), mtime=0)
    harmless = []
    for bit in range(8 * len(content)):
        path = write(tmp_path / "file", flipped(content, bit))
        try:
            assert torch.equal(idx.read(path, "images").values(), IMAGES)
            harmless.append(bit // 8)
        except data.DataError:
            continue
    # bytes 3 to 9 of gzip's header say nothing about the content; the last byte of deflate's body may be padded
    assert set(harmless) <= {*range(3, 10), len(content) - 9}


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    for length in (1, 4, 15, 16, 17, 100):
        for start in (b"", b"\x1f\x8b\x08\0", header(0x803, 1), header(0x803, 2, 2, 2)):
            noise = bytes(torch.randint(256, (length,)).tolist())
            refused(write(tmp_path / "file", start + noise))


def test_a_claim_beyond_the_file_allocates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "bytearray", lambda size: pytest.fail(f"{size} bytes allocated"), raising=False)
    claim = header(0x803, 1 << 20, 1 << 5, 1 << 5)  # less than GZIP_LIMIT
    for packed in (False, True):
        refused(write(tmp_path / "file", claim + bytes(100), packed))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = write(tmp_path / "bomb.gz", encoded(IMAGES) + bytes(1 << 24), packed=True)
    assert "trailing bytes" in refused(bomb)
    honest = write(tmp_path / "honest.gz", header(0x803, 1, 1 << 10, 1 << 10) + bytes(1 << 20), packed=True)
    assert idx.read(honest, "images").sizes == (1, 1 << 10, 1 << 10)
    monkeypatch.setattr(idx, "GZIP_LIMIT", 1 << 16)
    assert "gunzip" in refused(honest)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    refused(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        idx.read(tmp_path / "absent", "images")
