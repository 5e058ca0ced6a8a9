"""Every argument of every loss, with values of a wrong kind: a TypeError of the project's own that names it."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan import losses
from fastgan.losses import BCEWithLogitsLoss, GANLoss, d_loss, d_loss_with_statistics, g_loss

X = torch.linspace(-2.0, 2.0, 4, dtype=torch.float64).view(4, 1)
OBJECTS = {
    "a list": [X, X],
    "a tuple": (0.9, 0.1),
    "a dict": {"logits": X},
    "an array": np.zeros(3),
    "a function": F.softplus,
    "a module": nn.Linear(1, 1),
    "a class": GANLoss,
    "a complex tensor": X.to(torch.complex64),
}
NOT_LOGITS = OBJECTS | {
    "None": None,
    "a string": "hinge",
    "a number": 1.0,
    "an integer tensor": X.long(),
    "eight bits": X.to(torch.float8_e5m2),
}
NOT_A_NUMBER = OBJECTS | {"None": None, "a string": "0.1", "a tensor": torch.tensor(0.0), "a batch": X}
NOT_A_STRING = OBJECTS | {"None": None, "a number": 0.5, "a tensor": X, "bytes": b"mean"}
NOT_A_FLAG = OBJECTS | {"a string": "False", "a fraction": 0.5, "a tensor": X}
NOT_A_LABEL = OBJECTS | {"None": None, "a string": "real"}
WRONG = {
    **dict.fromkeys(("real", "fake", "prediction", "input"), NOT_LOGITS),
    **dict.fromkeys(("label_smoothing", "scale"), NOT_A_NUMBER),
    **dict.fromkeys(("kind", "reduction", "backend"), NOT_A_STRING),
    **dict.fromkeys(("target_is_real", "target"), NOT_A_LABEL),
    **dict.fromkeys(("size_average", "reduce"), NOT_A_FLAG),
    **dict.fromkeys(("weight", "pos_weight"), OBJECTS | {"a number": 2.0, "a string": "sum"}),
    "for_discriminator": NOT_A_FLAG | {"None": None},
}
OPTIONAL = ("real", "weight", "pos_weight", "size_average", "reduce")  # None is one of their values
RIGHT = dict(real=X, fake=-X, prediction=X, input=X, target=0.5, target_is_real=True)
PAIRS = [getattr(losses, name) for name in losses.__all__ if name.endswith(("_d_loss", "_g_loss"))]
CALLS: dict[str, Callable] = {
    **{call.__name__: call for call in (losses.resolve_kind, d_loss, d_loss_with_statistics, g_loss, *PAIRS)},
    "g_loss that compares": partial(g_loss, kind="relativistic"),
    "bce": losses.binary_cross_entropy_with_logits,
    "BCEWithLogitsLoss": BCEWithLogitsLoss,
    "BCEWithLogitsLoss()": BCEWithLogitsLoss().forward,
    "GANLoss": GANLoss,
    **{f"GANLoss.{name}": getattr(GANLoss(), name) for name in ("d", "g", "d_with_statistics", "forward")},
    **{f"GANLoss.forward of {kind}": GANLoss(kind).forward for kind in ("minimax", "lsgan", "wgan", "hinge")},
    "GANLoss.g that compares": GANLoss("ragan").g,
}


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_of_a_wrong_kind_is_named(name: str) -> None:
    call = CALLS[name]
    parameters = inspect.signature(call).parameters
    right = {key: value for key, value in RIGHT.items() if key in parameters}
    if name != "resolve_kind":
        call(**right)
    for parameter in parameters:
        for what, value in WRONG[parameter].items():
            if value is None and parameter in OPTIONAL:
                continue
            with pytest.raises(TypeError) as caught:
                call(**right | {parameter: value})
            assert re.search(rf"\b{parameter}\b", str(caught.value)), f"{parameter} is {what}: {caught.value}"
            assert str(caught.value).count("\n") == 0
            assert caught.traceback[-1].path.is_relative_to(inspect.getfile(losses).rpartition("/losses")[0]), "not torch's"


def test_wrong_kinds_name_what_came_and_what_to_write() -> None:
    for value, words in {
        "list": ([X, X], "a list of 2: call the loss for each, as in sum(d_loss(r, f) for r, f in zip(real, fake))"),
        "dict": ({"logits": X}, "a dict of 'logits': pick the logits, or call the loss for each of fake.values()"),
        "array": (X.numpy(), "an object of numpy.ndarray: write torch.from_numpy(fake)"),
        "module": (nn.Linear(1, 1), "a module of torch.nn.modules.linear.Linear: call it"),
        "function": (F.softplus, "the function softplus: call it"),
        "class": (nn.Linear, "the class torch.nn.modules.linear.Linear: make an instance, call it"),
        "integers": (X.long(), "a tensor of torch.int64, shape (4, 1): write fake.float()"),
        "object": (object(), "an object of object"),
    }.values():
        with pytest.raises(TypeError, match=re.escape(f"got {words}")):
            d_loss(X, value)


def test_a_kind_in_the_place_of_logits() -> None:
    """g_loss(fake, "hinge") looks like d_loss(real, fake, "hinge"), and would be another objective."""
    for call in (
        lambda: g_loss(X, "hinge"),
        lambda: g_loss(X, "hinge", "hinge"),
        lambda: g_loss(X, real="hinge"),
        lambda: g_loss(X, "hinge", kind="relativistic"),
        lambda: d_loss(X, "hinge"),
        lambda: d_loss("hinge", X),
        lambda: GANLoss().g(X, "hinge"),
        lambda: losses.wgan_g_loss(X, real="hinge"),
    ):
        with pytest.raises(TypeError, match=re.escape('g_loss(fake, kind="hinge")')):
            call()


@pytest.mark.parametrize("kind", [kind for kind in losses.KINDS if "relativistic" not in kind])
def test_a_kind_that_compares_nothing_takes_no_second_tensor_by_position(kind: str) -> None:
    """g_loss(real, fake, kind) gave the fakes no gradient."""
    fake, real = X.clone().requires_grad_(), -X
    expected = g_loss(fake, kind=kind)
    for ignored in (real, real[:2], real.requires_grad_(), None):
        assert torch.equal(g_loss(fake, kind=kind, real=ignored), expected)
        assert torch.equal(GANLoss(kind).g(fake, real=ignored), expected)
    assert torch.equal(g_loss(fake, None, kind), expected)
    for call in (
        lambda: g_loss(fake, real, kind),
        lambda: g_loss(real, fake, kind),
        lambda: g_loss(fake, real, kind=kind),
        lambda: g_loss(fake, real, kind, real=real),
        lambda: GANLoss(kind).g(fake, real),
    ):
        with pytest.raises(TypeError, match=re.escape(f'g_loss(fake, kind="{kind}")')):
            call()


@pytest.mark.parametrize("kind", ["relativistic", "relativistic-average"])
def test_exchanged_sides_of_a_kind_that_compares(kind: str) -> None:
    fake, real = X.clone().requires_grad_(), -X
    expected = g_loss(fake, real, kind)
    assert torch.equal(g_loss(fake, kind=kind, real=real), expected) and torch.equal(GANLoss(kind).g(fake, real), expected)
    pair = getattr(losses, f"{kind.replace('-', '_')}_g_loss")
    for call in (
        lambda: g_loss(real, fake, kind),
        lambda: g_loss(real, kind=kind, real=fake),
        lambda: GANLoss(kind).g(real, fake),
        lambda: pair(real, real=fake),
    ):
        with pytest.raises(ValueError, match=re.escape("g_loss(fake, real, kind)")):
            call()
    both = X.clone().requires_grad_(), X.clone().requires_grad_()
    assert g_loss(*both, kind).requires_grad
    assert not g_loss(real, real, kind).requires_grad, "a value for the log"
    with pytest.raises(TypeError, match="by position and by keyword"):
        g_loss(fake, real, kind, real=real)


@pytest.mark.slow
def test_compiled_code_refuses_the_same() -> None:
    torch._dynamo.reset()
    fake = X.clone().requires_grad_()
    for call, error in (
        (lambda fake: g_loss(fake, "hinge"), TypeError),
        (lambda fake: g_loss(2 * fake, -fake, "hinge"), TypeError),
        (lambda fake: g_loss(X + 1, 2 * fake, "ragan"), ValueError),
        (lambda fake: GANLoss("hinge")(fake, 0.1), TypeError),
        (lambda fake: d_loss([fake], [fake]), TypeError),
    ):
        with pytest.raises(error):
            torch.compile(call, backend="eager")(fake)


def test_the_kinds_own_functions_take_sides_by_position_and_all_else_by_name() -> None:
    with pytest.raises(TypeError, match=re.escape("write hinge_g_loss(fake)")):
        losses.hinge_g_loss(X, X)
    with pytest.raises(TypeError, match=re.escape("write relativistic_average_g_loss(fake, real=real)")):
        losses.relativistic_average_g_loss(X, X)
    with pytest.raises(TypeError, match=re.escape("write lsgan_d_loss(real, fake, label_smoothing=...")):
        losses.lsgan_d_loss(X, X, 0.1)


def test_signatures_show_one_real() -> None:
    shown = "(fake: 'Tensor', real: 'Tensor | None' = None, kind: 'str' = 'nonsaturating', *, scale: 'float' = 1.0, "
    assert str(inspect.signature(g_loss)).startswith(shown)
    assert list(inspect.signature(GANLoss().g).parameters) == ["fake", "real"]
    assert list(inspect.signature(GANLoss).parameters) == ["kind", "label_smoothing", "scale", "reduction", "backend"]
    assert list(inspect.signature(GANLoss().forward).parameters) == ["prediction", "target_is_real", "for_discriminator"]
    assert list(inspect.signature(losses.hinge_g_loss).parameters)[:2] == ["fake", "real"]


@pytest.mark.parametrize(
    ("arguments", "options", "remedy"),
    [
        pytest.param((), dict(target_real_label=0.9), "label_smoothing", id="pix2pix, real"),
        pytest.param((), dict(target_fake_label=0.1), "BCEWithLogitsLoss", id="pix2pix, fake"),
        pytest.param(("lsgan",), dict(target_real_label=1.0, target_fake_label=0.0), "label_smoothing", id="pix2pix, both"),
        pytest.param(("lsgan", 0.9, 0.1), {}, "label_smoothing", id="by position"),
        pytest.param(("vanilla",), dict(real_label_val=0.9, fake_label_val=0.0), "label_smoothing", id="BasicSR, labels"),
        pytest.param(("vanilla",), dict(loss_weight=0.1), "factor", id="BasicSR, weight"),
        pytest.param((), dict(gan_mode="lsgan"), "kind=", id="pix2pix, mode"),
        pytest.param((), dict(gan_type="lsgan"), "kind=", id="BasicSR, type"),
    ],
)
def test_other_codebases_constructors_are_told_what_to_write(arguments: tuple, options: dict, remedy: str) -> None:
    with pytest.raises(TypeError, match=rf"{remedy}.*docs/migration\.md"):
        GANLoss(*arguments, **options)


def test_other_codebases_calls_are_told_what_to_write() -> None:
    with pytest.raises(TypeError, match="for_discriminator="):
        GANLoss("hinge")(X, True, is_disc=False)
    with pytest.raises(TypeError, match="no argument mask"):
        GANLoss("hinge")(X, True, mask=X)
    with pytest.raises(TypeError, match="no argument smoothing"):
        GANLoss(smoothing=0.1)
    with pytest.raises(TypeError, match=re.escape("GANLoss(kind)(prediction, target_is_real)")):
        GANLoss(X, True)
    with pytest.raises(TypeError, match=re.escape("BCEWithLogitsLoss()(input, target)")):
        BCEWithLogitsLoss(X, torch.ones(4, 1))


@pytest.mark.parametrize(
    "options", [dict(label_smoothing=np.float32(0.25)), dict(label_smoothing=np.float64(0.25)), dict(scale=2)]
)
def test_numbers_of_any_type_are_numbers(options: dict[str, Any]) -> None:
    plain = {name: float(value) for name, value in options.items()}
    for call in (lambda **o: d_loss(X, -X, "lsgan", **o), lambda **o: GANLoss("lsgan", **o).d(X, -X)):
        assert torch.equal(call(**options), call(**plain))


def test_sides_on_two_devices() -> None:
    there = torch.empty(4, 1, device="meta", dtype=torch.float64)
    for call in (
        lambda: d_loss(X, there),
        lambda: d_loss_with_statistics(there, X),
        lambda: g_loss(X, there, "relativistic"),
        lambda: GANLoss()(X, there),
        lambda: losses.binary_cross_entropy_with_logits(X, there),
        lambda: losses.binary_cross_entropy_with_logits(X, 1.0, weight=there),
    ):
        with pytest.raises(ValueError, match=r"write \w+\.to\('"):
            call()


def test_a_string_of_any_class_is_a_kind() -> None:
    class Kind(enum.StrEnum):
        OURS = "Hinge"

    assert torch.equal(d_loss(X, -X, Kind.OURS), d_loss(X, -X, "hinge"))
    assert torch.equal(d_loss(X, -X, np.str_("hinge")), d_loss(X, -X, "hinge"))
