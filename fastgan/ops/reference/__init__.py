"""What every fastgan operator means, in plain torch.

This is the only definition. The C++ and Triton implementations are compared with it, and it runs wherever nothing faster
exists. Written to be read: no fusion, nothing in place but what an operator is documented to update. A file for each stem.
"""

from .linear import SATURATING, activate, activation_slope, adjoint, encode_activation, linear, output_activation_slope, tangent
from .loss import (
    ALIASES,
    KINDS,
    LOGIT_KINDS,
    PAIRED_KINDS,
    RELATIVISTIC_KINDS,
    SMOOTHED_KINDS,
    bce_with_logits,
    d_loss,
    d_terms,
    fake_term,
    g_loss,
    g_terms,
    real_term,
    reduce_terms,
    side_loss,
    softplus,
    statistics,
    wide_labels,
)
from .penalty import norm_penalty, norm_penalty_gradient, row_norms, square_penalty, square_penalty_gradient
from .precision import wide
from .sample import (
    WORD,
    as_int64,
    batch_indices,
    dropout_scale,
    gather_rows,
    interpolate,
    key_of,
    normals,
    permute,
    philox4x32,
    random_words,
    uniforms,
)
from .update import RULES, adam, in_range, is_withheld, least_eps, rmsprop, sgd, update_
