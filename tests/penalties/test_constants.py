"""Rows are constants to a penalty: no graph is made of them, and nothing of theirs is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgan import penalties

CALLS: dict[str, Callable[..., Tensor]] = {
    "gp": lambda critic, real, fake: penalties.gradient_penalty(critic, real, fake, alpha=torch.full((6,), 0.25).double()),
    "gp, alpha from the generator": lambda critic, real, fake: penalties.gradient_penalty(critic, real, fake),
    "dragan": lambda critic, real, fake: penalties.dragan_penalty(critic, real),
    "r1": lambda critic, real, fake: penalties.r1_penalty(critic, real),
    "r2": lambda critic, real, fake: penalties.r2_penalty(critic, fake),
}
CRITICS = {
    "double backward": lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)),
    "closed form": lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)),
}


@pytest.mark.parametrize("make", CRITICS.values(), ids=CRITICS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_rows_with_a_graph_are_rows_without_one(call: Callable[..., Tensor], make: Callable[[], nn.Module]) -> None:
    """The fake rows are a generator's, and the real ones may be an augmentation's: its graph is not drawn out."""
    critic = make().double()
    rows = [torch.randn(6, 5, dtype=torch.float64) for _ in range(2)]
    call(critic, *rows)  # looks at the critic
    found = []
    for scale in (torch.ones(5).double(), torch.ones(5).double().requires_grad_()):
        kept: list[tuple[int, ...]] = []
        given = [row * scale for row in rows]
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(tuple(x.shape)) or x, lambda x: x):
            value = call(critic, *given)
        value.backward()
        assert scale.grad is None
        found.append((value.item(), kept))
    assert found[0] == found[1] and found[0][1]
