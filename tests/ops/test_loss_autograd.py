"""The fused losses as autograd and the dispatcher see them: higher derivatives, registration, and when the reference runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.ops import loss

OBJECTIVES = [pytest.param(role, kind, id=f"{role}-{kind}") for role in "dg" for kind in loss.KINDS]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

pytestmark = pytest.mark.usefixtures("requires_extension", "device")


def evaluate(role: str, kind: str, real: Tensor, fake: Tensor, **options) -> Tensor:
    if role == "d":
        return loss.d_loss(real, fake, kind=kind, **options)
    return loss.g_loss(fake, real, kind=kind, **options)


def logits(*shape: int) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) * 3.0).requires_grad_()


def with_backend(role: str, kind: str, backend: str):
    return pytest.param(role, kind, backend, id=f"{backend}-{role}-{kind}")


HIGHER = [
    *(with_backend(*case.values, "cpp") for case in OBJECTIVES if case.values != ("d", "minimax")),  # = nonsaturating
    with_backend("d", "nonsaturating", "reference"),
    with_backend("g", "relativistic-average", "reference"),
]


@pytest.mark.parametrize("role, kind, backend", HIGHER)
def test_derivatives_to_third_order(role: str, kind: str, backend: str) -> None:
    def function(real: Tensor, fake: Tensor) -> Tensor:
        return evaluate(role, kind, real, fake, backend=backend)

    def first(real: Tensor, fake: Tensor) -> tuple[Tensor, ...]:
        value = function(real, fake) * 1.5
        return torch.autograd.grad(value, (real, fake), create_graph=True, materialize_grads=True)

    pair = (logits(2, 1), logits(2, 1))
    assert torch.autograd.gradcheck(function, pair)
    assert torch.autograd.gradgradcheck(function, pair)
    if kind != "wgan":  # its slopes are constants
        assert torch.autograd.gradgradcheck(first, pair)


@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_second_derivatives_where_the_sides_are_related(role: str, kind: str) -> None:
    """The derivative by one side is partial: neither the same tensor twice nor one computed from the other counts double."""

    def second(other: Callable[[Tensor], Tensor], name: str) -> Tensor:
        value = evaluate(role, kind, x, other(x), backend=name)
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(slope.square().sum(), x, materialize_grads=True)[0]

    x = logits(5, 1)
    for other in (lambda x: x, lambda x: 2.0 * x.sin()):
        torch.testing.assert_close(second(other, "cpp"), second(other, "reference"))


@pytest.mark.parametrize("kind", loss.KINDS)
def test_a_loss_with_statistics_is_differentiable_again(kind: str) -> None:
    def value(real: Tensor, fake: Tensor) -> Tensor:
        return loss.d_loss_with_statistics(real, fake, kind=kind, backend="cpp")[0]

    pair = (logits(2, 1), logits(2, 1))
    assert torch.autograd.gradcheck(value, pair) and torch.autograd.gradgradcheck(value, pair)


def test_a_penalty_on_the_losss_gradient_reaches_the_weights() -> None:
    critic, x = nn.Linear(4, 1).double(), torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for name in ("cpp", "reference"):
        value = loss.g_loss(critic(x), kind="nonsaturating", backend=name)
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), list(critic.parameters())))
    torch.testing.assert_close(*results)
    assert results[0][0].abs().max() > 0


def test_bce_with_labels_to_third_order() -> None:
    labels = torch.rand(2, 1, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return loss.bce_with_logits(x, labels, reduction="sum", backend="cpp")

    x = logits(2, 1)
    assert torch.autograd.gradcheck(function, x) and torch.autograd.gradgradcheck(function, x)
    assert torch.autograd.gradgradcheck(lambda x: torch.autograd.grad(function(x), x, create_graph=True)[0], x)


OPERATORS = [
    pytest.param("loss", ("bce",), id="loss"),
    pytest.param("loss", ("average", 1.0, 0.0, 1.0, False), id="loss-average-sum"),
    pytest.param("loss_statistics", ("bce",), id="loss_statistics"),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name, arguments", OPERATORS)
def test_forward_operators_are_registered_well(name: str, arguments: tuple, dtype) -> None:
    operator = getattr(torch.ops.fastgan, name).default
    torch.library.opcheck(operator, (torch.randn(6, 2).to(dtype), torch.randn(6, 2).to(dtype), *arguments))
    if arguments[0] == "bce":
        torch.library.opcheck(operator, (None, torch.randn(2, 6).to(dtype).t(), *arguments))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slopes_are_registered_well(dtype) -> None:
    real, fake, real_gradient, fake_gradient = (torch.randn(6, 2).to(dtype) for _ in range(4))
    torch.library.opcheck(torch.ops.fastgan.loss_gradients_.default, (real, fake, real_gradient, fake_gradient, "paired"))
    torch.library.opcheck(torch.ops.fastgan.loss_gradients_.default, (None, fake, None, fake_gradient, "bce"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_operators_are_registered_well(dtype: torch.dtype) -> None:
    real, fake = torch.randn(6, 2).to(dtype), torch.rand(2, 6).to(dtype).t()
    upstream = torch.tensor(1.5, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    for want_real in (True, False):
        arguments = (upstream, real, fake, want_real, "hinge")
        torch.library.opcheck(torch.ops.fastgan.loss_backward.default, arguments)
    torch.library.opcheck(torch.ops.fastgan.bce.default, (real, fake, True))
    torch.library.opcheck(torch.ops.fastgan.bce_backward.default, (upstream, real, fake, False))


class Called(TorchDispatchMode):
    """Notes which of fastgan's operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "fastgan":
            self.names.append(function._opname)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("role, kind", OBJECTIVES)
