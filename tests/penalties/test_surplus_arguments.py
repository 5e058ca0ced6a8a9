"""Arguments that a penalty or a loss does not have, as other codebases pass them: a TypeError that says what to write."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan import losses
from fastgan.penalties import dragan_penalty, gradient_penalty, r1_penalty, r2_penalty

ROWS, CRITIC = torch.randn(4, 3), nn.Linear(3, 1)
TWO, THREE = (CRITIC, ROWS), (CRITIC, ROWS, ROWS)

CASES: list[tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any], str]] = [
    (gradient_penalty, (*THREE, 10.0), {}, "got 10.0 too: write gradient_penalty(critic, real, fake, weight=10.0)"),
    (gradient_penalty, (*THREE, "cuda"), {}, "got 'cuda' too: write gradient_penalty(critic, real, fake)"),
    (gradient_penalty, THREE, {"lambda_gp": 10}, "no argument lambda_gp, got lambda_gp=10: write weight="),
    (gradient_penalty, THREE, {"LAMBDA": 10}, "no argument LAMBDA, got LAMBDA=10: write weight="),
    (gradient_penalty, THREE, {"gamma": 2.0}, "no argument gamma, got gamma=2.0: write weight="),
    (gradient_penalty, THREE, {"constant": 1.0}, "no argument constant, got constant=1.0: write target="),
    (gradient_penalty, THREE, {"device": "cpu"}, "no argument device, got device='cpu': leave it out"),
    (gradient_penalty, THREE, {"labels": ROWS}, "it has weight, target, one_sided, alpha, generator, select, method"),
    (r1_penalty, (*TWO, 5), {}, "r1_penalty takes critic, real by position and all else by name, got 5 too: write r1_"),
    (r1_penalty, (*TWO, 10.0), {}, "write r1_penalty(critic, real, gamma=10.0)"),
    (r1_penalty, TWO, {"weight": 10}, "got weight=10: write gamma=, which is twice the factor of the mean of |g|^2"),
    (r1_penalty, TWO, {"r1_gamma": 10}, "got r1_gamma=10: write gamma="),
    (r1_penalty, TWO, {"target": 1.0}, "it has gamma, select, method"),
    (r2_penalty, (*TWO, 1.0), {}, "write r2_penalty(critic, fake, gamma=1.0)"),
    (r2_penalty, TWO, {"lambda_r2": 1.0}, "write gamma="),
    (dragan_penalty, (*TWO, ROWS), {}, "got a tensor of torch.float32, shape (4, 3) too: write dragan_penalty(critic, real)"),
    (dragan_penalty, (*TWO, 10.0, 0.5), {}, "got 10.0, 0.5 too: write dragan_penalty(critic, real, weight=10.0)"),
    (dragan_penalty, TWO, {"fake": ROWS}, "leave it out"),
    (dragan_penalty, TWO, {"noise_scale": 1.0}, "write std_scale="),
    (losses.d_loss, (ROWS, ROWS, "lsgan", 0.1), {}, "got 0.1 too: write d_loss(real, fake, kind, label_smoothing=..., scale="),
    (losses.d_loss_with_statistics, (ROWS, ROWS, "wgan", 0.0, 1.0), {}, "got 0.0, 1.0 too: write d_loss_with_statistics("),
    (losses.g_loss, (ROWS, ROWS, "relativistic", "sum"), {}, "got 'sum' too: write g_loss(fake, real, kind, scale=..."),
]


@pytest.mark.parametrize(("function", "arguments", "options", "message"), CASES)
def test_the_message_says_what_to_write(function: Callable, arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        function(*arguments, **options)


@pytest.mark.parametrize("function", sorted({case[0] for case in CASES}, key=lambda f: f.__name__))
def test_a_signature_shows_nothing_of_that(function: Callable) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert not [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
