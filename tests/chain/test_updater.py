"""A chain's passes against autograd, and its weight gradients made in the optimizer's step against one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fastgan.chain.passes import read_layers
from fastgan.engines.closed_form.result import UpdateResult
from fastgan.engines.closed_form.update import HostPasses
from fastgan.engines.closed_form.update_log import HostUpdateLog
from fastgan.engines.flat_network import FlatNetwork
from fastgan.layers import FusedLinear, drawing
from fastgan.ops import sample
from fastgan.optim import SGD, Adam, Optimizer, RMSprop

from .storages import FORMATS, make, packs, unpacked


class Run:
    """A critic and its passes of some rows each; the last one has a tangent, so its slopes c are the coefficient there."""

    def __init__(self, format_: str, spec: Optimizer, sizes=(5, 70, 33, 1), rows=7, count=3, **options) -> None:
        generator, dtype = torch.Generator().manual_seed(1), torch.promote_types(FORMATS[format_], torch.float32)
        kinds = [dict(activation="leaky_relu", dropout=0.3), dict(activation="relu", bias=False), {}]
        pairs = zip(sizes, sizes[1:], [*kinds[: len(sizes) - 2], {}], strict=False)
        self.module = nn.Sequential(*(FusedLinear(*pair, **kind, dtype=dtype) for *pair, kind in pairs))
        for parameter in self.module.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
        self.network = FlatNetwork(self.module, spec, **options)
        layers = read_layers(list(self.module))
        self.products = make(format_, layers)
        log = HostUpdateLog(self.network)
        self.passes = HostPasses(self.products, rows, HostPasses.allocate(self.products, count, rows), count, log)
        draw = partial(torch.randn, dtype=dtype, generator=generator)
        self.x, self.tangent, self.c = draw(count, rows, sizes[0]), draw(rows, sizes[0]), draw(count, rows)
        self.drawn = [(sample.Draws(3, 4), number) for number in range(count)]

    def work(self) -> list[Tensor]:
        """Forward, adjoint and tangent; what they leave."""
        for seed, c in zip(self.passes.seed, self.c, strict=True):
            seed.copy_(c)
        self.passes.seed[-1].fill_(1.0)
        self.passes.coefficient[-1].copy_(self.c[-1])
        for number, values in enumerate(self.x):
            self.passes[number : number + 1].load(values)
        logits = self.passes.forward(partial(sample.masks, self.drawn))
        self.passes.adjoint()
        last = self.passes[len(self.x) - 1 :]
        gradient = last.input_gradient()
        last.tangent(self.tangent, self.x[-1])
        return [logits.clone(), gradient.clone()]

    def gradients(self) -> None:
        layers, of = self.products.layers, self.network.gradient_of
        self.passes.gradients([(of(each.weight), None if each.bias is None else of(each.bias)) for each in layers])

    def update(self, withhold: bool = False) -> Tensor:
        result = UpdateResult(torch.zeros(()), torch.tensor(withhold))
        self.passes.update(result, 0)
        assert result.statistics is not None
        return result.statistics

    def everything(self) -> list[Tensor]:
        average = [] if self.network.ema is None else [self.network.ema]
        return [self.network.weight, *self.network.state, self.network.count, *average]


def by_autograd(run: Run, dtype: torch.dtype) -> list[Tensor]:
    """Logits and the last pass's g, then the gradients of the sum of c D(x) over all passes and <tangent, g>, in a dtype."""
    module, total, logits = copy.deepcopy(run.module).to(dtype), torch.zeros((), dtype=dtype), []
    for number, (values, c) in enumerate(zip(run.x.to(dtype).clone(), run.c.to(dtype), strict=True)):
        x = values.detach().requires_grad_()
        with drawing(run.drawn[number][0], number):
            logits.append(module(x))
        total = total + (c * logits[-1][:, 0]).sum()
    (g,) = torch.autograd.grad(logits[-1].sum(), x, create_graph=True)
    gradients = torch.autograd.grad(total + (run.tangent.to(dtype) * g).sum(), list(module.parameters()))
    return [torch.stack(logits).detach(), g.detach(), *gradients]


def test_passes_are_autograds_double_backward(format_: str) -> None:
    """Of 7 rows each: in packed bf16 one more fills up every pass."""
    run, dtype = Run(format_, SGD(0.1)), FORMATS[format_]
    logits, gradient = run.work()
    run.gradients()
    own = [logits, gradient[0], *run.network.gradients]
    last = torch.finfo(dtype).eps * (0.5 if dtype == torch.bfloat16 else 8)
    for got, exact, plain in zip(own, by_autograd(run, torch.float64), by_autograd(run, dtype), strict=True):
        allowed = 2 * (plain.double() - exact).norm() + last * exact.norm()
        assert got.shape == exact.shape and (got.double() - exact).norm() <= allowed


SPECS = [
    pytest.param(SGD(0.1), {}, id="sgd"),
    pytest.param(SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01), dict(ema_decay=0.9), id="nesterov, average"),
    pytest.param(RMSprop(0.01), dict(clip=0.3), id="rmsprop, clip"),
    pytest.param(RMSprop(0.01, momentum=0.7, centered=True, weight_decay=0.01), {}, id="centered with momentum"),
    pytest.param(Adam(0.01, betas=(0.5, 0.999)), {}, id="adam"),
    pytest.param(Adam(0.01, weight_decay=0.1), dict(clip=0.3, ema_decay=0.9), id="adam with decay, clip, average"),
]


