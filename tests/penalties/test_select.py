"""What picks the logits out of a critic's output: a function, a key or a place."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastgan.penalties import gradient_penalty
from tests.penalties.test_arguments import HALF, critic, every_call, penalty_at, rows


class Both(NamedTuple):
    logits: Tensor
    features: Tensor


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    ("wrap", "select"),
    [
        (lambda y: {"logits": y, "features": y.detach()}, "logits"),
        (lambda y: collections.OrderedDict(logits=y), "logits"),
        (lambda y: {0: y.detach(), 1: y}, 1),
        (lambda y: (y, y.detach()), 0),
        (lambda y: [y.detach(), y.detach(), y], -1),
        (lambda y: Both(y, y.detach()), 0),
        (lambda y: Both(y, y.detach()), "logits"),
        (lambda y: Output(y), "logits"),
        (lambda y: (y.detach(), {"adversarial": y}), lambda output: output[1]["adversarial"]),
    ],
)
@every_call
def test_select(call: Callable[..., Tensor], wrap: Callable[[Tensor], Any], select: Any) -> None:
    d, values = critic(), []
    for how in (dict(select=select), {}):
        torch.manual_seed(1)
        values.append(call((lambda x: wrap(d(x))) if how else d, rows(), **how))
    assert torch.equal(*values)
    values[0].backward()
    assert d[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("output", "select", "error", "words"),
    [
        (
            lambda y: {"scores": y, "features": y},
            "logits",
            ValueError,
            "select='logits' .*a dict with the keys 'scores', 'features'",
        ),
        (lambda y: (y, y), 2, ValueError, "select=2 .*a tuple"),
        (lambda y: (y, y), "logits", ValueError, "select='logits' .*a tuple"),
        (lambda y: None, 0, ValueError, "select=0 .*a NoneType"),
        (lambda y: y, 0, TypeError, "one tensor.*select=0: leave it out"),
        (lambda y: y, "logits", TypeError, "one tensor.*select='logits': leave it out"),
        (lambda y: ([y], 0), 0, TypeError, "a list, not a tensor of logits.*select="),
        (lambda y: (y, y), None, TypeError, "a tuple, not a tensor of logits.*select="),
        (lambda y: (y, y), True, TypeError, "select must be .*True"),
        (lambda y: (y, y), 0.0, TypeError, "select must be .*0.0"),
        (lambda y: (y, y), ["logits"], TypeError, "select must be .*list"),
        (lambda y: (y, y), torch.tensor(0), TypeError, "select must be .*a tensor"),
    ],
)
@every_call
def test_select_that_is_refused(
    call: Callable[..., Tensor], output: Callable[[Tensor], Any], select: Any, error: type[Exception], words: str
) -> None:
    d = critic()
    with pytest.raises(error, match=words):
        call(lambda x: output(d(x)), rows(), select=select)


@pytest.mark.slow
def test_a_key_and_a_number_in_compiled_code() -> None:
    torch._dynamo.reset()
    d = critic()
    named = lambda x: {"logits": d(x)}  # noqa: E731
    run = torch.compile(
        lambda real, fake: gradient_penalty(named, real, fake, alpha=0.5, select="logits"), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(run(rows(0), rows(1)), penalty_at(HALF, d))
