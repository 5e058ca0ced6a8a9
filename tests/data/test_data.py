"""Named data sets: where they are found, what they hold, and what is refused."""

from __future__ import annotations

import gzip
import math
import struct
import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets

from fastgan import data
from fastgan.data.sources import POINT_STD

IMAGES = torch.arange(60).reshape(5, 4, 3).to(torch.uint8)
LABELS = torch.tensor([3, 1, 4, 1, 5], dtype=torch.uint8)
STEMS = {"images": "train-images-idx3-ubyte", "labels": "train-labels-idx1-ubyte"}


def encoded(values: Tensor) -> bytes:
    """An IDX file written by the book: magic number, big-endian sizes, values."""
    magic = 0x00000800 | values.dim()
    return struct.pack(f">{1 + values.dim()}I", magic, *values.shape) + bytes(values.flatten().tolist())


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def write(path: Path, content: bytes, packed: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)
    return path


def write_pair(folder: Path, images: Tensor = IMAGES, labels: Tensor = LABELS, end: str = "") -> Path:
    write(folder / f"{STEMS['images']}{end}", encoded(images), end == ".gz")
    write(folder / f"{STEMS['labels']}{end}", encoded(labels), end == ".gz")
    return folder


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_come_back_as_written(tmp_path: Path, end: str) -> None:
    loaded = data.load("idx", write_pair(tmp_path, end=end))
    assert torch.equal(loaded.images, IMAGES.unsqueeze(1))
    assert loaded.labels is not None and loaded.labels.dtype == torch.int64
    assert loaded.labels.tolist() == LABELS.tolist()
    assert (loaded.size, loaded.shape, loaded.features, loaded.is_points) == (5, (1, 4, 3), 12, False)


def test_a_single_images_file_has_no_labels(tmp_path: Path) -> None:
    write_pair(tmp_path)
    loaded = data.load("idx", tmp_path / STEMS["images"])
    assert loaded.labels is None and loaded.size == 5


def test_idx_takes_the_part_asked_for_and_prefers_plain_files(tmp_path: Path) -> None:
    write_pair(tmp_path)
    write(tmp_path / "train-images-idx3-ubyte.gz", b"\x1f\x8b never read to the end")
    write(tmp_path / "t10k-images-idx3-ubyte.gz", encoded(IMAGES[:2]), packed=True)
    write(tmp_path / "notes.txt", b"not IDX")
    assert data.load("idx", tmp_path).size == 5
    held_out = data.load("idx", tmp_path, train=False)
    assert held_out.size == 2 and held_out.labels is None


def test_idx_pairs_differently_named_files_when_there_is_one_of_each(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", encoded(IMAGES))
    write(tmp_path / "b.bin", encoded(LABELS))
    assert data.load("idx", tmp_path).labels is not None


def test_idx_refuses_to_guess(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, encoded(IMAGES))
    with pytest.raises(data.DataError, match="several IDX images files: a, b"):
        data.load("idx", tmp_path)


def test_counts_must_agree(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="4 labels for the 5 images"):
        data.load("idx", write_pair(tmp_path, labels=LABELS[:4]))


def test_known_sets_have_ten_classes(tmp_path: Path) -> None:
    write_pair(tmp_path, labels=LABELS + 5)
    with pytest.raises(data.DataError, match="holds the label 10"):
        data.load("fashion", tmp_path)
    assert data.load("idx", tmp_path).labels is not None


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("layout", [".", "KMNIST/raw"])
def test_both_layouts_are_found(tmp_path: Path, layout: str, end: str) -> None:
    write_pair(tmp_path / layout, end=end)
    assert torch.equal(data.load("kmnist", tmp_path).images, IMAGES.unsqueeze(1))


def test_the_dotted_spelling_is_found(tmp_path: Path) -> None:
    for kind, values in (("images", IMAGES), ("labels", LABELS)):
        write(tmp_path / STEMS[kind].replace("-idx", ".idx"), encoded(values))
    assert data.load("kmnist", str(tmp_path)).size == 5


def test_missing_files_say_how_to_get_them(tmp_path: Path) -> None:
    for root in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*download=True.*--data digits") as caught:
            data.load("mnist", root)
        assert isinstance(caught.value, data.DataError) and str(root) in str(caught.value)
    write(tmp_path / STEMS["images"], encoded(IMAGES))
    with pytest.raises(data.DataError, match="there is no train-labels-idx1-ubyte"):
        data.load("mnist", tmp_path)


def test_idx_says_what_it_needs(tmp_path: Path) -> None:
    for root, message in ((None, "--data-root"), (tmp_path / "absent", "no such file"), (tmp_path, "no IDX images file")):
        with pytest.raises(FileNotFoundError, match=message):
            data.load("idx", root)


@pytest.mark.parametrize("name", ["mnist", "idx"])
def test_a_root_that_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(data.DataError, match=name):
        data.load(name, "too-long-for-a-file-name" * 20)


def test_an_unknown_name_lists_all() -> None:
    with pytest.raises(data.DataError, match=", ".join(data.NAMES)):
        data.load("imagenet")


def test_a_download_reads_no_pickled_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.KMNIST, "download", lambda self: write_pair(Path(self.raw_folder)))
    for name in ("training.pt", "test.pt"):
        write(tmp_path / "KMNIST" / "processed" / name, b"cannot be unpickled")
    assert data.load("kmnist", tmp_path, download=True).size == 5


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    with pytest.raises(data.DataError, match=r"mnist could not be downloaded.*no route to host"):
        data.load("mnist", tmp_path, download=True)


