"""Penalties on critics whose gradient is known: values, points, parameter gradients; and the specs the trainer takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgan import penalties
from fastgan.ops.sample import Draws
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

Critic = Callable[[Tensor], Tensor]
SPECS = (GradientPenalty(), DRAGAN(), R1(), R2())
FLAT, IMAGES = (6, 5), (3, 2, 4, 4)


def rows(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def linear_critic(shape: tuple[int, ...], norm: float) -> Critic:
    """D(x) = <w, x> + 2 with |w| = norm over all of a sample's dimensions: its gradient is w everywhere."""
    weight = torch.randn(shape[1:], dtype=torch.float64)
    weight *= norm / weight.square().sum().sqrt()
    return lambda x: (x * weight).flatten(1).sum(1, keepdim=True) + 2.0


def quadratic(x: Tensor) -> Tensor:
    """D(x) = |x|^2 / 2, whose gradient is x itself."""
    return 0.5 * x.flatten(1).square().sum(1, keepdim=True)


def smooth_critic(inputs: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def norms(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1).sqrt()


class Recorder:
    """A critic that keeps the points it was asked at."""

    def __call__(self, x: Tensor) -> Tensor:
        self.points = x.detach().clone()
        return quadratic(x)


@pytest.mark.parametrize("shape", [FLAT, IMAGES, (1, 7), (5, 1)], ids=str)
@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_a_linear_critic_has_a_known_penalty(shape: tuple[int, ...], norm: float) -> None:
    critic, real, fake = linear_critic(shape, norm), rows(*shape), rows(*shape)
    assert gradient_penalty(critic, real, fake).item() == pytest.approx(10 * (norm - 1) ** 2, rel=1e-12, abs=1e-24)
    assert gradient_penalty(critic, real, fake, weight=2.0, target=0.5).item() == pytest.approx(2 * (norm - 0.5) ** 2)
    one_sided = gradient_penalty(critic, real, fake, one_sided=True).item()
    assert one_sided == pytest.approx(10 * max(norm - 1, 0.0) ** 2, rel=1e-12, abs=1e-24)
    assert dragan_penalty(critic, real).item() == pytest.approx(10 * (norm - 1) ** 2, rel=1e-12, abs=1e-24)
    assert r1_penalty(critic, real).item() == pytest.approx(5 * norm**2)
    assert r2_penalty(critic, fake, gamma=0.2).item() == pytest.approx(0.1 * norm**2)


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_unit_norms_cost_nothing_at_any_batch_size(batch: int) -> None:
    """A norm over the whole batch would cost 9 at 16 rows and 49 at 64."""
    critic, real = linear_critic((batch, 3, 2, 2), 1.0), rows(batch, 3, 2, 2)
    assert gradient_penalty(critic, real, rows(batch, 3, 2, 2), weight=1.0).item() == pytest.approx(0.0, abs=1e-24)


@pytest.mark.parametrize("shape", [FLAT, IMAGES], ids=str)
def test_given_alphas_say_where_each_sample_is_looked_at(shape: tuple[int, ...]) -> None:
    real, fake, alpha = rows(*shape), rows(*shape), torch.rand(shape[0], dtype=torch.float64)
    critic = Recorder()
    value = gradient_penalty(critic, real, fake, alpha=alpha, weight=3.0, target=1.5)
    expected = torch.stack([r + a * (f - r) for r, f, a in zip(real, fake, alpha, strict=True)])
    torch.testing.assert_close(critic.points, expected)
    assert value.item() == pytest.approx(3.0 * (norms(expected) - 1.5).square().mean().item())


@pytest.mark.parametrize("shape", [(200, 3), (200, 1, 2, 2)], ids=str)
def test_each_sample_draws_one_alpha_of_its_own(shape: tuple[int, ...]) -> None:
    critic = Recorder()
    gradient_penalty(critic, torch.zeros(shape), torch.ones(shape))
    alphas = critic.points.flatten(1)  # real 0 and fake 1: the points are the alphas
    assert (alphas == alphas[:, :1]).all()
    assert alphas[:, 0].unique().numel() > 190
    assert 0 <= alphas.min() < 0.05 and 0.95 < alphas.max() <= 1
    assert alphas[:, 0].mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 200))


def test_one_alpha_for_the_whole_batch_is_refused() -> None:
    real, fake = rows(4, 3), rows(4, 3)
    for alpha in (torch.rand(1), torch.rand(3), torch.rand(4, 3)):
        with pytest.raises(ValueError, match="alpha"):
            gradient_penalty(quadratic, real, fake, alpha=alpha.double())
    with pytest.raises(ValueError, match="alpha"):
        gradient_penalty(quadratic, real[:1], fake[:1], alpha=torch.rand(1, 3, dtype=torch.float64))


