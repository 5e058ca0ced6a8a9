"""FusedLinear against torch's modules for the same layer: python -m benchmarks.ops.linear [--quick].

Works: "forward" without a graph, in training mode; "both", the output and the gradients of rows, weight and bias. Layers are
those of the article's networks. They are matrix products above all, and no bytes are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness.bench import Bench, parser
from benchmarks.harness.rows import device
from fastgan.layers import FusedLinear

MODULES: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky_relu": partial(nn.LeakyReLU, 0.2), "tanh": nn.Tanh}


class Case(NamedTuple):
    """A layer: its widths, its activation and its dropout."""

    inputs: int
    outputs: int
    activation: str
    dropout: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.inputs} to {self.outputs}, {self.activation}" + (f", dropout {self.dropout}" if self.dropout else "")

    def fastgan(self) -> nn.Module:
        return FusedLinear(self.inputs, self.outputs, activation=self.activation, dropout=self.dropout)

    def torch(self) -> nn.Module:
        dropout = [nn.Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(nn.Linear(self.inputs, self.outputs), MODULES[self.activation](), *dropout)


CASES = (
    Case(784, 1024, "leaky_relu", 0.3),
    Case(1024, 512, "leaky_relu", 0.3),
    Case(512, 256, "leaky_relu", 0.3),
    Case(512, 256, "leaky_relu"),
    Case(100, 256, "relu"),
    Case(1024, 784, "tanh"),
)
BATCHES, QUICK_BATCHES = (64, 512), (64,)


def run_both(layer: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of the rows and the parameters."""
    y = layer(x)
    return y, *torch.autograd.grad(y, [x, *layer.parameters()], upstream)


def check(layers: dict[str, nn.Module], x: Tensor, upstream: Tensor) -> None:
    """Both layers in evaluation mode, where there is no mask, against each other."""
    results = [run_both(layer.eval(), x, upstream) for layer in layers.values()]
    for layer in layers.values():
        layer.train()
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def compare(bench: Bench, case: Case, batch: int) -> None:
    """One layer at one batch size."""
    layers = {name: getattr(case, name)().to(device()) for name in ("torch", "fastgan")}
    layers["fastgan"].load_state_dict(layers["torch"][0].state_dict())
    x, upstream = torch.randn(batch, case.inputs, device=device()), torch.randn(batch, case.outputs, device=device())
    place: dict[str, Any] = dict(
        shape=(batch, case.inputs, case.outputs), dtype="float32", check=partial(check, layers, x.requires_grad_(), upstream)
    )
    forward = {name: partial(torch.no_grad()(layer), x) for name, layer in layers.items()}
    bench.compare(forward, label=f"{case.label}: forward", **place)
    both = {name: partial(run_both, layer, x, upstream) for name, layer in layers.items()}
    bench.compare(both, label=f"{case.label}: both", **place)


def main() -> None:
    """Every layer at every batch size; --quick takes one and a tenth of the time."""
    options = parser("ops.linear", __doc__).parse_args()
    bench = Bench("ops.linear", quick=options.quick, keep=not options.no_rows)
    torch.manual_seed(0)
    for case in (case for case in CASES if options.only in case.label):
        for batch in QUICK_BATCHES if options.quick else BATCHES:
            compare(bench, case, batch)
    bench.print()


if __name__ == "__main__":
    main()
