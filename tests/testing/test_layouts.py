"""Penalties of one kind of rows, or of one batch size, are asked with these; what is wrong with them shows all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgan import penalties, testing
from fastgan.testing.faults import Check, Fault, collect
from tests.testing.test_penalties import Call, compose, gp, mixed, names, squared, wide

pytestmark = pytest.mark.usefixtures("one_thread")


def flat(real: Tensor) -> Tensor:
    return torch.rand(len(real), 1)


def norm_of_rows(g: Tensor) -> Tensor:
    """Of flat rows; of images it is one for each pixel."""
    return wide(g).norm(2, dim=1)


def of_size(size: int, *dims: int) -> Call:
    """Interpolation with as many alphas as a constant says."""
    return gp(points=mixed(lambda real: torch.rand(size, *dims)))


def of_shape(size: int, *shape: int) -> Call:
    """Interpolation with the data's shape in it, as scripts of the first years have it."""

    def points(real: Tensor, fake: Tensor) -> Tensor:
        alpha = torch.rand(size, 1).expand(size, real.nelement() // size).contiguous().view(size, *shape)
        return alpha * real + (1 - alpha) * fake

    return gp(points=points)


def made_flat(size: Call = norm_of_rows, alpha: Call = flat) -> Call:
    """A penalty that flattens what it is given, and asks a critic of flat rows."""
    inner = gp(points=mixed(alpha), size=size)
    return lambda critic, real, fake: inner(critic, real.view(len(real), -1), fake.reshape(len(fake), -1))


def made_images(*shape: int) -> Call:
    """A penalty that makes images, or signals, of flat rows."""
    inner = gp(points=mixed(lambda real: torch.rand(len(real), *[1] * (real.dim() - 1))))
    return lambda critic, real, fake: inner(critic, real.view(len(real), -1, *shape), fake.view(len(fake), -1, *shape))


RIGHT: dict[str, tuple[Call, dict[str, Any]]] = {
    "flat rows": (gp(points=mixed(flat), size=norm_of_rows), {}),
    "16 features": (gp(points=mixed(flat), size=norm_of_rows), {"shape": (16,)}),
    "one feature": (gp(points=mixed(flat), size=norm_of_rows), {"shape": [1]}),
    "signals": (gp(points=mixed(lambda real: torch.rand(len(real), 1, 1))), {}),
    "signals of a shape": (gp(points=mixed(lambda real: torch.rand(len(real), 1, 1))), {"shape": torch.Size((9, 2))}),
    "sum over time and channels": (
        gp(
            points=mixed(lambda real: torch.rand(len(real), 1, 1)),
            size=lambda g: (wide(g).square().sum([1, 2]) + 1e-12).sqrt(),
        ),
        {},
    ),
    "voxels": (gp(points=mixed(lambda real: torch.rand(len(real), 1, 1, 1, 1))), {}),
    "64 images": (of_size(64, 1, 1, 1), {}),
    "16 images": (of_size(16, 1, 1, 1), {}),
    "37 images": (of_size(37, 1, 1, 1), {}),
    "one image": (of_size(1, 1, 1, 1), {"batch_size": 1}),
    "50 flat rows": (of_size(50, 1), {}),
    "16 rows of 16": (of_size(16, 1), {"shape": (16,)}),
    "6 signals": (of_size(6, 1, 1), {}),
    "300 images": (of_size(300, 1, 1, 1), {"batch_size": 300}),
    "images made flat": (made_flat(), {}),
    "images made flat, of a shape": (made_flat(), {"shape": (3, 8, 8)}),
    "voxels made flat": (made_flat(), {"shape": (1, 2, 4, 4)}),
    "flat rows made images": (made_images(4, 4), {"shape": (16,)}),
    "flat rows made signals": (made_images(8), {"shape": (24,)}),
    "CIFAR's shape": (of_shape(64, 3, 32, 32), {}),
    "MNIST's rows": (of_shape(50, 784), {}),
}


@pytest.mark.parametrize(("penalty", "options"), RIGHT.values(), ids=RIGHT)
def test_right_penalties_of_some_rows_conform(penalty: Call, options: dict[str, Any]) -> None:
    assert testing.diagnose_gradient_penalty(penalty, **options) == ()
    testing.check_gradient_penalty(penalty, **options)


WRONG: dict[str, tuple[set[str], Call, dict[str, Any]]] = {
    "flat rows, squared": (
        {"squared norm instead of the norm"},
        gp(points=mixed(flat), size=lambda g: wide(g).square().sum(1)),
        {},
    ),
    "flat rows, one alpha for each number": (
        {"one alpha per element"},
        gp(points=mixed(torch.rand_like), size=norm_of_rows),
        {"shape": (784,)},
    ),
    "64 images, one alpha": ({"one alpha for the whole batch"}, gp(points=mixed(lambda x: torch.rand(1))), {"batch_size": 64}),
    "64 images, whole norm": (
        {"norm over the whole batch"},
        gp(points=mixed(lambda real: torch.rand(64, 1, 1, 1)), size=lambda g: g.norm(2)),
        {},
    ),
    "64 images, normal alpha": (
        {"alpha not uniform in [0, 1]"},
        gp(points=mixed(lambda real: torch.randn(64, 1, 1, 1))),
        {},
    ),
    "one alpha for each channel": (
        {"one alpha per element"},
        gp(points=mixed(lambda real: torch.rand(*real.shape[:2], 1, 1))),
        {},
    ),
    "one alpha for each channel of voxels": (
        {"one alpha per element"},
        gp(points=mixed(lambda real: torch.rand(*real.shape[:2], 1, 1, 1))),
        {},
    ),
    "a bell of alphas": (
        {"alpha not uniform in [0, 1]"},
        gp(points=mixed(lambda real: torch.distributions.Beta(2.0, 2.0).sample((len(real), 1, 1, 1)))),
        {},
    ),
    "made flat, squared": (
        {"squared norm instead of the norm"},
        made_flat(size=lambda g: wide(g).square().sum(1)),
        {},
    ),
    "made flat, an alpha for each number": ({"one alpha per element"}, made_flat(alpha=torch.rand_like), {"shape": (3, 4, 5)}),
    "flat rows given images": ({"raises an error"}, gp(points=mixed(flat)), {"shape": (3, 4, 6)}),
    "64 given 16": ({"raises an error"}, of_size(64, 1, 1, 1), {"batch_size": 16, "shape": (3, 5, 7)}),
}


@pytest.mark.parametrize(("expected", "penalty", "options"), WRONG.values(), ids=WRONG)
def test_a_mistake_with_some_rows_has_a_name(expected: set[str], penalty: Call, options: dict[str, Any]) -> None:
    assert names(testing.diagnose_gradient_penalty(penalty, **options)) == expected


@pytest.mark.parametrize("diagnose", [testing.diagnose_r1_penalty, testing.diagnose_r2_penalty], ids=["r1", "r2"])
def test_squared_penalties_of_some_rows(diagnose: Callable) -> None:
    of_rows = squared(size=lambda g: wide(g).square().sum(1))
    assert diagnose(of_rows, shape=(16,)) == ()
    assert names(diagnose(of_rows)) == {"norm over the channels only"}, "of images it is one for each pixel"
    assert names(diagnose(of_rows, shape=(4, 5))) == {"norm over the channels only"}
    assert diagnose(squared(size=lambda g: wide(g).square().sum([1, 2, 3]))) == ()
    assert diagnose(squared(points=lambda x, _: x.view(32, 3, 8)), batch_size=32, shape=(3, 8)) == ()


@pytest.mark.filterwarnings("ignore:std")  # of one number
@pytest.mark.parametrize("dims", [(1,), (1, 1), (1, 1, 1)], ids=["flat", "signals", "images"])
def test_dragan_of_some_rows(dims: tuple[int, ...]) -> None:
    def penalty(critic: Call, real: Tensor) -> Tensor:
        step = torch.rand(len(real), *dims)
        return compose(critic, real, real, points=lambda x, _: x + step * 0.5 * x.std() * torch.rand_like(x))

    sample = (4, 3, 5)[: len(dims)]
    assert testing.diagnose_dragan_penalty(penalty, shape=sample) == ()
    assert testing.diagnose_dragan_penalty(penalty, shape=sample, batch_size=64) == ()
    assert testing.diagnose_dragan_penalty(penalty, shape=(1,) * len(dims)) == ()


def test_the_pair_of_a_value_and_gradients_is_a_note() -> None:
    def penalty(critic: Call, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return gp()(critic, real, fake), real

    (note,) = testing.diagnose_gradient_penalty(penalty)
    assert note.is_note and note.name == "a tuple, whose first element is the value"
    testing.check_gradient_penalty(penalty)
    (note,) = testing.diagnose_gradient_penalty(lambda *batch: gp()(*batch).view(1))
    assert note.is_note and "got [1]" in note.evidence


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TypeError, {"shape": 16}),
        (TypeError, {"shape": "16"}),
        (TypeError, {"shape": (1.5,)}),
        (TypeError, {"batch_size": 6.0}),
        (TypeError, {"batch_size": True}),
        (ValueError, {"shape": ()}),
        (ValueError, {"shape": (3, 0)}),
        (ValueError, {"batch_size": 0}),
    ],
    ids=str,
)
def test_rows_that_are_none_are_refused(error: type[Exception], options: dict[str, Any]) -> None:
    (name,) = options
    for diagnose in (
        testing.diagnose_gradient_penalty,
        testing.diagnose_dragan_penalty,
        testing.diagnose_r1_penalty,
        testing.check_r2_penalty,
        testing.diagnose_d_step,
    ):
        with pytest.raises(error, match=name):
            diagnose(gp(), **options)


