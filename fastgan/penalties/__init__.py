"""Gradient penalties on the critic's input: functions for a loop of your own, and specs for the trainer.

With g = dD/dx, one row per sample, and norms over all of a sample's dimensions:

    gradient penalty  weight * mean (|g| - target)^2   at x = real + alpha (fake - real), one alpha per sample
    DRAGAN            weight * mean (|g| - target)^2   at x = real + std_scale * std(real) * uniform noise
    R1                gamma / 2 * mean |g|^2           at x = real
    R2                gamma / 2 * mean |g|^2           at x = fake

A critic is any callable of rows: a module, `lambda x: critic(x, labels)` for a conditional one, and with `select` one that
returns more than logits. Every row has logits of its own, [B], [B, ...] or maps flattened to [B * L, ...]: a mean over the
batch belongs to the loss, and a pack of samples (PacGAN) is a row, [B / k, k, ...], of a critic that flattens it. Norms and
values are fp32 or wider; inside autocast to bf16 the critic runs in bf16, to fp16 in fp32. Derivatives: any order by the
critic's parameters, by double backward; MLPs have a closed form, without it, for the first. In torch.compile, torch.func.grad
and vmap, and of compiled critics, penalties are as in eager code. A compiled penalty takes no `generator`, and no critic that
writes in place: batch norm in training mode, spectral norm by hooks (parametrized, it is fine). Attention runs on torch's math
kernel, as under `sdpa_kernel(SDPBackend.MATH)`, and on CUDA recurrent layers without cuDNN: others have no second derivative.
Both are settings of the process, while a critic runs. Activation checkpointing runs it again in backward: with attention
inside, put `sdpa_kernel(SDPBackend.MATH)` around the whole update. Batch norm in training mode mixes rows, so that a row's
gradient is not its own: a warning says so once for each critic.

Sources: Gulrajani et al. 2017, Petzka et al. 2018 (one-sided), Kodali et al. 2017 (DRAGAN), Mescheder et al. 2018 (R1, R2).
"""

from .config import as_specs, from_config, parse, to_config
from .functional import dragan_penalty, gradient_penalty, r1_penalty, r2_penalty
from .specs import DRAGAN, R1, R2, GradientPenalty, Penalty, Spec, WeightClip

__all__ = [
    "DRAGAN",
    "R1",
    "R2",
    "GradientPenalty",
    "Penalty",
    "Spec",
    "WeightClip",
    "as_specs",
    "dragan_penalty",
    "from_config",
    "gradient_penalty",
    "parse",
    "r1_penalty",
    "r2_penalty",
    "to_config",
]