def test_r1_looks_at_the_real_rows_and_r2_at_the_fake_ones() -> None:
    real, fake = rows(*IMAGES), rows(*IMAGES)
    assert r1_penalty(quadratic, real).item() == pytest.approx(5 * norms(real).square().mean().item())
    assert r2_penalty(quadratic, fake, gamma=3.0).item() == pytest.approx(1.5 * norms(fake).square().mean().item())


@pytest.mark.parametrize("std_scale", [0.5, 2.0])
def test_dragan_looks_above_the_real_rows_within_their_spread(std_scale: float) -> None:
    """Points real + std_scale * std * u, with u uniform in [0, 1) in every element."""
    real, critic = rows(100, 8), Recorder()
    value = dragan_penalty(critic, real, weight=2.0, std_scale=std_scale)
    spread = math.sqrt(((real - real.mean()) ** 2).sum().item() / (real.numel() - 1))
    noise = (critic.points - real) / (std_scale * spread)
    assert -1e-12 <= noise.min() < 0.02 and 0.98 < noise.max() < 1 + 1e-12
    assert noise.unique().numel() > 790
    assert noise.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 800))
    assert value.item() == pytest.approx(2.0 * (norms(critic.points) - 1).square().mean().item())


@pytest.mark.parametrize("penalty", ["gp", "dragan"])
def test_a_generator_makes_the_draws_again(penalty: str) -> None:
    real, fake = rows(*FLAT), rows(*FLAT)

    def value(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if penalty == "gp":
            return gradient_penalty(quadratic, real, fake, generator=generator)
        return dragan_penalty(quadratic, real, generator=generator)

    before = torch.get_rng_state()
    assert torch.equal(value(3), value(3)) and not torch.equal(value(3), value(4))
    assert torch.equal(torch.get_rng_state(), before)


ALPHA = torch.linspace(0, 1, FLAT[0], dtype=torch.float64)
CALLS: dict[str, Callable[[Critic, Tensor, Tensor], Tensor]] = {
    "gp": lambda critic, real, fake: gradient_penalty(critic, real, fake, alpha=ALPHA.to(real)),
    "lp": lambda critic, real, fake: gradient_penalty(critic, real, fake, target=0.05, one_sided=True, alpha=ALPHA.to(real)),
    "r1": lambda critic, real, fake: r1_penalty(critic, real),
    "r2": lambda critic, real, fake: r2_penalty(critic, fake),
    "dragan": lambda critic, real, fake: dragan_penalty(critic, real, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_parameter_gradients_are_finite_differences(call: Callable[..., Tensor]) -> None:
    critic, real, fake, step = smooth_critic(), rows(*FLAT), rows(*FLAT), 1e-6
    parameters = list(critic.parameters())
    slopes = torch.autograd.grad(call(critic, real, fake), parameters, allow_unused=True)
    assert slopes[-1] is None or not slopes[-1].any()  # the last bias does not move the gradient of the input
    for parameter, slope in zip(parameters[:-1], slopes[:-1], strict=True):
        flat = parameter.data.view(-1)
        for index in range(flat.numel()):
            kept, values = flat[index].item(), []
            for moved in (kept + step, kept - step):
                flat[index] = moved
                values.append(call(critic, real, fake).item())
            flat[index] = kept
            expected = (values[0] - values[1]) / (2 * step)
            assert slope.view(-1)[index].item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_critic_without_slope_gives_no_nan(call: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """All its weights are zero, as at a bad start: the norm has no derivative there, and its slope is taken as 0."""
    critic = nn.Sequential(nn.Linear(5, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1)).to(dtype)
    with torch.no_grad():
        [parameter.zero_() for parameter in critic.parameters()]
    value = call(critic, rows(*FLAT, dtype=dtype), rows(*FLAT, dtype=dtype))
    assert value.isfinite()
    value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_rows_are_constants_to_a_penalty(call: Callable[..., Tensor]) -> None:
    """Nothing reaches the generator, and nothing is left on the critic's parameters before backward."""
    real, fake, critic = rows(*FLAT).requires_grad_(), rows(*FLAT).requires_grad_(), smooth_critic()
    with torch.no_grad():
        assert call(critic, real, fake).isfinite()
    value = call(critic, real, fake)
    assert all(parameter.grad is None for parameter in critic.parameters())
    value.backward()
    assert real.grad is None and fake.grad is None
    assert critic[0].weight.grad is not None and critic[0].weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_critics_have_an_fp32_penalty(dtype: torch.dtype) -> None:
    """784 slopes of 20 have squares that sum to 3e5, beyond fp16."""
    weight = torch.full((784,), 20.0, dtype=dtype)
    value = r1_penalty(lambda x: x * weight, torch.zeros(2, 784, dtype=dtype), gamma=1.0)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.5 * 784 * 400, rel=1e-6)


def test_method_autograd_gives_the_same_value_and_others_are_refused() -> None:
    critic, real, fake, alpha = smooth_critic(), rows(*FLAT), rows(*FLAT), torch.rand(FLAT[0], dtype=torch.float64)
    values = [gradient_penalty(critic, real, fake, alpha=alpha, method=method) for method in ("auto", "autograd")]
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
    for call in (
        lambda: gradient_penalty(critic, real, fake, method="exact"),
        lambda: r1_penalty(critic, real, method="exact"),
        lambda: r2_penalty(critic, fake, method="exact"),
        lambda: dragan_penalty(critic, real, method="exact"),
    ):
        with pytest.raises(ValueError, match="method"):
            call()


def test_real_and_fake_must_have_one_shape() -> None:
    for shape in ((5, 5), (6, 1), (1, 5), (6, 5, 1)):
        with pytest.raises(ValueError, match="differ in shape"):
            gradient_penalty(quadratic, rows(*FLAT), rows(*shape))


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf])
def test_amounts_are_finite_and_not_negative(amount: float) -> None:
    real, fake = rows(2, 2), rows(2, 2)
    for call in (
        lambda: GradientPenalty(amount),
        lambda: GradientPenalty(target=amount),
        lambda: DRAGAN(amount),
        lambda: DRAGAN(std_scale=amount),
        lambda: R1(amount),
        lambda: R2(amount),
        lambda: WeightClip(amount),
        lambda: gradient_penalty(quadratic, real, fake, weight=amount),
        lambda: r1_penalty(quadratic, real, gamma=amount),
        lambda: dragan_penalty(quadratic, real, std_scale=amount),
    ):
        with pytest.raises(ValueError, match=r"finite number >=? 0"):
            call()
    with pytest.raises(ValueError, match="bound"):
        WeightClip(0.0)


@pytest.mark.parametrize("kind", [GradientPenalty, DRAGAN, R1, R2])
@pytest.mark.parametrize("every", [0, -2, 1.5, "2", None, True])
def test_every_is_a_whole_number(kind: type, every: object) -> None:
    with pytest.raises(ValueError if type(every) in (int, float) else TypeError, match="every must be a whole number >= 1"):
        kind(every=every)
    assert kind(every=4).every == 4 and kind().every == 1


def test_specs_have_the_fields_defaults() -> None:
    assert GradientPenalty() == GradientPenalty(10.0, 1.0, False)
    assert DRAGAN() == DRAGAN(weight=10.0, target=1.0, std_scale=0.5)
    assert R1() == R1(gamma=10.0) and R2() == R2(gamma=10.0) and R1() != R2()
    assert WeightClip() == WeightClip(0.01)


def test_specs_penalize_gradients_as_the_functions_do() -> None:
    gradient = rows(*IMAGES)
    excess = norms(gradient) - 3.0
    assert GradientPenalty(2.0, 3.0).value(gradient).item() == pytest.approx(2 * excess.square().mean().item())
    one_sided = GradientPenalty(2.0, 3.0, one_sided=True).value(gradient).item()
    assert one_sided == pytest.approx(2 * excess.clamp(min=0).square().mean().item())
    assert DRAGAN(2.0, 3.0).value(gradient).item() == pytest.approx(2 * excess.square().mean().item())
    for spec in (R1(4.0), R2(4.0)):
        assert spec.value(gradient).item() == pytest.approx(2 * norms(gradient).square().mean().item())


def test_specs_take_their_points_from_the_draws() -> None:
    real, fake = torch.zeros(50, 1, 2, 2), torch.ones(50, 1, 2, 2)
    draws = Draws(seed=5, step=7)
    points = GradientPenalty().points(real, fake, draws, 0)
    assert (points.flatten(1) == points.flatten(1)[:, :1]).all() and 0 <= points.min() < points.max() < 1
    assert torch.equal(points, GradientPenalty().points(real, fake, draws, 0))
    for other in (GradientPenalty().points(real, fake, draws, 1), GradientPenalty().points(real, fake, Draws(5, 8), 0)):
        assert not torch.equal(points, other)
    assert torch.equal(R1().points(real, fake, draws, 0), real) and torch.equal(R2().points(real, fake, draws, 0), fake)
    shifted = rows(50, 1, 2, 2, dtype=torch.float32)
    noise = (DRAGAN(std_scale=2.0).points(shifted, fake, draws, 0) - shifted) / (2.0 * shifted.std())
    assert noise.shape == shifted.shape and -1e-5 < noise.min() < 0.05 and 0.95 < noise.max() < 1 + 1e-5


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("none", ()),
        ("gp", (GradientPenalty(),)),
        ("gp:5", (GradientPenalty(5.0),)),
        ("lp:5:2", (GradientPenalty(5.0, one_sided=True, every=2),)),
        ("r1:5,r2:2.5:16", (R1(5.0), R2(2.5, every=16))),
        ("dragan:1e1, clip:0.02", (DRAGAN(10.0), WeightClip(0.02))),
        ("clip", (WeightClip(0.01),)),
    ],
)
def test_penalties_are_read_from_a_command_line(text: str, specs: tuple) -> None:
    assert penalties.parse(text) == specs


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gpp", "gp, lp, r1, r2, dragan, clip, none"),
        ("", "gp, lp, r1, r2, dragan, clip, none"),
        ("gp:ten", r"NAME\[:AMOUNT\[:EVERY\]\]"),
        ("gp:", r"NAME\[:AMOUNT\[:EVERY\]\]"),
        ("gp:10:1.5", r"NAME\[:AMOUNT\[:EVERY\]\]"),
        ("r1:10:2:3", r"NAME\[:AMOUNT\[:EVERY\]\]"),
        ("clip:0.01:2", r"NAME\[:AMOUNT\[:EVERY\]\]"),
        ("gp:-1", ">= 0"),
        ("gp:nan", "finite"),
        ("gp:10:0", "every"),
        ("clip:0", "bound"),
    ],
)
def test_a_penalty_that_cannot_be_read_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        penalties.parse(text)


