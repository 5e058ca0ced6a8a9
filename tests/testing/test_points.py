"""Which mistakes are named where several would explain the points of a penalty."""

from __future__ import annotations

from dataclasses import replace

import torch

from fastgan.testing import points
from fastgan.testing.layouts import DEFAULT
from fastgan.testing.points import Noise
from fastgan.testing.remedies import AT_WRONG_POINTS


def test_the_fewest_mistakes_are_named() -> None:
    """Noise alone and a step towards it are two right forms; what is near to one of them is blamed for that alone."""
    right = Noise(0.5)
    near = replace(right, scale=1.0)
    far = replace(right, step=points._uniform_step, scale=1.0, distribution=torch.special.ndtr)
    for fitting, names in (
        ((near, far), ["std_scale ignored"]),
        ((far,), ["noise normal instead of uniform", "std_scale ignored"]),
        ((replace(right, step=points._uniform_step),), []),
        ((), ["noise not uniform in [0, 1)"]),
    ):
        assert sorted(points._noise_mistakes(right, lambda form, fitting=fitting: form in fitting)) == names


def test_points_that_are_nowhere_are_not_the_rows() -> None:
    (found,) = points.at_rows(lambda real, fake: real * torch.nan, DEFAULT)
    assert found.name == AT_WRONG_POINTS and "asked up to nan away" in found.evidence
    assert not list(points.at_rows(lambda real, fake: real, DEFAULT))
