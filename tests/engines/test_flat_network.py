"""One flat buffer per network: the module keeps working on views of it, and updates are torch.optim's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgan import optim
from fastgan.engines.flat_network import ALIGNMENT, FlatNetwork
from fastgan.optim import SGD, Adam, Optimizer, RMSprop

NO = torch.tensor(False)
START = torch.tensor(0)


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Odd sizes, so that parameters do not fill whole cache lines, and buffers that are no parameters."""
    # no bias before the normalisation: its gradient would be rounding alone, which RMSprop and Adam blow up
    first = (nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.LeakyReLU(0.2))
    return nn.Sequential(*first, nn.Linear(7, 3), nn.Linear(3, 1)).to(dtype)


def flat_network(spec: Optimizer | None = None, **options) -> FlatNetwork:
    return FlatNetwork(network(), spec or Adam(), **options)


def gradients(flat: FlatNetwork) -> list[Tensor]:
    return [torch.randn_like(parameter) for parameter in flat.parameters]


def train(flat: FlatNetwork, steps: int = 1, withhold: Tensor = NO) -> None:
    for step in range(steps):
        flat.collect(gradients(flat))
        flat.update(withhold, torch.tensor(step))


def padding(flat: FlatNetwork, buffer: Tensor) -> Tensor:
    """The elements of a buffer that belong to no parameter."""
    used = torch.zeros(buffer.shape, dtype=torch.bool)
    for offset, parameter in zip(flat.offsets, flat.parameters, strict=True):
        used[offset : offset + parameter.numel()] = True
    return buffer[~used]


def are_views(flat: FlatNetwork) -> bool:
    base, size = flat.weight.data_ptr(), flat.weight.element_size()
    places = [base + size * offset for offset in flat.offsets]
    return [parameter.data_ptr() for parameter in flat.module.parameters()] == places


def test_parameters_become_aligned_views_and_keep_their_values() -> None:
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flat = FlatNetwork(module, Adam())
    assert are_views(flat) and flat.weight.dim() == 1 and flat.weight.dtype == torch.float64
    for offset, parameter in zip(flat.offsets, flat.parameters, strict=True):
        assert offset % ALIGNMENT == 0
        assert parameter.data_ptr() == flat.weight.data_ptr() + 8 * offset
        assert isinstance(parameter, nn.Parameter) and parameter.requires_grad and parameter.is_leaf
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_state_dict_and_forward_show_the_trained_weights() -> None:
    flat = flat_network(SGD(0.5))
    x, before = torch.randn(4, 5, dtype=torch.float64), flat.module[0].weight.detach().clone()
    flat.module.eval()
    given = gradients(flat)
    flat.collect(given)
    flat.update(NO, START)
    torch.testing.assert_close(flat.module.state_dict()["0.weight"], before - 0.5 * given[0], rtol=1e-15, atol=0)
    plain = network().eval()
    plain.load_state_dict(flat.module.state_dict())
    assert torch.equal(flat.module(x), plain(x))