def test_one_spec_or_several_become_a_tuple() -> None:
    assert penalties.as_specs(R1()) == (R1(),)
    assert penalties.as_specs([R1(), R2()]) == penalties.as_specs((R1(), R2())) == (R1(), R2())
    assert penalties.as_specs(WeightClip()) == (WeightClip(),) and penalties.as_specs(()) == ()
    for bad in ("gp", [10.0], [R1(), None]):
        with pytest.raises(TypeError, match="spec"):
            penalties.as_specs(bad)
    with pytest.raises(ValueError, match="one bound"):
        penalties.as_specs([WeightClip(0.1), R1(), WeightClip(0.2)])


def test_specs_survive_a_checkpoint() -> None:
    specs = (*SPECS, GradientPenalty(3.0, 0.5, True, every=4), WeightClip(0.5))
    config = penalties.to_config(specs)
    assert all(type(value) in (str, float, int, bool) for entry in config for value in entry.values())
    assert penalties.from_config(config) == specs


@pytest.mark.parametrize(("old", "new"), [("push", "penalty_gradient"), ("has_push", "has_penalty_gradient")])
def test_a_hook_by_its_old_name_is_refused_with_the_new_one(old: str, new: str) -> None:
    def hook(*_: object) -> None: ...

    with pytest.raises(TypeError, match=rf"Old\.{old} is called {new}"):
        type("Old", (penalties.R1,), {old: hook})
    mixin = type("Mixin", (), {old: hook})
    with pytest.raises(TypeError, match=new):
        type("Old", (mixin, penalties.Penalty), {})


