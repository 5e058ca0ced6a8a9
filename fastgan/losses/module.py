"""An objective as a module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..ops import loss as ops
from .objectives import Statistics, _check_logits, _check_options, d_loss, d_loss_with_statistics, g_loss, resolve_kind


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

    Example:
        >>> loss = GANLoss("lsgan")
        >>> real, fake = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
        >>> float(loss.d(real, fake)), float(loss.g(fake))
        (1.0, 0.5)
        >>> float(loss(real, target_is_real=True) + loss(fake, target_is_real=False))
        1.0
    """

    def __init__(
        self,
        kind: str = "nonsaturating",
        *,
        label_smoothing: float = 0.0,
        scale: float = 1.0,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.kind = resolve_kind(kind)
        _check_options(self.kind, reduction, label_smoothing, scale)
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

    def g(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss.

        Args:
            fake: logits of fake samples, [rows, ...], fp16, bf16, fp32 or fp64.
            real: logits of real samples, the same, for the relativistic kinds.

        Returns:
            What `g_loss` returns.

        Raises:
            ValueError, TypeError, BackendUnavailable: as `g_loss` does.
        """
        return g_loss(fake, real, self.kind, **self._options())

    def _options(self) -> dict[str, Any]:
        return dict(scale=self.scale, reduction=self.reduction, backend=self.backend)

    def forward(self, prediction: Tensor, target_is_real: bool, for_discriminator: bool = True) -> Tensor:
        """The image-translation call: one side at a time.

        Args:
            prediction: logits of one side, [rows, ...], fp16, bf16, fp32 or fp64.
            target_is_real: whether their target is the real one.
            for_discriminator: False for the generator's loss of fake logits.

        Returns:
            0-d, or the elementwise loss [rows, ...] for reduction="none"; fp32, fp64 for fp64 logits.

        Raises:
            ValueError: a relativistic kind, which compares both sides and has no such form; a generator's logits whose target
                is not the real one; an empty batch.
            TypeError: logits that are no floating-point tensor.
            BackendUnavailable: the backend that was asked for cannot run.
        """
        if self.kind in ops.RELATIVISTIC_KINDS:
            raise ValueError(f"{self.kind} compares real with fake logits: use .d(real, fake) and .g(fake, real)")
        if not for_discriminator:
            if not target_is_real:
                raise ValueError("a generator's logits are to be real: call with target_is_real=True, or .g(fake)")
            return self.g(prediction)
        _check_logits("prediction", prediction)
        smoothing = self.label_smoothing
        return ops.side_loss(prediction, kind=self.kind, is_real=target_is_real, label_smoothing=smoothing, **self._options())

    def extra_repr(self) -> str:
        """The kind and its options.

        Returns:
            What repr() shows between the parentheses.
        """
        return f"{self.kind!r}, label_smoothing={self.label_smoothing}, scale={self.scale}, reduction={self.reduction!r}"
