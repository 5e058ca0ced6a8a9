// linear: what follows a product of matrices in a chain of layers, in place and in one pass over its result.
#pragma once

#include "dropout.h"
#include "half.h"
#include "vector_math.h"

namespace fastgan {

// rows [rows, width] = dropout(leaky(rows + bias)), with a unit's slope in its sign; bias [width] or null. See
// encode_activation of the reference. scalar: double, float or bf16, as below.
template <class scalar>
void encode_activation(scalar* values, int64_t rows, int64_t width, const wide_t<scalar>* bias, double negative_slope,
                       const MaskCounter& masks);

// adjoints [rows, width] times the slopes that the signs of activations tell; see activation_slope of the reference.
template <class scalar>
void activation_slope(scalar* adjoints, const scalar* activations, int64_t rows, int64_t width, double negative_slope,
                      double scale);

}  // namespace fastgan
