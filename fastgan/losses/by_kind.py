"""Each objective's two losses as functions of their own."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .objectives import d_loss, g_loss

D_TEXT = """The discriminator's loss of the {kind} objective: `d_loss` of that kind.

Args:
    real: logits of real samples, [rows, ...], fp16, bf16, fp32 or fp64.
    fake: logits of fake samples, the same.
    label_smoothing: e in [0, 1): real targets are 1 - e; 0.0 where the kind is not minimax, nonsaturating or lsgan.
    scale: 0.5 for lsgan's halved convention, 1.0 for every other kind.
    reduction: "mean" of each side, "sum" or "none".
    backend: "auto", or the implementation that has to run: "reference", "cpp", "triton".

Returns:
    0-d, or the elementwise loss [rows, ...] for reduction="none"; fp32, fp64 for fp64 logits.

Raises:
    ValueError, TypeError, BackendUnavailable: as `d_loss` does.

Example:
    >>> loss = {name}(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
    >>> round(float(loss), 4)
    {value}
"""

G_TEXT = """The generator's loss of the {kind} objective: `g_loss` of that kind.

Args:
    fake: logits of fake samples, [rows, ...], fp16, bf16, fp32 or fp64.
    real: logits of real samples, the same; needed by the relativistic kinds and ignored by the others.
    scale: 0.5 for lsgan's halved convention, 1.0 for every other kind.
    reduction: "mean" of each side, "sum" or "none".
    backend: "auto", or the implementation that has to run: "reference", "cpp", "triton".

Returns:
    0-d, or the elementwise loss [rows, ...] for reduction="none"; fp32, fp64 for fp64 logits.

Raises:
    ValueError, TypeError, BackendUnavailable: as `g_loss` does.

Example:
    >>> loss = {name}(torch.tensor([0.0, 1.0]), real=torch.tensor([1.0, 2.0]))
    >>> round(float(loss), 4)
    {value}
"""


def _pair(kind: str, *examples: float) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """One objective's losses as functions of their own; `examples` are the values that their examples show."""

    def d(real: Tensor, fake: Tensor, *, label_smoothing=0.0, scale=1.0, reduction="mean", backend="auto") -> Tensor:
        smoothing = label_smoothing
        return d_loss(real, fake, kind, label_smoothing=smoothing, scale=scale, reduction=reduction, backend=backend)

    def g(fake: Tensor, *, real: Tensor | None = None, scale=1.0, reduction="mean", backend="auto") -> Tensor:
        return g_loss(fake, real, kind, scale=scale, reduction=reduction, backend=backend)

    for function, role, text, value in zip((d, g), "dg", (D_TEXT, G_TEXT), examples, strict=True):
        function.__name__ = function.__qualname__ = name = f"{kind.replace('-', '_')}_{role}_loss"
        function.__doc__ = text.format(kind=kind, name=name, value=value)
    return d, g


minimax_d_loss, minimax_g_loss = _pair("minimax", 1.2233, -1.0032)
nonsaturating_d_loss, nonsaturating_g_loss = _pair("nonsaturating", 1.2233, 0.5032)
lsgan_d_loss, lsgan_g_loss = _pair("lsgan", 1.0, 0.5)
wgan_d_loss, wgan_g_loss = _pair("wgan", -1.0, -0.5)
hinge_d_loss, hinge_g_loss = _pair("hinge", 1.5, -0.5)
relativistic_d_loss, relativistic_g_loss = _pair("relativistic", 0.3133, 1.3133)
relativistic_average_d_loss, relativistic_average_g_loss = _pair("relativistic-average", 0.6755, 2.6755)
