"""An objective as a module."""

from __future__ import annotations

from typing import Any, Never

import numpy as np
import torch
from torch import Tensor, nn

from ..ops import loss as ops
from ..ops.backend import check_name
from ..ops.reference import wide
from ..runtime.arguments import describe, shown_without
from .arguments import broadcast, check_logits, check_options, labels_of
from .objectives import Statistics, d_loss, d_loss_with_statistics, g_loss, resolve_kind

_REAL = (
    "label_smoothing=e for real labels of 1 - e, or a label of your own in each call, loss(logits, 0.9), as BCEWithLogitsLoss"
)
_FAKE = "a label of your own in each call, loss(logits, 0.1), as BCEWithLogitsLoss"
ELSEWHERE = {  # arguments of other codebases' GANLoss, and what to write
    "target_real_label": _REAL,
    "real_label_val": _REAL,
    "target_fake_label": _FAKE,
    "fake_label_val": _FAKE,
    "loss_weight": "the factor before the call",
    "gan_mode": "kind=",
    "gan_type": "kind=",
    "is_disc": "for_discriminator=",
}


def _check_names(others: dict[str, Any]) -> None:
    """TypeError for arguments that this GANLoss does not have."""
    for name in others:
        advice = f": write {ELSEWHERE[name]} (docs/migration.md, 4)" if name in ELSEWHERE else ""
        raise TypeError(f"GANLoss has no argument {name}, got {name}={describe(others[name])}{advice}")


def _as_bool(name: str, value: Any) -> bool:
    """A number that is a truth value as one."""
    if isinstance(value, (int, np.bool_)) and value in (0, 1):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {describe(value)}")


