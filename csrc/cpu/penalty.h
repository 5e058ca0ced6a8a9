// penalty: input gradients -> the penalty's value and its derivative by them, a row's norm and derivative in one visit.
#pragma once

#include "base.h"

namespace fastgan {

// Of gradient [rows, width], float or double: the value weight * mean (|g| - target)^2, of rows above the target alone if
// one-sided, and its derivative.
template <class T>
T norm_penalty_gradient(const T* gradient, T* derivative, int64_t rows, int64_t width, double weight, double target,
                        bool one_sided);

// The value gamma / 2 * mean |g|^2 and its derivative.
template <class T>
T square_penalty_gradient(const T* gradient, T* derivative, int64_t rows, int64_t width, double gamma);

}  // namespace fastgan
