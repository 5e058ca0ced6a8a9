"""Arguments of penalties: what can only mean one thing is taken, everything else is refused by name, with what to write."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastgan import penalties
from fastgan.penalties import (
    DRAGAN,
    R1,
    R2,
    GradientPenalty,
    WeightClip,
    dragan_penalty,
    gradient_penalty,
    r1_penalty,
    r2_penalty,
)

B, SHAPE = 4, (4, 3, 2, 2)


def critic() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1)).double()


def rows(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CALLS: dict[str, Callable[..., Tensor]] = {
    "gradient_penalty": lambda d, real, **how: gradient_penalty(d, real, real, **how),
    "r1_penalty": r1_penalty,
    "r2_penalty": r2_penalty,
    "dragan_penalty": dragan_penalty,
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def penalty_at(weights: Tensor, d: nn.Module) -> Tensor:
    """WGAN-GP's penalty where `weights` [B] say, a row at a time."""
    values = []
    for real, fake, weight in zip(rows(0), rows(1), weights, strict=True):
        point = (real + weight * (fake - real))[None].requires_grad_()
        (gradient,) = torch.autograd.grad(d(point).sum(), point)
        values.append((gradient.norm() - 1).square())
    return 10 * torch.stack(values).mean()


EACH = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
HALF = torch.full((B,), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("alpha", "weights"),
    [
        (0.5, HALF),
        (1, torch.ones(B, dtype=torch.float64)),
        (0, torch.zeros(B, dtype=torch.float64)),
        (np.float32(0.5), HALF),
        (np.float64(0.5), HALF),
        (Fraction(1, 2), HALF),
        (torch.tensor(0.5), HALF),
        (torch.tensor(0.5, dtype=torch.float64, requires_grad=True), HALF),
        (torch.tensor(1), torch.ones(B, dtype=torch.float64)),
        (EACH, EACH),
        (EACH.view(B, 1), EACH),
        (EACH.view(B, 1, 1, 1).float(), EACH),
        (torch.tensor([0, 1, 1, 0]), torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)),
    ],
)
def test_alpha(alpha: Any, weights: Tensor) -> None:
    d = critic()
    value = gradient_penalty(d, rows(0), rows(1), alpha=alpha)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, penalty_at(weights, d))


def test_alpha_of_one_row() -> None:
    for alpha in (0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([[0.5]])):
        value = gradient_penalty(lambda x: x.square().sum((1, 2, 3)), rows(0)[:1], rows(1)[:1], alpha=alpha)
        middle = (rows(0)[:1] + rows(1)[:1]) / 2
        torch.testing.assert_close(value, 10 * (2 * middle.norm() - 1).square())


def test_alpha_as_a_number_draws_nothing_and_keeps_half_precision() -> None:
    before = torch.get_rng_state()
    seen: list[torch.dtype] = []

    def d(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x.flatten(1).sum(1)

    assert gradient_penalty(d, rows().bfloat16(), rows(1).bfloat16(), alpha=0.5).dtype == torch.float32
    assert seen == [torch.bfloat16] and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("alpha", "error", "words"),
    [
        ("0.5", TypeError, "alpha must be a number .*'0.5'"),
        ([0.5] * B, TypeError, "alpha must be a number .*list"),
        (np.full(B, 0.5), TypeError, "alpha must be a number .*ndarray"),
        (True, TypeError, "alpha must be a number .*True"),
        (lambda: 0.5, TypeError, "alpha must be a number .*function"),
        (torch.full((B,), 0.5j), TypeError, "alpha .*complex"),
        (1.5, ValueError, r"alpha must be in \[0, 1\], got 1.5"),
        (-0.1, ValueError, r"alpha must be in \[0, 1\]"),
        (float("nan"), ValueError, r"alpha must be in \[0, 1\], got nan"),
        (torch.rand(1), ValueError, r"alpha is one weight per sample, \[4\].*\(1,\).*0-d"),
        (torch.rand(1, 1, 1, 1), ValueError, "alpha is one weight per sample"),
        (torch.rand(1, B), ValueError, "alpha is one weight per sample"),
        (torch.rand(SHAPE), ValueError, r"alpha is one weight per sample.*alpha\.flatten\(1\)\[:, 0\]"),
        (torch.rand(B, device="meta"), ValueError, r"alpha is on meta and real on cpu: write alpha\.to\(real\.device\)"),
    ],
)
def test_alpha_that_is_refused(alpha: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gradient_penalty(critic(), rows(0), rows(1), alpha=alpha)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            rows(),
            r"critic must be .*as in r1_penalty\(critic, real\); got a tensor of \S+, shape \(4, 3, 2, 2\)",
        ),
        (nn.Linear, r"critic must be .*write Linear\(\.\.\.\), an instance of it; got the class \S+\.Linear"),
        (None, "critic must be .*None"),
        ("critic", "critic must be .*'critic'"),
        ([critic()], "critic must be .*list"),
        ({"critic": critic()}, "critic must be .*dict"),
        (5, "critic must be .*5"),
        (R1(), r"R1 is a spec.*r1_penalty\(critic, real\)"),
    ],
)
@pytest.mark.parametrize("method", ["auto", "autograd"])
@every_call
def test_a_critic_that_is_none(call: Callable[..., Tensor], wrong: Any, words: str, method: str) -> None:
    with pytest.raises(TypeError, match=words):
        call(wrong, rows(), method=method)


