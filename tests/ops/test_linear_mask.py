"""The mask of a fused layer's dropout, element by element: also where a number is the threshold, as one in 65,536 is."""

from __future__ import annotations

import pytest
import torch

from fastgan.ops.linear import linear
from tests.ops.test_linear import drawn, dropout

ROWS, COLUMNS = 2048, 512


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_a_large_mask_is_the_references(requires_extension: None, probability: float) -> None:
    rows, bias = torch.zeros(ROWS, 1), torch.ones(COLUMNS)
    made = linear(rows, torch.zeros(COLUMNS, 1), bias, dropout=dropout(probability), backend="cpp")
    expected = drawn(ROWS, COLUMNS, probability).float()
    assert torch.equal(made, expected)
    assert 0.99 < made.mean().item() < 1.01
