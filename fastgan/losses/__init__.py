"""Adversarial losses on logits: one fused pass each, differentiable to any order.

With r = D(real) and f = D(fake) as logits, means over all elements, sums of both sides, no halves:

    kind                  discriminator                                      generator
    minimax               softplus(-r) + softplus(f)                         -softplus(f)
    nonsaturating         softplus(-r) + softplus(f)                         softplus(-f)
    lsgan                 (r - 1)^2 + f^2                                    (f - 1)^2
    wgan                  f - r                                              -f
    hinge                 relu(1 - r) + relu(1 + f)                          -f
    relativistic          softplus(f - r), row by row                        softplus(r - f)
    relativistic-average  softplus(mean f - r) + softplus(f - mean r)        the roles exchanged

Sources: Goodfellow et al. 2014 (minimax, nonsaturating), Mao et al. 2017 (lsgan), Arjovsky et al. 2017 (wgan),
Lim and Ye 2017 (hinge), Jolicoeur-Martineau 2018 (both relativistic kinds; the paired one is R3GAN's, Huang et al. 2024).
"""

from .bce import BCEWithLogitsLoss, binary_cross_entropy_with_logits
from .by_kind import pair as _pair
from .module import GANLoss
from .objectives import KINDS, Statistics, d_loss, d_loss_with_statistics, g_loss, resolve_kind

minimax_d_loss, minimax_g_loss = _pair("minimax", 1.2233, -1.0032)
nonsaturating_d_loss, nonsaturating_g_loss = _pair("nonsaturating", 1.2233, 0.5032)
lsgan_d_loss, lsgan_g_loss = _pair("lsgan", 1.0, 0.5)
wgan_d_loss, wgan_g_loss = _pair("wgan", -1.0, -0.5)
hinge_d_loss, hinge_g_loss = _pair("hinge", 1.5, -0.5)
relativistic_d_loss, relativistic_g_loss = _pair("relativistic", 0.3133, 1.3133)
relativistic_average_d_loss, relativistic_average_g_loss = _pair("relativistic-average", 0.6755, 2.6755)

__all__ = [
    "KINDS",
    "BCEWithLogitsLoss",
    "GANLoss",
    "Statistics",
    "binary_cross_entropy_with_logits",
    "d_loss",
    "d_loss_with_statistics",
    "g_loss",
    "hinge_d_loss",
    "hinge_g_loss",
    "lsgan_d_loss",
    "lsgan_g_loss",
    "minimax_d_loss",
    "minimax_g_loss",
    "nonsaturating_d_loss",
    "nonsaturating_g_loss",
    "relativistic_average_d_loss",
    "relativistic_average_g_loss",
    "relativistic_d_loss",
    "relativistic_g_loss",
    "resolve_kind",
    "wgan_d_loss",
    "wgan_g_loss",
]