def test_what_was_said_of_a_formula_does_not_outlive_it() -> None:
    """A subclass with a value or points of its own: kernels must not compute those of the class before."""

    class Value:
        def value(self, gradient: Tensor) -> Tensor:
            return gradient.abs().sum()

    class Twice(penalties.R1):
        def value(self, gradient: Tensor) -> Tensor:
            return 2.0 * super().value(gradient)

    class Mixed(Value, penalties.GradientPenalty): ...

    class Own(penalties.R1):
        def penalty_gradient(self, gradient: Tensor, times: float = 1.0) -> tuple[Tensor, Tensor]:
            return times * self.value(gradient), times * gradient

    class Elsewhere(penalties.R1):
        def points(self, real: Tensor, fake: Tensor, draws: object, index: int) -> Tensor:
            return fake

    class Halfway(penalties.GradientPenalty):
        def points(self, real: Tensor, fake: Tensor, draws: object, index: int) -> Tensor:
            return 0.5 * (real + fake)

    class Renamed(penalties.GradientPenalty): ...

    kinds = (Twice, Mixed, Own, Elsewhere, Halfway, Renamed)
    assert [kind.has_penalty_gradient() for kind in kinds] == [False, False, True, True, True, True]
    assert [kind().form() is None for kind in kinds] == [True, True, True, False, False, False]
    assert [kind.at for kind in kinds] == ["real", None, "real", None, None, None]
    assert [kind.interpolates for kind in kinds] == [False, True, False, False, False, True]
    with pytest.raises(NotImplementedError):
        Twice().penalty_gradient(torch.ones(2, 3))
