"""penalty: what a row's input gradient costs, and what it is multiplied by to be the penalty's derivative.

Inlined by the first tangent product, which sees whole rows of the gradient on its way.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def price_and_factor(squares, weight, target, one_sided, SQUARED: tl.constexpr):
    """Of squared norms |g|^2 [R] each row's share of the penalty, and the factor f of its push f g; weight: over the rows.

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
