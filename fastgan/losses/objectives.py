"""Both losses of every objective as functions of logits; the package says what they are."""

from __future__ import annotations

from typing import NamedTuple, Never

import torch
from torch import Tensor

from ..ops import loss as ops
from ..runtime.arguments import describe, shown_without
from .arguments import (
    check_logits,
    check_options,
    check_order,
    check_pair,
    check_type,
    refuse_by_position,
    refuse_surplus,
)

KINDS = ops.KINDS
_OPTIONS = "label_smoothing=..., scale=..., reduction=..., backend=..."
_NAMES = {name: kind for kind, aliases in ops.ALIASES.items() for name in (kind, *aliases)}


def resolve_kind(kind: str) -> str:
    """The canonical name of an objective.

    Args:
        kind: a name of KINDS or another one that papers and libraries use, in any case, with - or _.

    Returns:
        The name in KINDS.

    Raises:
        ValueError: an unknown name; the message lists them all.
        TypeError: a kind that is no string.

    Example:
        >>> resolve_kind("LSGAN"), resolve_kind("wasserstein"), resolve_kind("non_saturating")
        ('lsgan', 'wgan', 'nonsaturating')
    """
    if not isinstance(kind, str):
        raise TypeError(f"kind must be a string, one of {', '.join(KINDS)}, got {describe(kind)}")
    found = _NAMES.get(kind) or _NAMES.get(kind.lower().replace("_", "-"))
    if found is None:
        hint = " (wgan-gp is the wgan loss plus penalties.gradient_penalty)" if "gp" in kind else ""
        raise ValueError(f"unknown loss {kind!r}{hint}; choose one of {', '.join(KINDS)}")
    return found


