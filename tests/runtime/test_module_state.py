"""Module states: what of a module is seen to change, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastgan.runtime.module_state import ModuleState, ModuleTree, modes_kept


class Net(nn.Module):
    limit = 3

    def __init__(self) -> None:
        super().__init__()
        self.a, self.blocks = nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Dropout(0.1)))
        self.register_buffer("mean", torch.zeros(2))
        self.register_parameter("none", None)
        self.number, self.name, self.sizes, self.table = 0.5, "net", [1, [2, 3]], {"a": {"b": 1}}
        self.options = SimpleNamespace(inner=SimpleNamespace(deep=1))
        self.array, self.tensor, self.function = np.zeros(3), torch.zeros(2), torch.relu
        self.bound = self.options.__eq__

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.a(x))


SEEN: dict[str, Callable[[Any], Any]] = {
    "a number": lambda n: setattr(n, "number", 0.25),
    "a number of another type": lambda n: setattr(n, "number", "0.5"),
    "a text": lambda n: setattr(n, "name", "other"),
    "a function": lambda n: setattr(n, "function", torch.tanh),
    "a list": lambda n: n.sizes.append(4),
    "a list in a list": lambda n: n.sizes[1].__setitem__(0, 5),
    "a dictionary in one": lambda n: n.table["a"].__setitem__("b", 2),
    "a key": lambda n: n.table.__setitem__("c", n.table.pop("a")),
    "an object's attribute": lambda n: setattr(n.options, "more", 1),
    "an object in an object": lambda n: setattr(n.options.inner, "deep", 2),
    "another array": lambda n: setattr(n, "array", np.zeros(3)),
    "a tensor's numbers": lambda n: n.tensor.add_(1),
    "another tensor": lambda n: setattr(n, "tensor", torch.zeros(2)),
    "one attribute more": lambda n: setattr(n, "extra", 1),
    "one attribute less": lambda n: delattr(n, "number"),
    "a training flag": lambda n: n.blocks[1][0].eval(),
    "a probability": lambda n: setattr(n.blocks[1][0], "p", 0.2),
    "a module": lambda n: n.blocks.__setitem__(0, nn.ReLU()),
    "a module more": lambda n: n.blocks.append(nn.ReLU()),
    "an equal parameter": lambda n: setattr(n.a, "bias", nn.Parameter(n.a.bias.detach().clone())),
    "a parameter that was None": lambda n: setattr(n, "none", nn.Parameter(torch.zeros(1))),
    "a buffer": lambda n: setattr(n, "mean", torch.zeros(2)),
    "a forward hook": lambda n: n.a.register_forward_hook(print),
    "a pre-forward hook": lambda n: n.register_forward_pre_hook(print),
    "a backward hook": lambda n: n.a.register_full_backward_hook(print),
    "an attribute of the class": lambda n: setattr(type(n), "limit", 4),
    "a method of a base": lambda n: setattr(type(n).__bases__[0], "extra_repr", lambda self: "x"),
    "another class": lambda n: setattr(n.blocks[0], "__class__", nn.GELU),
}


def fresh() -> Any:
    """A network whose classes a test may patch."""
    base = type("Base", (Net,), dict(vars(Net)))
    return type("Own", (base,), {})()


@pytest.mark.parametrize("change", SEEN.values(), ids=SEEN)
def test_a_change_is_seen(change: Callable[[Any], Any]) -> None:
    module = fresh()
    state = ModuleState(module)
    assert state.holds(module)
    change(module)
    assert not state.holds(module)


UNSEEN: dict[str, Callable[[Any], Any]] = {
    "a parameter's numbers": lambda n: n.a.weight.data.add_(1),
    "a buffer's numbers": lambda n: n.mean.add_(1),
    "another dtype": lambda n: n.a.double(),
    "a gradient": lambda n: n(torch.zeros(1, 2)).sum().backward(),
    "a frozen parameter": lambda n: n.a.requires_grad_(False),
    "an equal number": lambda n: setattr(n, "number", float("0.5")),
}


@pytest.mark.parametrize("change", UNSEEN.values(), ids=UNSEEN)
def test_what_does_not_matter_is_not_seen(change: Callable[[Any], Any]) -> None:
    module = fresh()
    state = ModuleState(module)
    change(module)
    assert state.holds(module)


def test_attributes_that_a_forward_leaves_behind_are_passed_over() -> None:
    module = fresh()
    state = ModuleState(module, frozenset({(0, "tensor")}))
    module.tensor = torch.ones(3)
    assert state.holds(module)
    module.number = 1.0
    assert not state.holds(module) and state.changes() == [(0, "number")]


def test_changes_are_named_by_their_place() -> None:
    module = fresh()
    state = ModuleState(module)
    module.sizes[1][0] = 7
    module.blocks[1][0].p = 0.4
    parts = [path for path, _ in module.named_modules()]
    assert {(parts[number], name) for number, name in state.changes()} == {("", "sizes"), ("blocks.1.0", "p")}


def test_a_tree_sees_which_tensors_and_modules_stand_where() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tree = ModuleTree(module)
    module[0].weight.data = torch.ones(2, 2)
    assert tree.holds()
    module[0], module[1] = module[1], module[0]
    assert not tree.holds()


def test_modes_are_given_back_one_by_one() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout().eval()))
    before = [part.training for part in module.modules()]
    with pytest.raises(KeyError), modes_kept(module):
        module.eval()
        module[1].train()
        raise KeyError
    assert [part.training for part in module.modules()] == before == [True, True, True, False]
