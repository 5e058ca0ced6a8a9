"""Every objective as a function of logits and as a module; the package says what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ops import loss as ops

KINDS = ops.KINDS

_ALIASES = {
    "minimax": ("mm", "saturating"),
    "nonsaturating": ("ns", "nsgan", "non-saturating", "modified", "vanilla", "gan", "logistic", "dcgan", "standard"),
    "lsgan": ("ls", "least-squares", "least-square", "mse"),
    "wgan": ("w", "wasserstein"),
    "hinge": ("wasserstein-hinge", "geometric"),
    "relativistic": ("rpgan", "rsgan", "relativistic-paired"),
    "relativistic-average": ("ragan",),
}
_NAMES = {name: kind for kind, aliases in _ALIASES.items() for name in (kind, *aliases)}


def resolve_kind(kind: str) -> str:
    """The canonical name of an objective; ValueError that lists them all for an unknown one."""
    found = _NAMES.get(kind) or _NAMES.get(str(kind).lower().replace("_", "-"))
    if found is None:
        hint = " (wgan-gp is the wgan loss plus penalties.gradient_penalty)" if "gp" in str(kind) else ""
        raise ValueError(f"unknown loss {kind!r}{hint}; choose one of {', '.join(KINDS)}")
    return found


def _check_logits(name: str, logits: Tensor) -> None:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        what = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"{name} must be a tensor of floating-point logits, got {what}")
    if logits.numel() == 0:
        raise ValueError(f"{name} is an empty batch, shape {tuple(logits.shape)}")


def _check_pair(real: Tensor, fake: Tensor, kind: str, reduction: str) -> None:
    _check_logits("real", real)
    _check_logits("fake", fake)
    if real.shape == fake.shape:
        return
    if real.dim() != fake.dim() or real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"real and fake differ beyond their rows: {tuple(real.shape)} and {tuple(fake.shape)}")
    if kind in ops.PAIRED_KINDS or reduction == "none":
        why = f"{kind} pairs them" if kind in ops.PAIRED_KINDS else 'reduction="none" adds them'
        raise ValueError(f"real has {real.shape[0]} rows and fake {fake.shape[0]}, but {why} row by row")


def _check_options(kind: str, reduction: str, label_smoothing: float = 0.0, scale: float = 1.0) -> None:
    if label_smoothing == 0.0 and scale == 1.0 and reduction in ops.REDUCTIONS:
        return  # most callers pay for no more than this line
    ops.check_reduction(reduction)
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if label_smoothing and kind not in ops.SMOOTHED_KINDS:
        raise ValueError(f"label smoothing is not defined for {kind}, only for {', '.join(ops.SMOOTHED_KINDS)}")
    if scale != 1.0 and kind != "lsgan":
        raise ValueError(f"scale belongs to lsgan's two conventions (1 or 0.5), not to {kind}")


def d_loss(
    real: Tensor,
    fake: Tensor,
    kind: str = "nonsaturating",
    *,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """The discriminator's loss.

    real, fake: logits [rows, ...] in fp16, bf16, fp32 or fp64; their rows may differ in number unless the kind pairs them.
    label_smoothing e: real targets are 1 - e (minimax, nonsaturating, lsgan). scale: 0.5 for lsgan's halved convention.
    Returns fp32 (fp64 for fp64 logits): 0-d, or the elementwise loss for reduction="none".
    Finite for logits up to 1e4 in magnitude. Derivatives of any order exist.
    Raises ValueError (shapes, empty batch, unknown kind or option), TypeError (not floating point).
    """
    kind = resolve_kind(kind)
    _check_options(kind, reduction, label_smoothing, scale)
    _check_pair(real, fake, kind, reduction)
    smoothing = label_smoothing
    return ops.d_loss(real, fake, kind=kind, label_smoothing=smoothing, scale=scale, reduction=reduction, backend=backend)


class Statistics(NamedTuple):
    """What people log of a critic, each 0-d and without a graph: its mean logits, and the mean sign of them in [-1, 1].

    The mean sign of the real logits is what StyleGAN2-ADA calls r_t (Karras et al. 2020): near 1 the critic overfits.
    """

    real_mean: Tensor
    fake_mean: Tensor
    real_sign: Tensor
    fake_sign: Tensor

    def numbers(self) -> dict[str, float]:
        """As floats by their names, for a log; waits for the device once."""
        return dict(zip(self._fields, torch.stack(self).tolist(), strict=True))


def d_loss_with_statistics(
    real: Tensor,
    fake: Tensor,
    kind: str = "nonsaturating",
    *,
    label_smoothing: float = 0.0,
    scale: float = 1.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> tuple[Tensor, Statistics]:
    """`d_loss`, and the logits' statistics from the same pass over them. Nothing waits for the device.

    Arguments, derivatives and errors as in `d_loss`.
    """
    kind = resolve_kind(kind)
    _check_options(kind, reduction, label_smoothing, scale)
    _check_pair(real, fake, kind, reduction)
    value, statistics = ops.d_loss_with_statistics(
        real, fake, kind=kind, label_smoothing=label_smoothing, scale=scale, reduction=reduction, backend=backend
    )
    return value, Statistics(*statistics.unbind())


def g_loss(
    fake: Tensor,
    real: Tensor | None = None,
    kind: str = "nonsaturating",
    *,
    scale: float = 1.0,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """The generator's loss; `real` logits are needed by the relativistic kinds and ignored by the others.

    Shapes, dtypes, derivatives and errors as in `d_loss`.
    """
    kind = resolve_kind(kind)
    _check_options(kind, reduction, 0.0, scale)
    if kind not in ops.RELATIVISTIC_KINDS:
        _check_logits("fake", fake)
        return ops.g_loss(fake, None, kind=kind, scale=scale, reduction=reduction, backend=backend)
    if real is None:
        raise ValueError(f"the generator's {kind} loss compares fake with real logits: pass real=")
    _check_pair(real, fake, kind, reduction)
    return ops.g_loss(fake, real, kind=kind, reduction=reduction, backend=backend)


def _pair(kind: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """One objective's losses as functions of their own, with the options of `d_loss` and `g_loss`."""

    def d(real: Tensor, fake: Tensor, *, label_smoothing=0.0, scale=1.0, reduction="mean", backend="auto") -> Tensor:
        smoothing = label_smoothing
        return d_loss(real, fake, kind, label_smoothing=smoothing, scale=scale, reduction=reduction, backend=backend)

    def g(fake: Tensor, *, real: Tensor | None = None, scale=1.0, reduction="mean", backend="auto") -> Tensor:
        return g_loss(fake, real, kind, scale=scale, reduction=reduction, backend=backend)

    for function, role in ((d, "d"), (g, "g")):
        function.__name__ = function.__qualname__ = f"{kind.replace('-', '_')}_{role}_loss"
        function.__doc__ = f"`{role}_loss` of the {kind} objective, with its options as keywords."
    return d, g