class GANLoss(nn.Module):
    """One objective as a module: ``loss.d(real, fake)``, ``loss.g(fake)``, or ``loss(prediction, target_is_real)``.

    It has no parameters and no buffers.

    Args:
        kind: one of KINDS, or a name that `resolve_kind` knows.
        label_smoothing: e in [0, 1): real targets are 1 - e (minimax, nonsaturating, lsgan).
        scale: 0.5 for lsgan's halved convention, 1.0 for every other kind.
        reduction: "mean" of each side, "sum" or "none".
        backend: "auto", "reference" (plain torch) or "cpp"; one that is named must be able to run on this device.

    Raises:
        ValueError: an unknown kind, or an option that it does not have.
        TypeError: an option of a wrong kind, or one of another codebase's GANLoss; the message says what to write.

    Example:
        >>> loss = GANLoss("lsgan")
        >>> real, fake = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
        >>> float(loss.d(real, fake)), float(loss.g(fake))
        (1.0, 0.5)
        >>> float(loss(real, target_is_real=True) + loss(fake, target_is_real=False))
        1.0
        >>> round(float(loss(fake, 0.1)), 2)
        0.41
    """

    @shown_without("labels", "others")
    def __init__(
        self,
        kind: str = "nonsaturating",
        *labels: Never,
        label_smoothing: float = 0.0,
        scale: float = 1.0,
        reduction: str = "mean",
        backend: str = "auto",
        **others: Never,
    ) -> None:
        super().__init__()
        if isinstance(kind, Tensor):
            raise TypeError(
                "GANLoss is a class that takes a kind, got a tensor: write GANLoss(kind)(prediction, target_is_real)"
            )
        if labels:
            got = ", ".join(map(describe, labels))
            raise TypeError(f"GANLoss takes a kind alone by position, got {got} too: write {_REAL} (docs/migration.md, 4)")
        _check_names(others)
        self.kind = resolve_kind(kind)
        check_name(backend)
        check_options(self.kind, reduction, label_smoothing, scale)
        self.label_smoothing, self.scale, self.reduction, self.backend = label_smoothing, scale, reduction, backend

    def d(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss.

        Args:
            real: logits of real samples, [rows, ...], fp16, bf16, fp32 or fp64.
            fake: logits of fake samples, the same.

        Returns:
            What `d_loss` returns.

        Raises:
            ValueError, TypeError, BackendUnavailable: as `d_loss` does.
        """
        return d_loss(real, fake, self.kind, label_smoothing=self.label_smoothing, **self._options())

    def d_with_statistics(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Statistics]:
        """The discriminator's loss, and the statistics of the logits from the same pass over them.

        Args:
            real: logits of real samples, [rows, ...], fp16, bf16, fp32 or fp64.
            fake: logits of fake samples, the same.

        Returns:
            What `d_loss_with_statistics` returns.

        Raises:
            ValueError, TypeError, BackendUnavailable: as `d_loss` does.
        """
        return d_loss_with_statistics(real, fake, self.kind, label_smoothing=self.label_smoothing, **self._options())

    @shown_without("real", compared="real")
    def g(self, fake: Tensor, compared: Tensor | None = None, *, real: Tensor | None = None) -> Tensor:
        """The generator's loss.

        Args:
            fake: logits of fake samples, [rows, ...], fp16, bf16, fp32 or fp64.
            real: logits of real samples, the same, for the relativistic kinds. The others ignore real= by keyword, and refuse
                a second tensor by position.

        Returns:
            What `g_loss` returns.

        Raises:
            ValueError, TypeError, BackendUnavailable: as `g_loss` does.
        """
        return g_loss(fake, compared, self.kind, real=real, **self._options())

    def _options(self) -> dict[str, Any]:
        return dict(scale=self.scale, reduction=self.reduction, backend=self.backend)

    @shown_without("others")
    def forward(
        self, prediction: Tensor, target_is_real: bool | float | Tensor, for_discriminator: bool = True, **others: Never
    ) -> Tensor:
        """The image-translation call: one side at a time, or logits and their labels.

        A number or a tensor is a label, as of BCEWithLogitsLoss: minimax and nonsaturating take the cross-entropy with it,
        lsgan the squared distance from it. label_smoothing changes the targets of True and of tensors of bools, and no label.

        Args:
            prediction: logits of one side, [rows, ...], fp16, bf16, fp32 or fp64.
            target_is_real: whether their target is the real one; or a label for all of them, or a tensor of labels in their
                shape or with sizes of 1, of any float or integer dtype (minimax, nonsaturating, lsgan).
            for_discriminator: False for the generator's loss of fake logits.

        Returns:
            0-d, or the elementwise loss [rows, ...] for reduction="none"; fp32, fp64 for fp64 logits.

        Raises:
            ValueError: a relativistic kind, which compares both sides and has no such form; a generator's logits whose target
                is not the real one; an empty batch; labels whose shape does not fit.
            TypeError: logits that are no floating-point tensor, a target that is none, labels for a kind without labels.
            BackendUnavailable: the backend that was asked for cannot run.
        """
        if others:
            _check_names(others)
        if self.kind in ops.RELATIVISTIC_KINDS:
            raise ValueError(f"{self.kind} compares real with fake logits: use .d(real, fake) and .g(fake, real)")
        if for_discriminator is not True and for_discriminator is not False:
            for_discriminator = _as_bool("for_discriminator", for_discriminator)
        check_logits("prediction", prediction)
        if target_is_real is not True and target_is_real is not False:
            labels = self._labels(prediction, target_is_real, for_discriminator)
            if not isinstance(labels, bool):
                return self._loss_of_labels(prediction, labels)
            target_is_real = labels
        if for_discriminator:
            smoothing = self.label_smoothing
            return ops.side_loss(
                prediction, kind=self.kind, is_real=target_is_real, label_smoothing=smoothing, **self._options()
            )
        if not target_is_real:
            raise ValueError("a generator's logits are to be real: call with target_is_real=True, or .g(fake)")
        return ops.g_loss(prediction, kind=self.kind, **self._options())

    def _labels(self, prediction: Tensor, target: Any, for_discriminator: bool) -> bool | float | Tensor:
        """The label or labels, or the side that is meant."""
        if isinstance(target, np.bool_):
            return bool(target)
        labels = labels_of("target_is_real", target, prediction)
        if self.kind in ops.SMOOTHED_KINDS and (for_discriminator or self.kind != "minimax"):
            if not isinstance(labels, Tensor):
                return labels
            if target.dtype == torch.bool and for_discriminator:
                labels = wide(labels) * (1.0 - self.label_smoothing)
            return broadcast("target_is_real", labels, prediction)
        if isinstance(labels, float) and labels in (0.0, 1.0):
            return labels == 1.0
        loss = f"{self.kind}'s loss" if for_discriminator else f"the generator's {self.kind} loss"
        raise TypeError(f"{loss} has two sides and no labels: target_is_real must be True or False, got {describe(target)}")

    def _loss_of_labels(self, prediction: Tensor, labels: float | Tensor) -> Tensor:
        if self.kind == "lsgan":  # the fake side's target is 0
            return ops.side_loss(wide(prediction) - labels, kind="lsgan", is_real=False, **self._options())
        return ops.bce_with_logits(prediction, labels, reduction=self.reduction, backend=self.backend)

    def extra_repr(self) -> str:
        """The kind and its options.

        Returns:
            What repr() shows between the parentheses.
        """
        return f"{self.kind!r}, label_smoothing={self.label_smoothing}, scale={self.scale}, reduction={self.reduction!r}"