def test_one_kernel_forward_and_one_backward(role: str, kind: str) -> None:
    rows = 33_000 if role == "g" and kind in ("wgan", "hinge") else 5  # fewer are torch's own mean
    real, fake = logits(rows, 1), logits(rows, 1)
    before = [x.detach().clone() for x in (real, fake)]
    with Called() as called:
        evaluate(role, kind, real, fake).backward()
    assert called.names == ["loss", "loss_backward"]
    assert all(torch.equal(x.detach(), copy) for x, copy in zip((real, fake), before, strict=True))


@pytest.mark.parametrize("kind", ["wgan", "hinge"])
def test_the_mean_of_a_few_logits_is_torchs_own(kind: str) -> None:
    fake = logits(5, 1)
    with Called() as called:
        value = loss.g_loss(fake, kind=kind)
    assert called.names == []
    torch.testing.assert_close(value, -fake.mean(), rtol=1e-15, atol=1e-15)
    assert torch.equal(torch.autograd.grad(value, fake)[0], torch.full_like(fake, -1 / 5))


def test_no_graph_without_something_to_differentiate() -> None:
    real, fake = logits(5, 1), logits(5, 1)
    with torch.no_grad():
        assert loss.d_loss(real, fake, kind="hinge").grad_fn is None
    assert loss.d_loss(real.detach(), fake.detach(), kind="hinge").grad_fn is None


@pytest.mark.parametrize("kind", ["nonsaturating", "relativistic", "relativistic-average"])
def test_only_one_side_may_need_a_gradient(kind: str) -> None:
    real, fake = logits(5, 1), logits(5, 1)
    for pair in ((real, fake.detach()), (real.detach(), fake)):
        wanted = [x for x in pair if x.requires_grad]
        values = [loss.d_loss(*pair, kind=kind, backend=name) for name in ("cpp", "reference")]
        torch.testing.assert_close(*[torch.autograd.grad(value, wanted) for value in values])


def changed_in_place(real: Tensor, fake: Tensor) -> None:
    fake = fake * 1.0
    value = loss.d_loss(real, fake, kind="hinge", backend="cpp")
    fake.add_(1.0)
    value.backward()


def test_logits_changed_before_the_backward_pass_are_noticed() -> None:
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed_in_place(logits(3), logits(3))


class Tagged(Tensor):
    """A tensor subclass."""


def of_subclass(real: Tensor, fake: Tensor) -> Tensor:
    return loss.d_loss(real.detach().as_subclass(Tagged), fake, kind="lsgan", backend="cpp")  # type: ignore[arg-type]


def of_mixed_dtypes(real: Tensor, fake: Tensor) -> Tensor:
    return loss.d_loss(real.float(), fake, kind="lsgan", backend="cpp")


def of_differentiable_labels(real: Tensor, fake: Tensor) -> Tensor:
    return loss.bce_with_logits(fake, real.sigmoid(), backend="cpp")


def under_grad_transform(real: Tensor, fake: Tensor) -> Tensor:
    return torch.func.grad(lambda f: loss.d_loss(real, f, kind="lsgan", backend="cpp"))(fake)


def under_vmap(real: Tensor, fake: Tensor) -> Tensor:
    return torch.func.vmap(lambda f: loss.g_loss(f, kind="lsgan", backend="cpp"))(fake)


def with_forward_derivatives(real: Tensor, fake: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(fake.detach(), torch.ones_like(fake))
        tangent = forward_ad.unpack_dual(loss.d_loss(real.detach(), dual, kind="lsgan", backend="cpp")).tangent
    assert tangent is not None
    torch.testing.assert_close(tangent, 2 * fake.detach().mean())
    return tangent


@pytest.mark.parametrize(
    "call",
    [
        of_subclass,
        of_mixed_dtypes,
        of_differentiable_labels,
        under_grad_transform,
        under_vmap,
        with_forward_derivatives,
    ],
)
def test_what_kernels_cannot_see_runs_the_reference(call: Callable[..., Tensor]) -> None:
    with Called() as called:
        call(logits(3, 1), logits(3, 1))
    assert called.names == []


def test_compiled_code_holds_the_reference() -> None:
    targets: list[str] = []

    def note(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(lambda r, f: loss.d_loss(r, f, kind="lsgan", backend="cpp"), fullgraph=True, backend=note)
    real, fake = logits(3, 1), logits(3, 1)
    assert compiled(real, fake).isclose(loss.d_loss(real, fake, kind="lsgan"))
    assert targets and not any("fastgan" in target for target in targets)
