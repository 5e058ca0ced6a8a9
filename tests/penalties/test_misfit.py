"""Critics and rows that do not fit each other: an error that names the argument and what to write; a critic's own pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan.penalties import dragan_penalty, gradient_penalty, r1_penalty, r2_penalty


def flat(width: int = 12, activation: type[nn.Module] = nn.ELU) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 8), activation(), nn.Linear(8, 1))


def conv(kind: Any = nn.Conv2d, channels: int = 3) -> nn.Module:
    return nn.Sequential(kind(channels, 4, 2), nn.ELU(), nn.Flatten(), nn.LazyLinear(1))


class Class(nn.Module):
    def __init__(self, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.prepare = flat(), prepare

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.prepare(x))


def unpacked(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c * h * w)


def unpacked_flat(x: Tensor) -> Tensor:
    b, w = x.shape
    return x.view(b, w)


def conditional(critic: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: critic(x)


ROWS, IMAGES = torch.randn(4, 12), torch.randn(4, 3, 2, 2)

SHAPES: dict[str, tuple[Any, Tensor, str]] = {
    "images for a flat critic": (
        flat(),
        IMAGES,
        "(4, 3, 2, 2) do not fit the critic, which takes 12 numbers: write {}.flatten(1)",
    ),
    "images for an MLP": (flat(12, nn.ReLU), IMAGES, "which takes 12 numbers: write {}.flatten(1)"),
    "images for a function": (conditional(flat()), IMAGES, "which takes 12 numbers: write {}.flatten(1)"),
    "another width": (flat(), ROWS[:, :5], "which takes 12 numbers: pass rows of 12 numbers"),
    "another width for an MLP": (flat(7, nn.ReLU), ROWS, "which takes 7 numbers: pass rows of 7 numbers"),
    "another width for one layer": (nn.Sequential(nn.Linear(5, 1), nn.Tanh()), ROWS, "which takes 5 numbers: pass rows of 5"),
    "layer norm": (nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 1)), IMAGES, "takes 12 numbers: write {}.flatten(1)"),
    "batch norm": (
        nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 1)),
        ROWS,
        "write {}.unflatten(1, sizes) with 3",
    ),
    "a view": (Class(lambda x: x.view(-1, 12)), ROWS[:, :7], "shape '[-1, 12]' is invalid"),
    "a shape of images": (Class(unpacked), ROWS, "which takes 4 dimensions: write {}.unflatten(1, sizes) with 3 sizes"),
    "a shape of rows": (Class(unpacked_flat), IMAGES, "which takes 2 dimensions: write {}.flatten(1)"),
    "rows for images": (conv(), ROWS, "first Conv2d takes [B, 3, height, width]: write {}.unflatten(1, (3, height, width))"),
    "rows for signals": (conv(nn.Conv1d, 2), ROWS, "first Conv1d takes [B, 2, length]: write {}.unflatten(1, (2, length))"),
    "channels last": (conv(), IMAGES.movedim(1, -1), "takes [B, 3, height, width]: write {}.movedim(-1, 1)"),
    "no channels": (conv(channels=1), IMAGES[:, 0], "takes [B, 1, height, width]: write {}.unsqueeze(1)"),
    "gray images": (conv(), IMAGES[:, :1], "takes [B, 3, height, width]: pass rows of that shape"),
}


@pytest.mark.parametrize(("critic", "rows", "message"), SHAPES.values(), ids=SHAPES)
def test_another_shape(critic: Any, rows: Tensor, message: str) -> None:
    for call, name in ((r1_penalty, "real"), (r2_penalty, "fake"), (dragan_penalty, "real")):
        with pytest.raises(ValueError, match=f"^{name} of shape.*{re.escape(message.format(name))}") as raised:
            call(critic, rows)
        assert raised.value.__cause__ is not None
    with pytest.raises(ValueError, match=f"^real and fake of shape.*{re.escape(message.format('real'))}"):
        gradient_penalty(critic, rows, rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("critic", [flat(), flat(12, nn.LeakyReLU), conditional(flat())], ids=["ELU", "MLP", "function"])
def test_another_dtype(critic: Any, dtype: torch.dtype) -> None:
    other = ROWS.to(dtype)
    with pytest.raises(
        TypeError, match=rf"real is {dtype}, the critic's weights are torch.float32: write real\.to\(torch.float32\)"
    ):
        r1_penalty(critic, other)
    both = r"real is .* and fake is .*: write real\.to\(torch.float32\) and fake\.to\(torch.float32\)"
    with pytest.raises(TypeError, match=both):
        gradient_penalty(critic, other, other)


def test_the_side_of_another_dtype_is_named() -> None:
    with pytest.raises(TypeError, match=r"^fake is torch.float64, the critic's weights are torch.float32: write fake\.to"):
        gradient_penalty(flat(), ROWS, ROWS.double())
    with pytest.raises(TypeError, match=r"^real is torch.float32, the critic's weights are torch.float64: write real\.to"):
        dragan_penalty(conv().double(), IMAGES)


def raising(error: Exception) -> nn.Module:
    def prepare(x: Tensor) -> Tensor:
        raise error

    return Class(prepare)


def too_narrow_inside() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.ELU(), nn.Linear(9, 1))


OWN: dict[str, tuple[Any, Tensor]] = {
    "its own error": (raising(KeyError("label")), ROWS),
    "its own words of shapes": (raising(RuntimeError("no shape for dtype")), ROWS.double()),
    "its own value error": (raising(ValueError("expected 3 labels")), ROWS),
    "layers that do not fit each other": (too_narrow_inside(), ROWS),
    "of the rows' width": (nn.Sequential(nn.Linear(12, 12), nn.ELU(), nn.Linear(9, 1)), ROWS),
    "another size of images": (nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 1)), torch.randn(4, 3, 5, 5)),
    "two dtypes inside": (nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 1).double()), ROWS),
    "unpacked inside": (Class(lambda x: unpacked_flat(x[:, None, :]).flatten(1)), ROWS[:, None, :].flatten(1)),
}


@pytest.mark.parametrize(("critic", "rows"), OWN.values(), ids=OWN)
def test_a_critics_own_error_passes(critic: Any, rows: Tensor) -> None:
    with pytest.raises(Exception) as plain:  # whatever it raises
        critic(rows)
    with pytest.raises(type(plain.value)) as raised:
        r1_penalty(critic, rows)
    assert str(raised.value) == str(plain.value) and raised.value.__cause__ is None
