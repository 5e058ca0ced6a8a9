"""Where data comes from: data sets by their names, tensors, and map-style torch Datasets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from ..ops import sample
from ..runtime.arguments import describe
from . import convert, dataset, idx
from .errors import DataError, DataNotFound, DataTypeError
from .image_set import ImageSet

NAMES = ("digits", "mnist", "fashion", "kmnist", "idx", "ring", "grid")
TORCHVISION = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST"}  # its class, and its folder
CLASSES = 10
MNIST_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
POINTS = 50_000  # a multiple of 8 and of 25: every mode of `ring` and of `grid` has equally many
POINT_STD = 0.02  # the standard deviation of every mode
RING_MODES, RING_RADIUS = 8, 0.75
GRID_SIDE, GRID_EXTENT = 5, 0.8


def load(
    name: str = "digits",
    root: str | os.PathLike | None = None,
    *,
    train: bool = True,
    image_size: int = 28,
    download: bool = False,
) -> ImageSet:
    """A data set by its name, one of NAMES.

    Args:
        name: digits, the 1,797 digits inside scikit-learn, resized from 8x8, which have no held-out part; mnist, fashion or
            kmnist, from IDX files; idx, any IDX file of images; ring or grid, 50,000 points around 8 or 25 centres, the same
            ones every time.
        root: for mnist, fashion and kmnist the folder (default "data") that holds their IDX files or torchvision's folders; for
            idx a folder with an images file and perhaps a labels file, or an images file itself.
        train: False for the held-out part.
        image_size: of digits, in pixels a side.
        download: whether torchvision fetches what is missing of mnist, fashion or kmnist.

    Returns:
        The whole set, on the CPU.

    Raises:
        DataError: an unknown name, or files that are damaged or of something else.
        DataNotFound: missing files.

    Example:
        >>> ring = load("ring")
        >>> ring.size, ring.shape, ring.is_points
        (50000, (2,), True)
    """
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}; choose one of {', '.join(NAMES)}")
    if name == "digits":
        return _load_digits(image_size)
    if name in ("ring", "grid"):
        return _load_points(name, train)
    try:
        return _load_idx(root, train) if name == "idx" else _load_known(name, Path(root or "data"), train, download)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name}: {root} cannot be read: {error}") from error


def as_image_set(data: Any) -> ImageSet:
    """An ImageSet from an ImageSet, a name, a tensor, or a map-style Dataset of images or (image, label) pairs.

    Args:
        data: an ImageSet; a name that `load` knows; a tensor, uint8 in 0..255 or floats already in [-1, 1], [N, H, W],
            [N, C, H, W], [N, C, D, H, W] or [N, F], where F a square number of at least 16 is an image and anything else a
            point; or a Dataset whose items are PIL images or tensors of one shape. Image items in [0, 1], as ToTensor makes
            them, become uint8 where 8 bits hold every value, else 2 x - 1. Every item is read once, with the generators of
            torch, numpy and Python at fixed seeds: a random transform is drawn once, alike in every process, and said.

    Returns:
        The whole set; an ImageSet as it is.

    Raises:
        DataTypeError: other types, and tensors that are sparse or have no values.
        DataError: other shapes and values, channels last among them, and a length that is not the number of items.

    Example:
        >>> as_image_set(torch.rand(100, 784) * 2 - 1).shape, as_image_set(torch.rand(100, 3)).shape
        ((1, 28, 28), (3,))
    """
    if isinstance(data, ImageSet):
        convert.check_dense(data.images, data.name)
        return data
    if isinstance(data, str):
        return load(data)
    if isinstance(data, Tensor):
        return ImageSet("tensor", convert.from_tensor(data.detach(), "tensor"), given_shape=tuple(data.shape[1:]))
    if isinstance(data, type):
        raise DataTypeError(f"data is {describe(data)}: give an instance of it, {data.__name__}(...)")
    if isinstance(data, Mapping):
        first = next(map(repr, data), "...")
        raise DataTypeError(f"data is {describe(data)}: give one tensor or Dataset, such as data[{first}]")
    if isinstance(data, DataLoader):
        raise DataTypeError("a DataLoader was given; give its data set (loader.dataset): batches are drawn on the device")
    if isinstance(data, IterableDataset) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataTypeError(f"{type(data).__name__} has no length and no items by number; collect it in a tensor first")
    if hasattr(data, "__array__"):
        axes = convert.channels_first(getattr(data, "shape", ()))
        permuted = f".permute{axes}" if axes else ""
        array = "array" if isinstance(data, np.ndarray) else "numpy.asarray(data)"
        raise DataTypeError(f"{type(data).__name__} is an array; give torch.from_numpy({array}){permuted}")
    name = type(data).__name__
    return ImageSet(name, *dataset.from_dataset(data, name))


def modes(name: str) -> Tensor:
    """The centres of the modes of `ring` or `grid`; a point's label is the row of its centre.

    Args:
        name: "ring" or "grid".

    Returns:
        float32 [8, 2] or [25, 2].

    Raises:
        DataError: another name.

    Example:
        >>> modes("ring")[:2]
        tensor([[0.7500, 0.0000],
                [0.5303, 0.5303]])
    """
    if name == "ring":
        angles = torch.arange(RING_MODES, dtype=torch.float64) * (2 * math.pi / RING_MODES)
        return (RING_RADIUS * torch.stack((angles.cos(), angles.sin()), dim=1)).float()
    if name == "grid":
        axis = torch.linspace(-GRID_EXTENT, GRID_EXTENT, GRID_SIDE, dtype=torch.float64)
        return torch.cartesian_prod(axis, axis).float()
    raise DataError(f"{name!r} has no modes that can be counted; ring and grid have")


def _load_points(name: str, train: bool) -> ImageSet:
    centres = modes(name).double()
    labels = torch.arange(POINTS) % len(centres)
    word = sample.stream(sample.Role.DATA, index=("ring", "grid").index(name))
    # the reference in fp64, so that rounding to fp32 gives the same points, and fingerprint, on every machine
    noise = sample.normals(POINTS, 2, seed=0, step=int(not train), stream=word, dtype=torch.float64, backend="reference")
    return ImageSet(name, (centres[labels] + POINT_STD * noise).float(), labels)


def _load_digits(image_size: int) -> ImageSet:
    if not isinstance(image_size, int) or image_size < 1:
        raise DataError(f"image_size is {image_size!r}; a positive whole number is expected")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits needs scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).unsqueeze(1) * (255.0 / 16.0)  # [N, 1, 8, 8]
    resized = F.interpolate(grey, size=(image_size, image_size), mode="bilinear", antialias=True)
    # many values end in exactly 1/2: a nudge, so that their last bit, which differs between machines, does not decide
    return ImageSet("digits", (resized + 1e-6).round().to(torch.uint8), torch.from_numpy(bunch.target).long())


def _load_known(name: str, root: Path, train: bool, download: bool) -> ImageSet:
    root = root.expanduser()
    part = "train" if train else "t10k"
    stems = {"images": f"{part}-images-idx3-ubyte", "labels": f"{part}-labels-idx1-ubyte"}
    paths = _find_known(name, root, stems)
    if download and len(paths) < len(stems):
        _download(name, root)
        paths = _find_known(name, root, stems)
    if missing := [stem for kind, stem in stems.items() if kind not in paths]:
        raise DataNotFound(_how_to_get(name, root, missing))

    def check(kind: str, file: idx.Unpacked) -> None:
        _check_original(name, stems[kind], paths[kind], file)

    return _read_pair(name, paths["images"], paths["labels"], check, classes=CLASSES)


def _find_known(name: str, root: Path, stems: dict[str, str]) -> dict[str, Path]:
    """The files of a known set by kind, all from one folder: the first that holds any of them."""
    for folder in (root / TORCHVISION[name] / "raw", root):
        spelled = {kind: (stem, stem.replace("-idx", ".idx")) for kind, stem in stems.items()}
        wanted = {kind: [folder / f"{stem}{end}" for end in ("", ".gz") for stem in both] for kind, both in spelled.items()}
        found = {kind: next((path for path in paths if path.is_file()), None) for kind, paths in wanted.items()}
        if any(found.values()):
            return {kind: path for kind, path in found.items() if path is not None}
    return {}


def _how_to_get(name: str, root: Path, missing: list[str]) -> str:
    where = f"in {root} or {root / TORCHVISION[name] / 'raw'}" if root.is_dir() else f"in {root}, which is not a folder"
    command = f'python -c "import fastgan.data as d; d.load({name!r}, {str(root)!r}, download=True)"'
    return (
        f"{name}: there is no {' and no '.join(missing)} (plain or .gz) {where}. Put the original files there, or download "
        f"them: {command}. The data set digits (--data digits) needs no files."
    )


def _download(name: str, root: Path) -> None:
    from torchvision import datasets

    # without its constructor, which would load an old cache of pickled tensors if it found one
    fetcher = object.__new__(getattr(datasets, TORCHVISION[name]))
    fetcher.root = str(root)
    try:
        fetcher.download()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name} could not be downloaded to {root}: {error}") from error


def _check_original(name: str, stem: str, path: Path, file: idx.Unpacked) -> None:
    """Refuses an altered file of MNIST, and MNIST under the name of a set that has the same file names."""
    digest = file.sha256()
    if name == "mnist" and digest != MNIST_SHA256[stem]:
        raise DataError(f"{path} is not the original {stem} of mnist (SHA-256 {digest}); for other files use --data idx")
    if name != "mnist" and digest in MNIST_SHA256.values():
        raise DataError(f"{path} is a file of mnist, not of {name}")


def _load_idx(root: str | os.PathLike | None, train: bool) -> ImageSet:
    if root is None:
        raise DataNotFound("idx needs to know where: the folder of an IDX images file, or the file (--data-root, root=)")
    path = Path(root).expanduser()
    if path.is_file():
        return _read_pair("idx", path, None)
    if not path.is_dir():
        raise DataNotFound(f"{path}: there is no such file or folder")
    return _read_pair("idx", *_find_pair(path, train))


def _find_pair(folder: Path, train: bool) -> tuple[Path, Path | None]:
    """The images file of a folder and its labels file, if any, found by what the files hold, then by their names."""
    files = {path.name.removesuffix(".gz"): path for path in sorted(folder.iterdir(), reverse=True) if path.is_file()}
    kinds, problems = _kinds(files)
    images, labels = ([name for name, kind in kinds.items() if kind == which] for which in ("images", "labels"))
    if not images and problems:
        raise problems[0]
    if not images:
        raise DataNotFound(f"{folder} holds no IDX images file (magic number 0x00000803, plain or gzip)")
    words = ("train",) if train else ("test", "t10k")
    chosen = images if len(images) == 1 else [name for name in images if any(word in name for word in words)]
    if len(chosen) != 1:
        raise DataError(f"{folder} holds several IDX images files: {', '.join(sorted(images))}; give one of them as the root")
    partner = chosen[0].replace("images", "labels").replace("idx3", "idx1")
    if partner not in labels and len(images) == len(labels) == 1:
        partner = labels[0]
    return files[chosen[0]], files[partner] if partner in labels else None


def _kinds(files: dict[str, Path]) -> tuple[dict[str, str | None], list[DataError]]:
    """What each file begins like, and what is wrong with those that cannot be looked into."""
    kinds: dict[str, str | None] = {}
    problems = []
    for name, path in files.items():
        try:
            kinds[name] = idx.kind_of(path)
        except DataError as error:
            problems.append(error)
    return kinds, problems


def _read_pair(
    name: str,
    images_path: Path,
    labels_path: Path | None,
    check: Callable[[str, idx.Unpacked], None] = lambda kind, file: None,
    classes: int | None = None,
) -> ImageSet:
    """An images file and its labels file; `check` sees each whole file, `classes` bounds the labels."""
    file = idx.read(images_path, "images")
    check("images", file)
    images = file.values().unsqueeze(1)  # [N, 1, H, W]
    if labels_path is None:
        return ImageSet(name, images)
    file = idx.read(labels_path, "labels")
    check("labels", file)
    labels = file.values().long()
    if len(labels) != len(images):
        raise DataError(f"{labels_path} holds {len(labels):,} labels for the {len(images):,} images of {images_path}")
    if classes is not None and (highest := int(labels.max())) >= classes:
        raise DataError(f"{labels_path} holds the label {highest}; labels of {name} lie in 0..{classes - 1}")
    return ImageSet(name, images, labels)
