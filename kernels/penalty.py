"""penalty: a row's penalty, and what its input gradient is multiplied by to be the penalty's derivative.

Inlined by the first tangent product, which sees whole rows of the gradient on its way.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def value_and_factor(squares, weight, target, one_sided, SQUARED: tl.constexpr):
    """Each row's share of the penalty, of squared norms |g|^2 [R], and the factor f of its derivative f g; weight: over rows.

    SQUARED: weight / 2 |g|^2. Otherwise weight (|g| - target)^2, of norms above the target alone if one-sided; f is 0 at g = 0.
    """
    if SQUARED:
        return 0.5 * weight * squares, weight + 0.0 * squares
    else:
        norm = tl.sqrt(squares)
        excess = norm - target
        excess = tl.where((one_sided != 0) & (excess < 0.0), 0.0, excess)
        positive = norm > 0.0
        # 0 * squares: nan stays nan
        factor = tl.where(positive, 2.0 * weight * excess / tl.where(positive, norm, 1.0), 0.0 * squares)
        return weight * excess * excess, factor