def original(root: Path, stem: str) -> bytes:
    """The unpacked bytes of one of MNIST's files."""
    content = min(root.rglob(f"{stem}*")).read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


@pytest.mark.mnist
@pytest.mark.parametrize(("train", "size", "zeros"), [(True, 60_000, 5_923), (False, 10_000, 980)])
def test_mnist_is_the_original(mnist_root: Path, train: bool, size: int, zeros: int) -> None:
    loaded = data.load("mnist", mnist_root, train=train)
    assert (loaded.size, loaded.shape, loaded.images.dtype) == (size, (1, 28, 28), torch.uint8)
    assert loaded.labels is not None and int((loaded.labels == 0).sum()) == zeros
    if train:  # the well-known mean and standard deviation of its pixels
        pixels = loaded.images.double() / 255
        assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
        assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.mnist
def test_an_altered_mnist_is_refused(mnist_root: Path, tmp_path: Path) -> None:
    stems = {kind: stem.replace("train", "t10k") for kind, stem in STEMS.items()}
    contents = {kind: original(mnist_root, stem) for kind, stem in stems.items()}
    for kind, content in contents.items():
        for other in stems:
            write(tmp_path / stems[other], contents[other])
        assert data.load("mnist", tmp_path, train=False).size == 10_000
        write(tmp_path / stems[kind], flipped(content, 8 * 5_000))
        with pytest.raises(data.DataError, match=f"{stems[kind]} is not the original.*--data idx"):
            data.load("mnist", tmp_path, train=False)
        assert data.load("idx", tmp_path, train=False).size == 10_000


@pytest.mark.mnist
def test_a_damaged_gzip_of_mnist_is_refused(mnist_root: Path, tmp_path: Path) -> None:
    stems = [stem.replace("train", "t10k") for stem in STEMS.values()]
    for stem in stems:
        write(tmp_path / f"{stem}.gz", original(mnist_root, stem), packed=True)
    assert data.load("mnist", tmp_path, train=False).size == 10_000
    path = tmp_path / f"{stems[0]}.gz"
    content = path.read_bytes()
    for bit in (8 * 50, 4 * len(content), 8 * len(content) - 60):
        path.write_bytes(flipped(content, bit))
        for name in ("mnist", "idx"):
            with pytest.raises(data.DataError, match=r"t10k-images-idx3-ubyte.gz (is|has)"):
                data.load(name, tmp_path, train=False)


@pytest.mark.mnist
def test_mnist_under_another_name_is_refused(mnist_root: Path, tmp_path: Path) -> None:
    for stem in STEMS.values():
        name = stem.replace("train", "t10k")
        write(tmp_path / name, original(mnist_root, name))
    with pytest.raises(data.DataError, match="a file of mnist, not of fashion"):
        data.load("fashion", tmp_path, train=False)


def bilinear(size: int) -> Tensor:
    """The matrix [size, 8] of linear interpolation from 8 pixels, by their centres, fp64."""
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * 8 / size - 0.5).clamp(0, 7)
    return (1 - (position[:, None] - torch.arange(8)).abs()).clamp(min=0)