@pytest.mark.parametrize("refused", [None, torch.float64], ids=["all", "no fp64"])
def test_rows_are_fp64_where_they_are_taken(refused: torch.dtype | None) -> None:
    """So that no rounding is taken for a fault: values are asked in one dtype, and that is the widest."""
    asked: list[torch.dtype] = []

    def penalty(critic: Any, real: Tensor, fake: Tensor) -> Tensor:
        if real.dtype == refused:
            raise TypeError("no fp64")
        asked.append(real.dtype)
        return penalties.gradient_penalty(critic, real, fake)

    assert testing.diagnose_gradient_penalty(penalty) == ()
    wide = torch.float64 if refused is None else torch.float32
    assert asked.count(wide) > len(asked) / 2


def test_who_takes_no_single_row_is_asked_with_several_sizes() -> None:
    """And not with one alone, where a mean over rows and a norm over the batch could be confused."""
    sizes: set[int] = set()

    def penalty(critic: Any, real: Tensor, fake: Tensor) -> Tensor:
        if len(real) < 2:
            raise ValueError("one row has no std")
        sizes.add(len(real))
        return penalties.gradient_penalty(critic, real, fake)

    assert testing.diagnose_gradient_penalty(penalty) == ()
    assert {2, 5, 16} <= sizes


def test_the_first_of_several_faults_of_a_name_is_reported() -> None:
    faults = [Fault("halved", f"evidence {number}", "double it") for number in range(3)]
    found = collect((Check(lambda subject: faults[:2]), Check(lambda subject: faults[2:])), None)
    assert found == (faults[0],)
