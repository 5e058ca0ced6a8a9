"""Presets: what a trainer's `loss` stands for when nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass

from .. import losses
from ..optim import Adam, Optimizer, RMSprop
from ..penalties import R1, R2, GradientPenalty, Spec, WeightClip

ARTICLE = Adam(2e-4, betas=(0.5, 0.999))


@dataclass(frozen=True)
class Preset:
    """An objective and what goes with it.

    Args:
        loss: one of losses.KINDS.
        penalty: specs.
        g_optimizer: the generator's.
        d_optimizer: the discriminator's.
        d_steps: discriminator updates per step.
    """

    loss: str
    penalty: tuple[Spec, ...] = ()
    g_optimizer: Optimizer = ARTICLE
    d_optimizer: Optimizer = ARTICLE
    d_steps: int = 1


_WGAN_GP = Adam(1e-4, betas=(0.5, 0.9))

PRESETS: dict[str, Preset] = {kind: Preset(kind) for kind in losses.KINDS}
# relativistic losses alone do not converge (Huang et al. 2024): without both penalties the generator stays on one picture
for _kind in ("relativistic", "relativistic-average"):
    PRESETS[_kind] = Preset(_kind, (R1(1.0), R2(1.0)))
PRESETS["wgan"] = Preset("wgan", (WeightClip(0.01),), RMSprop(5e-5), RMSprop(5e-5), d_steps=5)
PRESETS["wgan-gp"] = Preset("wgan", (GradientPenalty(10.0),), _WGAN_GP, _WGAN_GP, d_steps=5)


def preset(name: str) -> Preset:
    """The preset of a name.

    Args:
        name: one in PRESETS, or an alias of a loss.

    Returns:
        The preset.

    Raises:
        ValueError: an unknown name; the message lists them all.
    """
    if name.lower() in ("wgan-gp", "wgan_gp", "wgangp"):
        return PRESETS["wgan-gp"]
    try:
        return PRESETS[losses.resolve_kind(name)]
    except ValueError:
        raise ValueError(f"unknown loss {name!r}; choose one of {', '.join(PRESETS)}") from None
