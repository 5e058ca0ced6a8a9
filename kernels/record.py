"""Where the numbers of an update's record stand, fp32 [4 + penalties + 2 programs].

The objective's value, whether the update was skipped, the mean real and fake logits, the rows' penalties, then each program's
sum of squared gradients and number of weights that were left alone. An update is skipped where any number from FINITE_CHECK to
the last penalty is not finite. `fastgan.ops.triton.update` has the same places for the host.
"""

from __future__ import annotations

import triton.language as tl

VALUE, SKIPPED, FINITE_CHECK, PENALTY_VALUES = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)
