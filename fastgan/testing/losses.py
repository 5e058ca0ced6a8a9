"""Conformance of adversarial losses on logits, by their closed forms.

With r = D(real) and f = D(fake) as logits, means over all elements, sums of both sides, no halves, expected is what
`fastgan.losses` states for each kind: for nonsaturating softplus(-r) + softplus(f) and softplus(-f).

Sources: Goodfellow et al. 2014 (minimax, nonsaturating), Mao et al. 2017 (lsgan), Arjovsky et al. 2017 (wgan),
Lim and Ye 2017 (hinge), Jolicoeur-Martineau 2018 (relativistic kinds), Salimans et al. 2016 (one-sided smoothing).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..losses import resolve_kind
from ..losses.arguments import check_options
from ..penalties.arguments import as_flag
from .arguments import check_function
from .faults import Fault, collect, require_none
from .loss_checks import CHECKS, IN_HALF, Subject
from .objectives import PAIRED, RELATIVISTIC, d_objective, g_objective


def _resolve(loss: object, call: str, kind: str, scale: float, half_precision: bool, label_smoothing: float = 0.0) -> str:
    check_function("loss", loss, call)
    as_flag("half_precision", half_precision)
    kind = resolve_kind(kind)
    check_options(kind, "mean", label_smoothing, scale)
    return kind


def diagnose_d_loss(
    loss: Callable[..., Tensor],
    kind: str = "nonsaturating",
    *,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    half_precision: bool = False,
) -> tuple[Fault, ...]:
    """The faults of loss(real, fake), a discriminator's loss.

    Args:
        loss: any callable that takes two tensors of logits [N, ...] of one shape and returns a 0-d tensor. It runs on a CPU in
            fp64 (in fp32 where it cannot), fp32 and bf16.
        kind: the kind that it is meant to be, a name that `losses.resolve_kind` knows.
        scale: 0.5 for lsgan's halved convention.
        label_smoothing: e in [0, 1) for real labels of 1 - e (minimax, nonsaturating, lsgan).
        half_precision: whether logits in half precision are to have a value in fp32, which torch's own losses do not give.

    Returns:
        One entry for each fault, then one for each note (`Fault.is_note`): a convention under which it is right, or a choice
        that has a name. () if there is none.

    Raises:
        ValueError: an unknown kind, or an option that it does not have.
        TypeError: a loss that is no function, an option of another type.

    Example:
        >>> def half(real, fake):
        ...     return fastgan.losses.lsgan_d_loss(real, fake) / 2
        >>> [fault.name for fault in diagnose_d_loss(half, "lsgan")], diagnose_d_loss(half, "lsgan", scale=0.5)
        (['halved'], ())
    """
    kind = _resolve(loss, "loss(real, fake)", kind, scale, half_precision, label_smoothing)
    formula, mistakes = d_objective(kind, label_smoothing, scale)
    subject = Subject(loss, formula, mistakes, sides=("real", "fake"), differentiated=2, pairs=kind in PAIRED)
    return collect(CHECKS + IN_HALF * half_precision, subject)


def diagnose_g_loss(
    loss: Callable[..., Tensor], kind: str = "nonsaturating", *, scale: float = 1.0, half_precision: bool = False
) -> tuple[Fault, ...]:
    """The faults of loss(fake), a generator's loss, or of loss(fake, real) for the relativistic kinds.

    Args:
        loss: any callable that takes logits [N, ...], two tensors of one shape for the relativistic kinds, and returns a 0-d
            tensor. It runs on a CPU in fp64 (in fp32 where it cannot), fp32 and bf16. Slopes by real logits are not looked at.
        kind: the kind that it is meant to be, a name that `losses.resolve_kind` knows.
        scale: 0.5 for lsgan's halved convention.
        half_precision: whether logits in half precision are to have a value in fp32, which torch's own losses do not give.

    Returns:
        One entry for each fault, then one for each note (`Fault.is_note`): a convention under which it is right, or a choice
        that has a name. () if there is none.

    Raises:
        ValueError: an unknown kind, or an option that it does not have.
        TypeError: a loss that is no function, an option of another type.

    Example:
        >>> def saturating(fake):
        ...     return -torch.nn.functional.softplus(fake).mean()
        >>> [fault.name for fault in diagnose_g_loss(saturating)], diagnose_g_loss(saturating, "minimax")
        (['saturating loss in place of the non-saturating one'], ())
    """
    kind = _resolve(loss, "loss(fake)", kind, scale, half_precision)
    formula, mistakes = g_objective(kind, scale)
    sides = ("fake", "real")[: 1 + (kind in RELATIVISTIC)]
    subject = Subject(loss, formula, mistakes, sides, differentiated=1, pairs=kind in PAIRED)
    return collect(CHECKS + IN_HALF * half_precision, subject)


def check_d_loss(
    loss: Callable[..., Tensor],
    kind: str = "nonsaturating",
    *,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    half_precision: bool = False,
) -> None:
    """An assertion for tests: loss(real, fake) is a discriminator's loss without a fault that `diagnose_d_loss` would find.

    Args:
        loss: any callable that takes two tensors of logits [N, ...] of one shape and returns a 0-d tensor.
        kind: the kind that it is meant to be, a name that `losses.resolve_kind` knows.
        scale: 0.5 for lsgan's halved convention.
        label_smoothing: e in [0, 1) for real labels of 1 - e (minimax, nonsaturating, lsgan).
        half_precision: whether logits in half precision are to have a value in fp32, which torch's own losses do not give.

    Raises:
        ConformanceError: any fault; the message lists them all.
        ValueError: an unknown kind, or an option that it does not have.
        TypeError: a loss that is no function, an option of another type.

    Example:
        >>> check_d_loss(lambda real, fake: (fake - real).mean(), "wgan")
    """
    options = dict(scale=scale, label_smoothing=label_smoothing)
    found = diagnose_d_loss(loss, kind, half_precision=half_precision, **options)
    require_none(f"discriminator's {resolve_kind(kind)} loss", found)


def check_g_loss(
    loss: Callable[..., Tensor], kind: str = "nonsaturating", *, scale: float = 1.0, half_precision: bool = False
) -> None:
    """An assertion for tests: loss(fake) is a generator's loss without a fault that `diagnose_g_loss` would find.

    Args:
        loss: any callable that takes logits [N, ...], two tensors (fake, real) of one shape for the relativistic kinds, and
            returns a 0-d tensor.
        kind: the kind that it is meant to be, a name that `losses.resolve_kind` knows.
        scale: 0.5 for lsgan's halved convention.
        half_precision: whether logits in half precision are to have a value in fp32, which torch's own losses do not give.

    Raises:
        ConformanceError: any fault; the message lists them all.
        ValueError: an unknown kind, or an option that it does not have.
        TypeError: a loss that is no function, an option of another type.

    Example:
        >>> check_g_loss(lambda fake: -fake.mean(), "hinge")
    """
    found = diagnose_g_loss(loss, kind, scale=scale, half_precision=half_precision)
    require_none(f"generator's {resolve_kind(kind)} loss", found)
