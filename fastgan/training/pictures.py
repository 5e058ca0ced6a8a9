"""Draws samples: images and voxels as a grid, points as a scatter plot, signals as lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MOST_CHANNELS = 4  # of a picture: grey, two greys side by side, colours, colours with opacity
LINE_POINTS = 1000  # of a signal; longer ones are thinned


def drawing(shape: Sequence[int]) -> str | None:
    """How samples of a shape are drawn.

    Args:
        shape: of one sample.

    Returns:
        "points" for up to two numbers; "lines" for more of them, and for signals, which are one to four long rows; "pictures"
        for images and voxels of up to four channels; None for all others.

    Example:
        >>> drawing((2,)), drawing((2, 500)), drawing((3, 32, 32)), drawing((64, 8, 8))
        ('points', 'lines', 'pictures', None)
    """
    if len(shape) < 2:
        return "points" if math.prod(shape) <= 2 else "lines"
    *channels, height, width = shape
    if math.prod(channels) == 1 and height <= MOST_CHANNELS and width > 4 * height:
        return "lines"
    return "pictures" if len(shape) == 2 or (len(shape) <= 4 and shape[0] <= MOST_CHANNELS) else None


def write_grid(path: Path, samples: Tensor) -> None:
    """Draws samples, with about as many rows as columns.

    Args:
        path: of the picture, whose ending says the format.
        samples: numbers in [-1, 1], [n, C, H, W], [n, C, D, H, W] (the slice in the middle), [n, H, W], or points and signals.

    Raises:
        ValueError: no picture shows samples of this shape.
    """
    samples = samples.detach().float().cpu()
    kind = drawing(samples.shape[1:])
    if kind is None:
        raise ValueError(f"samples of shape {tuple(samples.shape[1:])} have no picture; numbers are Trainer.sample's")
    if kind == "pictures":
        _grid(path, _as_pictures(samples))
    elif kind == "lines":
        _lines(path, samples.flatten(1, -2) if samples.dim() > 2 else samples.unsqueeze(1))
    else:
        _points(path, samples.flatten(1) if samples.dim() > 1 else samples.unsqueeze(1))


def _columns(count: int) -> int:
    return max(1, round(count**0.5))


def _as_pictures(samples: Tensor) -> Tensor:
    """[n, 1, H, W] or [n, 3, H, W]."""
    if samples.dim() == 3:
        return samples.unsqueeze(1)
    if samples.dim() == 5:
        samples = samples[:, :, samples.shape[2] // 2]
    if samples.shape[1] == 2:
        return torch.cat(samples.split(1, dim=1), dim=3)
    if samples.shape[1] == 4:
        opacity = (samples[:, 3:] + 1) / 2
        return samples[:, :3] * opacity + (1 - opacity)  # on white
    return samples


def _grid(path: Path, pictures: Tensor) -> None:
    from torchvision.utils import save_image  # it costs more time than all of fastgan: who wants a loss alone does not pay it

    save_image(pictures, path, nrow=_columns(len(pictures)), normalize=True, value_range=(-1, 1))


def figure(width: float, height: float):
    """A figure of matplotlib, in inches; the object interface leaves a caller's own pyplot state and backend alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def _save(drawn, path: Path) -> None:
    """By Pillow, which writes the same formats for figures as for grids."""
    drawn.canvas.draw()
    Image.fromarray(np.asarray(drawn.canvas.buffer_rgba())).convert("RGB").save(path)


def _points(path: Path, points: Tensor) -> None:
    drawn = figure(4, 4)
    if points.shape[1] == 1:
        drawn.add_subplot(xlim=(-1.1, 1.1)).hist(points[:, 0].numpy(), bins=60, range=(-1.1, 1.1))
    else:
        axes = drawn.add_subplot(aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
        axes.scatter(*points.T.numpy(), s=4, alpha=0.5)
    _save(drawn, path)


def _lines(path: Path, signals: Tensor) -> None:
    """Signals [n, C, T], each in a place of its own, with a colour for each channel."""
    from matplotlib.collections import LineCollection

    signals = signals[..., :: -(-signals.shape[2] // LINE_POINTS)]
    count, channels, length = signals.shape
    columns = _columns(count)
    place = torch.arange(count)
    x = (place % columns)[:, None] + torch.linspace(0.05, 0.95, length)
    y = 0.45 * signals.clamp(-1, 1) - (place // columns)[:, None, None]
    rows = -(-count // columns)
    drawn = figure(8, 8)
    axes = drawn.add_subplot(xlim=(0, columns), ylim=(0.5 - rows, 0.5))
    axes.axis("off")
    for channel in range(channels):
        lines = list(torch.stack((x, y[:, channel]), dim=2).numpy())
        axes.add_collection(LineCollection(lines, colors=f"C{channel}", linewidths=0.8))
    _save(drawn, path)