def test_arguments_in_another_order() -> None:
    d, real, fake = critic(), rows(0), rows(1)
    for call in (
        lambda: r1_penalty(d(real), real),
        lambda: r1_penalty(real, d),
        lambda: r2_penalty(fake, d),
        lambda: dragan_penalty(real, d),
        lambda: gradient_penalty(real, fake, d),
        lambda: gradient_penalty(real, d, fake),
    ):
        with pytest.raises(TypeError, match=r"critic must be .*comes before the rows"):
            call()
    with pytest.raises(TypeError, match=r"fake must be a tensor.*Sequential: the critic comes first"):
        gradient_penalty(d, real, d)


IMAGES = [np.zeros(SHAPE, np.float32), list(rows()), (rows(), torch.zeros(B)), {"image": rows()}, None, "real", 3.0]
REMEDIES = [
    r"torch\.from_numpy\({0}\)",
    r"{0}\[0\].*torch\.stack\({0}\)",
    r"{0}\[0\]",
    r'{0}\["image"\]',
    "None",
    "'real'",
    "3.0",
]


@pytest.mark.parametrize(("wrong", "remedy"), [*zip(IMAGES, REMEDIES, strict=True)], ids=lambda value: type(value).__name__)
def test_rows_that_are_no_tensor(wrong: Any, remedy: str) -> None:
    d, right = critic(), rows()
    for name, call in (
        ("real", lambda: gradient_penalty(d, wrong, right)),
        ("fake", lambda: gradient_penalty(d, right, wrong)),
        ("real", lambda: gradient_penalty(d, fake=right, real=wrong)),
        ("real", lambda: r1_penalty(d, wrong)),
        ("fake", lambda: r2_penalty(d, wrong)),
        ("real", lambda: dragan_penalty(d, wrong)),
    ):
        with pytest.raises(TypeError, match=f"{name} must be a tensor of floating-point rows.*{remedy.format(name)}"):
            call()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64], ids=str)
def test_rows_that_are_no_floating_point_numbers(dtype: torch.dtype) -> None:
    wrong = rows().abs().to(dtype)
    for call in CALLS.values():
        with pytest.raises(TypeError, match=rf"must be a tensor of floating-point rows, got {dtype}.*\.float\(\)"):
            call(critic(), wrong)
    with pytest.raises(TypeError, match=f"fake must be .*{dtype}"):
        gradient_penalty(critic(), rows(), wrong)


@pytest.mark.parametrize("shape", [(), (0, 3, 2, 2), (4, 0)], ids=str)
def test_no_rows(shape: tuple[int, ...]) -> None:
    for call in CALLS.values():
        with pytest.raises(ValueError, match=r"(real|fake) has no rows, shape"):
            call(critic(), torch.zeros(shape))
    with pytest.raises(ValueError, match="fake has no rows"):
        gradient_penalty(critic(), rows(), torch.zeros(shape))


def test_one_number_has_no_spread() -> None:
    with pytest.raises(ValueError, match="one number, which has no std"):
        dragan_penalty(lambda x: x, torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4, 12), r"write fake\.view_as\(real\)"),
        ((4, 2, 2, 3), r"same order, write fake\.view_as\(real\)"),
        ((3, 3, 2, 2), "equally many, of one size"),
        ((4, 1, 2, 2), "equally many, of one size"),
        ((12, 1, 2, 2), "equally many, of one size"),
    ],
    ids=str,
)
def test_pairs_of_another_shape(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=rf"real and fake differ in shape, \(4, 3, 2, 2\) and .*{words}"):
        gradient_penalty(critic(), rows(), rows(1, shape))


def test_pairs_on_two_devices() -> None:
    with pytest.raises(ValueError, match=r"real is on cpu and fake on meta: write fake\.to\(real\.device\)"):
        gradient_penalty(critic(), rows(), rows(1).to("meta"))


