"""Mistakes in a call of the suite itself: named, and no fault of what is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgan import losses, penalties, testing

gp, r1, dragan = penalties.gradient_penalty, penalties.r1_penalty, penalties.dragan_penalty


@pytest.mark.parametrize("value", ["hinge", None, 10.0, losses.GANLoss], ids=str)
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (testing.diagnose_d_loss, "loss"),
        (testing.check_g_loss, "loss"),
        (testing.diagnose_gradient_penalty, "penalty"),
        (testing.check_dragan_penalty, "penalty"),
        (testing.diagnose_r1_penalty, "penalty"),
        (testing.check_r2_penalty, "penalty"),
        (testing.diagnose_d_step, "step"),
    ],
)
def test_what_is_no_function_is_refused(call: Callable, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be a function, which is called as {name}\(.* and comes first; got "):
        call(value)


CALLS: list[tuple[Callable, Any, str, Any, type[Exception]]] = [
    (testing.diagnose_gradient_penalty, gp, "weight", "x", TypeError),
    (testing.check_gradient_penalty, gp, "weight", 0, ValueError),
    (testing.diagnose_gradient_penalty, gp, "target", "a", TypeError),
    (testing.diagnose_gradient_penalty, gp, "target", -1, ValueError),
    (testing.diagnose_gradient_penalty, gp, "target", float("inf"), ValueError),
    (testing.diagnose_gradient_penalty, gp, "one_sided", 1, TypeError),
    (testing.diagnose_gradient_penalty, gp, "half_precision", "bf16", TypeError),
    (testing.diagnose_dragan_penalty, dragan, "std_scale", None, TypeError),
    (testing.check_dragan_penalty, dragan, "std_scale", 0.0, ValueError),
    (testing.diagnose_dragan_penalty, dragan, "weight", [1.0], TypeError),
    (testing.diagnose_r1_penalty, r1, "gamma", True, TypeError),
    (testing.check_r2_penalty, r1, "gamma", -1.0, ValueError),
    (testing.diagnose_d_loss, losses.d_loss, "label_smoothing", "x", TypeError),
    (testing.diagnose_d_loss, losses.d_loss, "label_smoothing", 1.0, ValueError),
    (testing.diagnose_d_loss, losses.lsgan_d_loss, "half_precision", 0, TypeError),
    (testing.diagnose_d_loss, losses.d_loss, "scale", 0.5, ValueError),
    (testing.diagnose_g_loss, losses.g_loss, "scale", "half", TypeError),
    (testing.check_g_loss, losses.g_loss, "kind", 3, TypeError),
]


@pytest.mark.parametrize(("call", "function", "name", "value", "error"), CALLS)
def test_an_option_that_is_none_is_refused(call: Callable, function: Any, name: str, value: Any, error: type) -> None:
    with pytest.raises(error, match=f"^{name} "):
        call(function, **{name: value})


def test_a_scale_that_is_no_number_is_refused_by_losses_too() -> None:
    for scale in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale must be a finite number"):
            losses.GANLoss("lsgan", scale=scale)
