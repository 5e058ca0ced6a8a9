"""Conformance of any GAN loss, gradient penalty or discriminator's step: faults found by closed forms, and named.

    from fastgan import testing
    testing.check_gradient_penalty(my_penalty)                          # my_penalty(critic, real, fake); raises with all faults
    testing.diagnose_d_loss(my_loss, "hinge")                           # my_loss(real, fake); the same faults as a tuple
    testing.check_d_step(my_step)                                       # my_step(critic, real, fake) -> the loss

After the faults, a tuple has notes (`Fault.is_note`): conventions that a right formula follows. No check raises for them.

Nothing here is computed by fastgan's own losses and penalties.
"""

from __future__ import annotations

from .faults import ConformanceError, Fault
from .losses import check_d_loss, check_g_loss, diagnose_d_loss, diagnose_g_loss
from .penalties import (
    check_dragan_penalty,
    check_gradient_penalty,
    check_r1_penalty,
    check_r2_penalty,
    diagnose_dragan_penalty,
    diagnose_gradient_penalty,
    diagnose_r1_penalty,
    diagnose_r2_penalty,
)
from .steps import check_d_step, diagnose_d_step

__all__ = [
    "ConformanceError",
    "Fault",
    "check_d_loss",
    "check_d_step",
    "check_dragan_penalty",
    "check_g_loss",
    "check_gradient_penalty",
    "check_r1_penalty",
    "check_r2_penalty",
    "diagnose_d_loss",
    "diagnose_d_step",
    "diagnose_dragan_penalty",
    "diagnose_g_loss",
    "diagnose_gradient_penalty",
    "diagnose_r1_penalty",
    "diagnose_r2_penalty",
]