AMOUNTS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "gradient_penalty, weight": ("weight", lambda x: gradient_penalty(critic(), rows(), rows(1), weight=x)),
    "gradient_penalty, target": ("target", lambda x: gradient_penalty(critic(), rows(), rows(1), target=x)),
    "r1_penalty": ("gamma", lambda x: r1_penalty(critic(), rows(), gamma=x)),
    "r2_penalty": ("gamma", lambda x: r2_penalty(critic(), rows(), gamma=x)),
    "dragan_penalty, weight": ("weight", lambda x: dragan_penalty(critic(), rows(), weight=x)),
    "dragan_penalty, std_scale": ("std_scale", lambda x: dragan_penalty(critic(), rows(), std_scale=x)),
    "GradientPenalty": ("weight", GradientPenalty),
    "GradientPenalty, target": ("target", lambda x: GradientPenalty(10.0, x)),
    "DRAGAN": ("weight", DRAGAN),
    "DRAGAN, target": ("target", lambda x: DRAGAN(target=x)),
    "DRAGAN, std_scale": ("std_scale", lambda x: DRAGAN(10.0, 1.0, x)),
    "R1": ("gamma", R1),
    "R2": ("gamma", lambda x: R2(gamma=x)),
    "WeightClip": ("bound", WeightClip),
}


@pytest.mark.parametrize(("name", "call"), AMOUNTS.values(), ids=AMOUNTS)
def test_amounts_of_another_kind(name: str, call: Callable[[Any], object]) -> None:
    for wrong in ("10", None, [10.0], (10.0,), np.ones(1), 1j, True):
        with pytest.raises(TypeError, match=f"{name} must be a number, got"):
            call(wrong)
    with pytest.raises(TypeError, match=rf"{name} must be a number, got a tensor of \S+, shape \(\): multiply .*\.item\(\)"):
        call(torch.tensor(10.0))
    with pytest.raises(TypeError, match=rf"{name} must be a number, got a module of \S+\.Linear: .*r1_penalty\(critic, real\)"):
        call(nn.Linear(2, 1))
    for wrong in (-1, -0.5, float("nan"), float("inf"), np.float32("nan")):
        with pytest.raises(ValueError, match=f"{name} must be a finite number >"):
            call(wrong)


def test_amounts_of_numpy_are_plain_numbers() -> None:
    specs = (GradientPenalty(np.float32(5), np.float64(1), every=np.int64(2)), R1(np.int32(3)), WeightClip(np.float16(0.5)))
    assert specs == (GradientPenalty(5.0, 1.0, every=2), R1(3.0), WeightClip(0.5))
    assert penalties.from_config(json.loads(json.dumps(penalties.to_config(specs)))) == specs
    torch.testing.assert_close(r1_penalty(critic(), rows(), gamma=np.float32(2)), r1_penalty(critic(), rows(), gamma=2))


def test_a_flag_is_no_number() -> None:
    """GradientPenalty(10, 1, 5) is somebody's `every`, r1's third argument: it is no one_sided."""
    for call in (
        lambda: GradientPenalty(10.0, 1.0, 5),
        lambda: GradientPenalty(10.0, 1.0, 1),
        lambda: GradientPenalty(one_sided="no"),
        lambda: GradientPenalty(one_sided=None),
        lambda: gradient_penalty(critic(), rows(), rows(1), one_sided=1),
    ):
        with pytest.raises(TypeError, match="one_sided must be True or False, got"):
            call()
    with pytest.raises(TypeError, match="target must be a number, got True"):
        GradientPenalty(10.0, True)


@pytest.mark.parametrize(
    "wrong",
    [0, "cpu", torch.manual_seed, np.random.default_rng(0)],
)
def test_a_generator_that_is_none(wrong: Any) -> None:
    for call in (
        functools.partial(gradient_penalty, critic(), rows(), rows(1)),
        functools.partial(dragan_penalty, critic(), rows()),
    ):
        with pytest.raises(TypeError, match=r"generator must be a torch\.Generator.*manual_seed"):
            call(generator=wrong)


@pytest.mark.parametrize(
    ("wrong", "error"), [("closed", ValueError), (None, TypeError), (torch.tensor(1), TypeError), (5, TypeError)]
)
@every_call
def test_a_method_that_is_none(call: Callable[..., Tensor], wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match='method must be "auto" or "autograd", got'):
        call(critic(), rows(), method=wrong)


def test_a_refused_call_draws_nothing() -> None:
    before, d = torch.get_rng_state(), nn.Flatten()
    for call in (
        lambda: gradient_penalty(d, rows(), rows(1), weight="10"),
        lambda: gradient_penalty(d, rows(), rows(1), method="closed"),
        lambda: dragan_penalty(d, rows(), std_scale=None),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert torch.equal(torch.get_rng_state(), before)