@shown_without("others")
def d_loss(
    real: Tensor,
    fake: Tensor,
    kind: str = "nonsaturating",
    *others: Never,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """The discriminator's loss: one fused pass over the logits.

    Finite for logits up to 1e4 in magnitude. Derivatives of any order exist.

    Args:
        real: logits of real samples, [rows, ...], fp16, bf16, fp32 or fp64.
        fake: logits of fake samples, the same; rows may differ in number unless the kind, or reduction="none", pairs them.
        kind: one of KINDS, or a name that `resolve_kind` knows.
        label_smoothing: e in [0, 1): real targets are 1 - e (minimax, nonsaturating, lsgan).
        scale: 0.5 for lsgan's halved convention, 1.0 for every other kind.
        reduction: "mean" of each side, "sum" or "none".
        backend: "auto", "reference" (plain torch) or "cpp"; one that is named must be able to run on this device.

    Returns:
        0-d, or the elementwise loss [rows, ...] for reduction="none"; fp32, fp64 for fp64 logits.

    Raises:
        ValueError: shapes that do not fit, an empty batch, an unknown kind or option.
        TypeError: logits that are no floating-point tensor, an option of a wrong kind.
        BackendUnavailable: the backend that was asked for cannot run.

    Example:
        >>> real, fake = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0], requires_grad=True)
        >>> loss = d_loss(real, fake, "hinge")
        >>> loss.item()
        1.5
        >>> loss.backward()
        >>> fake.grad
        tensor([0.5000, 0.5000])
    """
    if others:
        refuse_surplus(f"d_loss(real, fake, kind, {_OPTIONS})", others)
    kind = resolve_kind(kind)
    check_options(kind, reduction, label_smoothing, scale)
    check_pair(real, fake, kind, reduction)
    smoothing = label_smoothing
    return ops.d_loss(real, fake, kind=kind, label_smoothing=smoothing, scale=scale, reduction=reduction, backend=backend)


class Statistics(NamedTuple):
    """What people log of a critic, each 0-d and without a graph.

    The mean sign of the real logits is what StyleGAN2-ADA calls r_t (Karras et al. 2020): near 1 the critic overfits.

    Args:
        real_mean: the mean of the real logits.
        fake_mean: the mean of the fake logits.
        real_sign: the mean sign of the real logits, in [-1, 1].
        fake_sign: the mean sign of the fake logits, in [-1, 1].

    Example:
        >>> loss, seen = d_loss_with_statistics(torch.tensor([1.0, -2.0, 4.0, 1.0]), torch.zeros(4))
        >>> seen.numbers()
        {'real_mean': 1.0, 'fake_mean': 0.0, 'real_sign': 0.5, 'fake_sign': 0.0}
    """

    real_mean: Tensor
    fake_mean: Tensor
    real_sign: Tensor
    fake_sign: Tensor

    def numbers(self) -> dict[str, float]:
        """The statistics for a log; waits for the device once.

        Returns:
            Floats by their names.
        """
        return dict(zip(self._fields, torch.stack(self).tolist(), strict=True))


@shown_without("others")
def d_loss_with_statistics(
    real: Tensor,
    fake: Tensor,
    kind: str = "nonsaturating",
    *others: Never,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> tuple[Tensor, Statistics]:
    """`d_loss`, and the logits' statistics from the same pass over them. Nothing waits for the device.

    Derivatives as in `d_loss`.

    Args:
        real: logits of real samples, [rows, ...], fp16, bf16, fp32 or fp64.
        fake: logits of fake samples, the same; rows may differ in number unless the kind, or reduction="none", pairs them.
        kind: one of KINDS, or a name that `resolve_kind` knows.
        label_smoothing: e in [0, 1): real targets are 1 - e (minimax, nonsaturating, lsgan).
        scale: 0.5 for lsgan's halved convention, 1.0 for every other kind.
        reduction: "mean" of each side, "sum" or "none".
        backend: "auto", "reference" (plain torch) or "cpp"; one that is named must be able to run on this device.

    Returns:
        The loss as `d_loss` returns it, and its `Statistics`.

    Raises:
        ValueError, TypeError, BackendUnavailable: as `d_loss` does.

    Example:
        >>> loss, seen = d_loss_with_statistics(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0]), "wgan")
        >>> float(loss), float(seen.real_mean), float(seen.fake_sign)
        (-2.5, 2.0, -0.5)
    """
    if others:
        refuse_surplus(f"d_loss_with_statistics(real, fake, kind, {_OPTIONS})", others)
    kind = resolve_kind(kind)
    check_options(kind, reduction, label_smoothing, scale)
    check_pair(real, fake, kind, reduction)
    value, statistics = ops.d_loss_with_statistics(
        real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction, backend=backend
    )
    return value, Statistics(*statistics.unbind())


@shown_without("real", "others", compared="real")
def g_loss(
    fake: Tensor,
    compared: Tensor | None = None,
    kind: str = "nonsaturating",
    *others: Never,
    real: Tensor | None = None,
    scale: float = 1.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """The generator's loss: one fused pass over the logits.

    Finite for logits up to 1e4 in magnitude. Derivatives of any order exist.

    Args:
        fake: logits of fake samples, [rows, ...], fp16, bf16, fp32 or fp64.
        real: logits of real samples, the same, for the relativistic kinds. The others ignore real= by keyword, so that one
            loop serves all kinds, and refuse a second tensor by position.
        kind: one of KINDS, or a name that `resolve_kind` knows.
        scale: 0.5 for lsgan's halved convention, 1.0 for every other kind.
        reduction: "mean" of each side, "sum" or "none".
        backend: "auto", "reference" (plain torch) or "cpp"; one that is named must be able to run on this device.

    Returns:
        0-d, or the elementwise loss [rows, ...] for reduction="none"; fp32, fp64 for fp64 logits.

    Raises:
        ValueError: shapes that do not fit, an empty batch, an unknown kind or option, no real logits where they are needed, and
            real logits that need a gradient beside fake ones that need none.
        TypeError: logits that are no floating-point tensor, an option of a wrong kind, a second tensor by position that the
            kind does not compare.
        BackendUnavailable: the backend that was asked for cannot run.

    Example:
        >>> fake, real = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
        >>> float(g_loss(fake, kind="lsgan")), round(float(g_loss(fake, real, "relativistic")), 4)
        (0.5, 1.3133)
    """
    if others:
        refuse_surplus("g_loss(fake, real, kind, scale=..., reduction=..., backend=...)", others)
    kind = resolve_kind(kind)
    check_options(kind, reduction, 0.0, scale)
    if kind not in ops.RELATIVISTIC_KINDS:
        check_logits("fake", fake)
        if compared is not None:
            refuse_by_position(compared, kind)
        if real is not None:
            check_type("real", real)
        return ops.g_loss(fake, None, kind=kind, scale=scale, reduction=reduction, backend=backend)
    if real is None:
        real = compared
    elif compared is not None:
        raise TypeError("real came by position and by keyword: write g_loss(fake, real, kind) or real=")
    if real is None:
        raise ValueError(f"the generator's {kind} loss compares fake with real logits: pass real=")
    check_pair(real, fake, kind, reduction)
    check_order(real, fake)
    return ops.g_loss(fake, real, kind=kind, reduction=reduction, backend=backend)
