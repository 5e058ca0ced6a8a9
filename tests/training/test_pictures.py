"""What pictures of samples show, at which size, and in which formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastgan.cli.sample import ENDINGS
from fastgan.training.pictures import drawing, write_grid

PADDING = 2  # of a grid, around each picture


def drawn(folder: Path, samples: Tensor) -> np.ndarray:
    """The pixels of the picture, [height, width, 3]."""
    write_grid(folder / "drawn.png", samples)
    return np.asarray(Image.open(folder / "drawn.png").convert("RGB"))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((), "points"),
        ((1,), "points"),
        ((2,), "points"),
        ((3,), "lines"),
        ((784,), "lines"),
        ((1, 40), "lines"),
        ((4, 40), "lines"),
        ((1, 1, 40), "lines"),
        ((1, 2, 40), "lines"),
        ((3, 1, 40), "pictures"),
        ((4, 4), "pictures"),
        ((28, 28), "pictures"),
        ((1, 5, 5), "pictures"),
        ((3, 12, 16), "pictures"),
        ((5, 12, 16), None),
        ((1, 4, 5, 6), "pictures"),
        ((8, 4, 5, 6), None),
        ((1, 1, 4, 5, 6), None),
    ],
)
def test_a_shape_says_how_samples_are_drawn(shape: tuple[int, ...], kind: str | None, tmp_path: Path) -> None:
    assert drawing(shape) == kind
    samples = torch.zeros(3, *shape)
    if kind:
        assert drawn(tmp_path, samples).size
    else:
        with pytest.raises(ValueError, match="no picture"):
            write_grid(tmp_path / "none.png", samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "pixels"),
    [
        pytest.param((3, 5, 7), lambda s: s.permute(0, 2, 3, 1), id="colours"),
        pytest.param((1, 5, 7), lambda s: s.permute(0, 2, 3, 1).expand(-1, -1, -1, 3), id="grey"),
        pytest.param((5, 7), lambda s: s[..., None].expand(-1, -1, -1, 3), id="no channel"),
        pytest.param((2, 5, 7), lambda s: torch.cat((s[:, 0], s[:, 1]), 2)[..., None].expand(-1, -1, -1, 3), id="two greys"),
        pytest.param((3, 9, 5, 7), lambda s: s[:, :, 4].permute(0, 2, 3, 1), id="the middle of voxels"),
        pytest.param(
            (4, 5, 7),
            lambda s: (s[:, :3] * (s[:, 3:] + 1) / 2 + 1 - (s[:, 3:] + 1) / 2).permute(0, 2, 3, 1),
            id="opacity, on white",
        ),
    ],
)
def test_a_grid_holds_every_sample_in_its_place(shape: tuple[int, ...], pixels, dtype: torch.dtype, tmp_path: Path) -> None:
    samples = (torch.rand(4, *shape) * 2 - 1).to(dtype)
    expected = (pixels(samples.double()) + 1) * 127.5
    height, width = expected.shape[1:3]
    grid = torch.from_numpy(drawn(tmp_path, samples).copy()).double()
    assert grid.shape[:2] == (2 * (height + PADDING) + PADDING, 2 * (width + PADDING) + PADDING)
    for number in range(4):
        top, left = (
            PADDING + place * (extent + PADDING) for place, extent in zip(divmod(number, 2), (height, width), strict=True)
        )
        assert (grid[top : top + height, left : left + width] - expected[number]).abs().max() <= 1.0


def test_points_and_lines_show_something(tmp_path: Path) -> None:
    blank = {kind: drawn(tmp_path, torch.full((4, *shape), 5.0)) for kind, shape in {"points": (2,), "bars": (1,)}.items()}
    assert (drawn(tmp_path, torch.zeros(4, 2)) != blank["points"]).any()
    assert (drawn(tmp_path, torch.zeros(4, 1)) != blank["bars"]).any()
    one, other = (drawn(tmp_path, factor * torch.sin(torch.linspace(0, 9, 5000)).expand(4, 2, -1)) for factor in (1.0, 0.5))
    assert (one != 255).any() and (one != other).any()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 5, 7), (4, 5, 7), (2,), (1, 40)], ids=str)
def test_every_ending_is_a_format_of_every_picture(ending: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / f"picture{ending}"
    write_grid(path, torch.zeros(3, *shape))
    if ending == ".pdf":
        assert path.read_bytes().startswith(b"%PDF")
    else:
        assert Image.open(path).format == Image.registered_extensions()[ending]