minimax_d_loss, minimax_g_loss = _pair("minimax")
nonsaturating_d_loss, nonsaturating_g_loss = _pair("nonsaturating")
lsgan_d_loss, lsgan_g_loss = _pair("lsgan")
wgan_d_loss, wgan_g_loss = _pair("wgan")
hinge_d_loss, hinge_g_loss = _pair("hinge")
relativistic_d_loss, relativistic_g_loss = _pair("relativistic")
relativistic_average_d_loss, relativistic_average_g_loss = _pair("relativistic-average")


class GANLoss(nn.Module):
    """One objective as a module: ``loss.d(real, fake)``, ``loss.g(fake)``, or ``loss(prediction, target_is_real)``.

    kind: see `KINDS`; options: label_smoothing, scale, reduction, as in `d_loss`. It has no parameters and no buffers.
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
        """The discriminator's loss of real and fake logits."""
        return d_loss(real, fake, self.kind, label_smoothing=self.label_smoothing, **self._options())

    def d_with_statistics(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Statistics]:
        """The same, and the statistics of the logits (`d_loss_with_statistics`)."""
        return d_loss_with_statistics(real, fake, self.kind, label_smoothing=self.label_smoothing, **self._options())

    def g(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss of fake logits, and of real ones for the relativistic kinds."""
        return g_loss(fake, real, self.kind, **self._options())

    def _options(self) -> dict[str, Any]:
        return dict(scale=self.scale, reduction=self.reduction, backend=self.backend)

    def forward(self, prediction: Tensor, target_is_real: bool, for_discriminator: bool = True) -> Tensor:
        """The image-translation call: one side at a time. With for_discriminator=False, the generator's loss of fake logits.

        Raises ValueError for the relativistic kinds, which compare both sides and have no such form, and for a generator that
        is to be told from real.
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
        return f"{self.kind!r}, label_smoothing={self.label_smoothing}, scale={self.scale}, reduction={self.reduction!r}"