@pytest.mark.parametrize("rows", [7, pytest.param(200, id="600 rows in all")])
@pytest.mark.parametrize("spec, options", SPECS)
def test_the_fused_update_is_gradient_then_update(set_: str, spec: Optimizer, options: dict, rows: int) -> None:
    fused, halves = (Run(set_, spec, rows=rows, **options) for _ in range(2))
    for step in range(3):
        for ours, theirs in zip(halves.everything(), fused.everything(), strict=True):
            ours.copy_(theirs)
        halves.products.refresh()
        for run in (fused, halves):
            run.work()
        halves.gradients()
        totals = fused.update(), halves.network.update(torch.tensor(False), 0)
        halves.products.refresh()
        torch.testing.assert_close(*totals, rtol=1e-5, atol=0)
        for ours, theirs in zip(fused.everything(), halves.everything(), strict=True):
            # portable code may round a product before it is added, which `update_` as compiled for this processor does not
            last_bits = dict(rtol=1e-5, atol=1e-6) if set_ == "portable" else dict(rtol=2e-6, atol=1e-8)
            torch.testing.assert_close(ours, theirs, **last_bits)
        assert fused.network.count == step + 1
        mended = make(set_, fused.products.layers)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(packs(fused.products), packs(mended), strict=True))


@pytest.mark.parametrize("spec, options", SPECS)
def test_a_withheld_step_changes_nothing_and_still_counts(set_: str, spec: Optimizer, options: dict) -> None:
    run = Run(set_, spec, **options)
    run.work()
    run.update()
    run.work()
    before = [x.clone() for x in (*run.everything(), *packs(run.products))]
    run.gradients()
    totals = run.update(withhold=True)
    assert all(torch.equal(*pair) for pair in zip(before, (*run.everything(), *packs(run.products)), strict=True))
    torch.testing.assert_close(totals, torch.stack((run.network.gradient.square().sum(), torch.tensor(0.0))), rtol=1e-5, atol=0)


@pytest.mark.parametrize("spec, options", SPECS)
@pytest.mark.parametrize("operand", ["x", "upstream"])
def test_nan_leaves_alone_the_weights_it_reaches(set_: str, spec: Optimizer, options: dict, operand: str) -> None:
    """A nan in column j of A_1 reaches dW[:, j], in column i of U_2 dW[i] and, where there is one, db[i]."""
    clean, run = (Run(set_, spec, **options) for _ in range(2))
    for each in (clean, run):
        each.work()
        each.update()
        each.work()
    at = run.passes.inputs[1] if operand == "x" else run.passes.adjoints[1]
    column = 65 if operand == "x" else 17
    width = 70 if operand == "x" else 33
    values = unpacked(at.panels, at.group)[:, :width].float().contiguous()
    values[2, column] = torch.nan
    run.products.load_(at, values)
    hit = [torch.zeros_like(view, dtype=torch.bool) for view in run.network.gradients]
    (hit[2][:, column] if operand == "x" else hit[2][column]).fill_(True)
    reached = torch.zeros_like(run.network.weight, dtype=torch.bool)
    for part, flags in zip(run.network.views(reached), hit, strict=True):
        part.copy_(flags)
    before = [x.clone() for x in run.everything()]
    clean.update()
    assert run.update()[1] == reached.sum() == (33 if operand == "x" else 70)
    for index, (now, then, expected) in enumerate(zip(run.everything(), before, clean.everything(), strict=True)):
        if now.dim() and index <= len(run.network.state):  # an average moves to the weight that stays
            assert torch.equal(now[reached], then[reached])
            assert torch.equal(now[~reached], expected[~reached])
    assert all(torch.isfinite(x).all() for x in (*run.everything(), *packs(run.products)))


def test_a_layer_that_is_no_part_of_the_network_is_refused(set_: str) -> None:
    """Its state would be looked for beside the network's."""
    run = Run(set_, SGD(0.1))
    run.work()
    run.products.weights[1] = run.products.weights[1].clone()
    before = run.network.weight.clone()
    with pytest.raises(RuntimeError, match="weights and biases must be parts of weight"):
        run.update()
    assert torch.equal(run.network.weight, before)


def worked(set_: str) -> list[Tensor]:
    """All that one step of a chain of several threads' work leaves."""
    run = Run(set_, Adam(0.01), sizes=(130, 200, 1), rows=300, count=2)
    results = run.work()
    totals = run.update()
    operands = [half for each in (*run.passes.inputs, *run.passes.adjoints) for half in (each.values, each.panels)]
    return [*results, totals, *operands, *packs(run.products), *run.everything()]


def test_the_result_depends_neither_on_threads_nor_on_the_call(set_: str, set_threads: Callable[[int], None]) -> None:
    set_threads(1)
    expected = worked(set_)
    for count in (2, 2, 3):
        set_threads(count)
        assert all(torch.equal(*pair) for pair in zip(worked(set_), expected, strict=True))


def test_two_callers_at_once_get_their_own_results(set_: str, set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    expected = worked(set_)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(worked, set_) for _ in range(8)]:
            assert all(torch.equal(*pair) for pair in zip(future.result(timeout=60), expected, strict=True))