RULES: list[tuple[Optimizer, Callable[[list], torch.optim.Optimizer]]] = [
    (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (
        SGD(0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    ),
    (SGD(0.1, momentum=0.8, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True)),
    (RMSprop(5e-3), lambda p: torch.optim.RMSprop(p, 5e-3)),
    (
        RMSprop(5e-3, alpha=0.9, eps=1e-6, weight_decay=0.01, momentum=0.7, centered=True),
        lambda p: torch.optim.RMSprop(p, 5e-3, alpha=0.9, eps=1e-6, weight_decay=0.01, momentum=0.7, centered=True),
    ),
    (RMSprop(5e-3, centered=True), lambda p: torch.optim.RMSprop(p, 5e-3, centered=True)),
    (Adam(2e-3, betas=(0.5, 0.999)), lambda p: torch.optim.Adam(p, 2e-3, betas=(0.5, 0.999))),
    (
        Adam(2e-3, betas=(0.0, 0.9), eps=1e-4, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 2e-3, betas=(0.0, 0.9), eps=1e-4, weight_decay=0.1),
    ),
]
RULE_IDS = ["sgd", "sgd-all", "nesterov", "rmsprop", "rmsprop-all", "rmsprop-centered", "adam", "adam-all"]


@pytest.mark.parametrize(("spec", "build"), RULES, ids=RULE_IDS)
def test_twenty_updates_are_torch_optims(spec: Optimizer, build: Callable) -> None:
    """Gradients come from a loss of the weights, so that one wrong update would spoil the next gradient too."""
    module, rows = network(), torch.randn(20, 8, 5, dtype=torch.float64)
    plain = copy.deepcopy(module)
    flat, theirs = FlatNetwork(module, spec), build(list(plain.parameters()))
    for step, x in enumerate(rows):
        flat.collect(torch.autograd.grad(module(x).square().mean(), flat.parameters))
        statistics = flat.update(NO, torch.tensor(step))
        theirs.zero_grad()
        plain(x).square().mean().backward()
        theirs.step()
        squares = sum(parameter.grad.square().sum().item() for parameter in plain.parameters())
        assert statistics.tolist() == pytest.approx([squares, 0.0], rel=1e-10)
    for ours, expected in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert flat.count.item() == 20


@pytest.mark.parametrize(("spec", "build"), RULES, ids=RULE_IDS)
def test_padding_stays_zero(spec: Optimizer, build: Callable) -> None:
    flat = flat_network(spec, ema_decay=0.9)
    train(flat, 5)
    assert padding(flat, flat.weight).numel() > 0
    for buffer in (flat.weight, flat.gradient, flat.ema, *flat.state):
        assert not padding(flat, buffer).any()


def test_a_scheduled_rate_is_that_of_the_trainers_step() -> None:
    flat = flat_network(SGD(optim.linear(1.0, 0.0, steps=4)))
    start = flat.weight.clone()
    flat.collect([torch.ones_like(parameter) for parameter in flat.parameters])
    expected = start.clone()
    for step in (0, 2, 3, 4, 9):
        flat.update(NO, torch.tensor(step))
        expected -= max(1.0 - step / 4, 0.0) * flat.gradient
        torch.testing.assert_close(flat.weight, expected, rtol=1e-14, atol=1e-15)


def test_a_missing_gradient_counts_as_zero() -> None:
    flat = flat_network(SGD(0.1))
    train(flat)
    before = [parameter.detach().clone() for parameter in flat.parameters]
    given: list[Tensor | None] = [*gradients(flat)]
    given[1] = given[-1] = None
    flat.collect(given)
    assert not flat.gradients[1].any() and not flat.gradients[-1].any()
    flat.update(NO, START)
    moved = [not torch.equal(now, then) for now, then in zip(flat.parameters, before, strict=True)]
    assert moved == [gradient is not None for gradient in given]


def test_as_many_gradients_as_parameters() -> None:
    flat = flat_network()
    with pytest.raises(ValueError):
        flat.collect(gradients(flat)[:-1])


def test_a_withheld_update_changes_nothing() -> None:
    flat = flat_network(Adam(), clip=0.5, ema_decay=0.9)
    train(flat, 2)
    buffers = (flat.weight, flat.ema, *flat.state, flat.count)
    before = [buffer.clone() for buffer in buffers]
    train(flat, 1, withhold=torch.tensor(True))
    assert all(torch.equal(now, then) for now, then in zip(buffers, before, strict=True))


def test_a_weight_with_a_bad_gradient_keeps_its_value() -> None:
    flat = flat_network(Adam())
    train(flat, 2)
    given = gradients(flat)
    given[0][0, 0], given[0][1, 1] = torch.nan, torch.inf
    before = flat.module[0].weight.detach().clone()
    flat.collect(given)
    squares, bad = flat.update(NO, START).tolist()
    moved = flat.module[0].weight != before
    assert bad == 2 and squares == pytest.approx(sum(g[g.isfinite()].square().sum().item() for g in given))
    assert not moved[0, 0] and not moved[1, 1] and moved.sum() == moved.numel() - 2
    assert flat.weight.isfinite().all()


@pytest.mark.parametrize("read_each_time", [True, False])
def test_withheld_updates_and_weights_left_alone_are_counted(read_each_time: bool) -> None:
    """A number per update, or as an engine gives it: numbers to be checked."""
    flat, counted = flat_network(SGD(0.1)), 0
    for step in range(300):
        given = gradients(flat)
        given[0].view(-1)[: step % 3] = torch.nan
        withhold = torch.tensor([0.0, torch.inf if step % 5 == 0 else 1.0])
        flat.collect(given)
        flat.record_update(withhold, flat.update(withhold, torch.tensor(step)))
        counted += step % 3 + (step % 5 == 0)
        assert not read_each_time or flat.skipped == counted
    assert flat.skipped == flat.skipped == counted
    flat.record_update(torch.tensor([torch.inf]), torch.zeros(2))
    flat.discard_records()
    assert flat.skipped == counted


def test_clipping_bounds_every_weight_after_each_update() -> None:
    flat, free = flat_network(SGD(0.1), clip=0.05), flat_network(SGD(0.1))
    free.weight.copy_(flat.weight)
    given = gradients(flat)
    for one in (flat, free):
        one.collect(given)
        one.update(NO, START)
    assert free.weight.abs().max() > 0.05
    torch.testing.assert_close(flat.weight, free.weight.clamp(-0.05, 0.05), rtol=0, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_the_average_is_that_of_the_weights(decay: float) -> None:
    flat = flat_network(SGD(0.3), ema_decay=decay)
    assert torch.equal(flat.ema, flat.weight) and flat.ema.data_ptr() != flat.weight.data_ptr()
    expected = flat.weight.clone()
    for _ in range(4):
        train(flat)
        expected = decay * expected + (1 - decay) * flat.weight
    torch.testing.assert_close(flat.ema, expected, rtol=1e-13, atol=1e-15)
    shown = [view.shape for view in flat.views(flat.ema)]
    assert shown == [parameter.shape for parameter in flat.parameters]
    assert flat_network().ema is None


MOVES: dict[str, Callable[[nn.Module], None]] = {
    "to and back": lambda module: module.to(torch.float32).to(torch.float64),
    "data replaced": lambda module: setattr(module[0].weight, "data", module[0].weight.data.clone()),
    "state dict assigned": lambda module: module.load_state_dict(
        {name: value.clone() for name, value in module.state_dict().items()}, assign=True
    ),
    "parameter replaced": lambda module: setattr(module[4], "weight", nn.Parameter(module[4].weight.detach().clone())),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_parameters_that_were_moved_out_are_brought_back(move: Callable[[nn.Module], None]) -> None:
    flat = flat_network(SGD(0.5))
    place = flat.weight.data_ptr()
    with torch.no_grad():
        move(flat.module)
        for parameter in flat.module.parameters():
            parameter.mul_(2.0)  # what was changed outside counts
    expected = [parameter.detach().clone() for parameter in flat.module.parameters()]
    assert not are_views(flat)
    flat.ensure_views()
    assert are_views(flat) and flat.weight.data_ptr() == place
    assert all(torch.equal(now, then) for now, then in zip(flat.module.parameters(), expected, strict=True))
    flat.collect([torch.ones_like(parameter) for parameter in flat.parameters])
    flat.update(NO, START)
    for parameter, start in zip(flat.module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), start - 0.5, rtol=1e-15, atol=1e-15)
    assert not padding(flat, flat.weight).any()


def test_untouched_views_are_left_alone() -> None:
    flat = flat_network()
    held = list(flat.module.parameters())
    flat.module.load_state_dict(network().state_dict())  # in place, as load_state_dict is
    flat.ensure_views()
    assert are_views(flat) and all(now is then for now, then in zip(flat.module.parameters(), held, strict=True))


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "another dtype": lambda module: module.float(),
    "one layer in another dtype": lambda module: module[4].float(),
    "frozen": lambda module: module[4].requires_grad_(False),
    "another shape": lambda module: setattr(module[4], "weight", nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))),
    "one more": lambda module: module.append(nn.Linear(1, 1, dtype=torch.float64)),
    "another device": lambda module: module.to("meta"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_module_that_became_another_is_refused(change: Callable[[nn.Module], object]) -> None:
    flat = flat_network()
    change(flat.module)
    with pytest.raises(RuntimeError, match="Sequential changed its dtype, device or parameters"):
        flat.ensure_views()


def test_double_is_refused() -> None:
    flat = FlatNetwork(network(torch.float32), Adam())
    flat.module.double()
    with pytest.raises(RuntimeError, match="dtype"):
        flat.ensure_views()


def test_frozen_parameters_stay_out_of_the_buffer() -> None:
    module = network()
    module[0].requires_grad_(False)
    before = module[0].weight.detach().clone()
    flat = FlatNetwork(module, SGD(0.1))
    train(flat)
    assert len(flat.parameters) == 6 and torch.equal(module[0].weight, before)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        pytest.param(lambda: nn.ReLU(), "no trainable parameters", id="none"),
        pytest.param(lambda: network().requires_grad_(False), "no trainable parameters", id="all frozen"),
        pytest.param(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "one floating dtype", id="two dtypes"),
        pytest.param(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")), "one device", id="two devices"),
    ],
)
def test_a_module_that_does_not_fit_one_buffer_is_refused(build: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FlatNetwork(build(), Adam())


def test_a_shared_parameter_stands_in_the_buffer_once() -> None:
    first = nn.Linear(4, 4, bias=False)
    second = nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    flat = FlatNetwork(nn.Sequential(first, second), SGD(0.1))
    assert len(flat.parameters) == 1
    train(flat)
    assert second.weight is first.weight and are_views(flat)


@pytest.mark.parametrize(("spec", "build"), RULES, ids=RULE_IDS)
def test_a_saved_state_is_loaded_in_place_and_training_goes_on(spec: Optimizer, build: Callable) -> None:
    first, second = flat_network(spec, ema_decay=0.9), flat_network(spec, ema_decay=0.9)
    train(first, 3)
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    assert all(isinstance(value, Tensor) for value in saved.values())
    places = {name: value.data_ptr() for name, value in second.state_dict().items()}
    second.load_state_dict(saved)
    second.weight.copy_(first.weight)
    assert {name: value.data_ptr() for name, value in second.state_dict().items()} == places
    given = gradients(first)
    for flat in (first, second):
        flat.collect(given)
        flat.update(NO, torch.tensor(3))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.ema, second.ema)
    assert first.count.item() == second.count.item() == 4


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: flat_network(SGD()), id="another rule"),
        pytest.param(lambda: flat_network(Adam(), ema_decay=0.9), id="with an average"),
        pytest.param(lambda: FlatNetwork(nn.Linear(50, 50), Adam()), id="another size"),
    ],
)
def test_a_saved_state_that_does_not_fit_is_refused(other: Callable[[], FlatNetwork]) -> None:
    flat = flat_network(Adam())
    train(flat)
    kept = {name: value.clone() for name, value in flat.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit Sequential with adam"):
        flat.load_state_dict(other().state_dict())
    assert all(torch.equal(value, kept[name]) for name, value in flat.state_dict().items())


def test_records_of_updates_are_counted_before_they_become_many() -> None:
    """A run whose metrics nobody reads keeps no more of them at its end than at its beginning."""
    flat, most = flat_network(SGD(0.1)), 0
    for number in range(1000):
        flat.record_update(torch.tensor(number % 2 == 0), torch.zeros(2))
        most = max(most, len(flat._updates))
    assert most < 256 and flat.skipped == 500
