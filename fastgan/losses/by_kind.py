"""A kind's two losses as functions of their own."""

# annotations are types here, not text: these functions stand in another module, where the text would mean nothing
from collections.abc import Callable
from typing import Never

from torch import Tensor

from ..ops import loss as ops
from ..runtime.arguments import shown_without
from .objectives import d_loss, g_loss

D_TEXT = """The discriminator's loss of the {kind} objective: `d_loss` of that kind.

Args:
    real: logits of real samples, [rows, ...], fp16, bf16, fp32 or fp64.
    fake: logits of fake samples, the same.
    label_smoothing: e in [0, 1): real targets are 1 - e; 0.0 where the kind is not minimax, nonsaturating or lsgan.
    scale: 0.5 for lsgan's halved convention, 1.0 for every other kind.
    reduction: "mean" of each side, "sum" or "none".
    backend: "auto", "reference" (plain torch) or "cpp"; one that is named must be able to run on this device.

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
    backend: "auto", "reference" (plain torch) or "cpp"; one that is named must be able to run on this device.

Returns:
    0-d, or the elementwise loss [rows, ...] for reduction="none"; fp32, fp64 for fp64 logits.

Raises:
    ValueError, TypeError, BackendUnavailable: as `g_loss` does.

Example:
    >>> loss = {name}(torch.tensor([0.0, 1.0]), real=torch.tensor([1.0, 2.0]))
    >>> round(float(loss), 4)
    {value}
"""


def pair(kind: str, *examples: float) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """One kind's losses as functions of the package; `examples` are the values that their examples show."""

    stem = kind.replace("-", "_")
    d_call = f"{stem}_d_loss(real, fake, label_smoothing=..., scale=..., reduction=..., backend=...)"
    g_call = f"{stem}_g_loss(fake{', real=real' if kind in ops.RELATIVISTIC_KINDS else ''})"

    @shown_without("others")
    def d(
        real: Tensor, fake: Tensor, *others: Never, label_smoothing=0.0, scale=1.0, reduction="mean", backend="auto"
    ) -> Tensor:
        if others:
            raise TypeError(f"two sides come by position and options by name: write {d_call}")
        smoothing = label_smoothing
        return d_loss(real, fake, kind, label_smoothing=smoothing, scale=scale, reduction=reduction, backend=backend)

    @shown_without("others")
    def g(fake: Tensor, *others: Never, real: Tensor | None = None, scale=1.0, reduction="mean", backend="auto") -> Tensor:
        if others:
            raise TypeError(f"the fake side comes by position and all else by name: write {g_call}")
        return g_loss(fake, kind=kind, real=real, scale=scale, reduction=reduction, backend=backend)

    for function, role, text, value in zip((d, g), "dg", (D_TEXT, G_TEXT), examples, strict=True):
        function.__module__ = __package__
        function.__name__ = function.__qualname__ = name = f"{stem}_{role}_loss"
        function.__doc__ = text.format(kind=kind, name=name, value=value)
    return d, g