@pytest.mark.parametrize("size", [8, 28, 32])
def test_digits_are_scikit_learns_resized(size: int) -> None:
    bunch = load_digits()
    loaded = data.load(image_size=size)
    assert (loaded.name, loaded.size, loaded.shape, loaded.images.dtype) == ("digits", 1797, (1, size, size), torch.uint8)
    expected = bilinear(size) @ (torch.from_numpy(bunch.images) * 255 / 16) @ bilinear(size).T
    assert (loaded.images[:, 0].double() - expected).abs().max() <= 0.5 + 1e-5
    assert loaded.labels is not None and loaded.labels.tolist() == bunch.target.tolist()


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(data.DataError, match="pip install scikit-learn"):
        data.load("digits")


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_senseless_image_size_is_refused(size) -> None:
    with pytest.raises(data.DataError, match="image_size"):
        data.load("digits", image_size=size)


@pytest.mark.parametrize(("name", "count"), [("ring", 8), ("grid", 25)])
def test_points_lie_around_their_modes(name: str, count: int) -> None:
    loaded, centres = data.load(name), data.modes(name)
    assert loaded.images.shape == (50_000, 2) and loaded.is_points and loaded.features == 2
    assert loaded.images.abs().max() < 1 and centres.shape == (count, 2)
    assert loaded.labels is not None and set(loaded.labels.bincount().tolist()) == {50_000 // count}
    assert torch.equal(torch.cdist(loaded.images, centres).argmin(dim=1), loaded.labels)
    noise = (loaded.images - centres[loaded.labels]).double()
    assert noise.mean(dim=0).abs().max() < 5 * 0.02 / math.sqrt(50_000)
    assert noise.std(dim=0).numpy() == pytest.approx(0.02, rel=5 / math.sqrt(2 * 50_000))


def test_modes_are_apart_and_named() -> None:
    assert data.modes("ring").norm(dim=1).numpy() == pytest.approx(0.75)
    for name in ("ring", "grid"):
        assert torch.nn.functional.pdist(data.modes(name)).min() > 10 * POINT_STD
    with pytest.raises(data.DataError, match="ring and grid"):
        data.modes("digits")


# checkpoints carry these: a change would refuse to resume every run made before it
@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [("digits", "23bc893d603f55fb"), ("ring", "680e4246f1802da1"), ("grid", "df7bcc3c13b0e0fe")],
)
def test_sets_are_the_same_every_time(name: str, fingerprint: str) -> None:
    assert data.load(name).fingerprint() == fingerprint


def test_held_out_points_are_others() -> None:
    assert not torch.equal(data.load("ring").images, data.load("ring", train=False).images)


def test_labels_go_to_another_device_with_their_images() -> None:
    there = data.ImageSet("mine", IMAGES.unsqueeze(1), LABELS.long(), given_shape=(4, 3)).to("meta")
    assert there.labels is not None and there.images.device.type == there.labels.device.type == "meta"
    assert (there.name, there.shape, there.given_shape) == ("mine", (1, 4, 3), (4, 3))
    assert data.as_image_set(IMAGES).to("meta").labels is None


def test_a_fingerprint_names_the_images_alone() -> None:
    one = data.as_image_set(IMAGES)
    assert one.fingerprint() == data.ImageSet("other", IMAGES.clone().unsqueeze(1), LABELS.long()).fingerprint()
    others = [flip.unsqueeze(1) for flip in (IMAGES.flip(0), IMAGES.reshape(5, 3, 4), IMAGES[:4])]
    assert len({one.fingerprint(), *(data.ImageSet("o", other).fingerprint() for other in others)}) == 4
    assert one.to("cpu").fingerprint() == one.fingerprint() and len(one.fingerprint()) == 16


@pytest.mark.parametrize(
    ("images", "labels", "error"),
    [
        pytest.param(IMAGES, None, ValueError, id="three-dimensions"),
        pytest.param(torch.zeros(2, 3, dtype=torch.uint8), None, ValueError, id="uint8-points"),
        pytest.param(torch.zeros(2, 3).double(), None, TypeError, id="float64"),
        pytest.param(torch.zeros(0, 3), None, ValueError, id="empty"),
        pytest.param(torch.zeros(2, 3), torch.zeros(3).long(), ValueError, id="one-label-too-many"),
        pytest.param(torch.zeros(2, 3), torch.zeros(2), TypeError, id="float-labels"),
        pytest.param(torch.zeros(2, 3), [0, 1], TypeError, id="labels-in-a-list"),
        pytest.param(IMAGES.unsqueeze(1).numpy(), None, TypeError, id="array"),
        pytest.param([IMAGES], None, TypeError, id="list"),
    ],
)
def test_an_image_set_is_well_formed(images: Tensor, labels: Tensor | None, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        data.ImageSet("mine", images, labels)
    assert isinstance(caught.value, data.DataError) and "mine" in str(caught.value)
