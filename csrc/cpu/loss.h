// loss: logits -> an objective's value and its gradient per logit. logit_loss.h says what the forms mean.
//
// scalar: double, float, bf16 or half; values and statistics are wide.
#pragma once

#include "../objective.h"
#include "vector_math.h"

namespace fastgan {

// Real and fake logits, and where their gradients go; null and 0 for what is not there.
template <class scalar>
struct Batch {
  std::array<const scalar*, 2> logits;
  std::array<scalar*, 2> gradients;
  std::array<int64_t, 2> counts;
};

template <class scalar>
wide_t<scalar> loss(const Batch<scalar>& batch, const Objective& objective);

// Writes `upstream` times the gradients that have a place.
template <class scalar>
void loss_backward(const Batch<scalar>& batch, const Objective& objective, wide_t<scalar> upstream);

// Also the statistics [4]: the mean logits of real and of fake, and the mean of the signs of both; 0 for a side that is not
// there.
template <class scalar>
wide_t<scalar> loss_statistics(const Batch<scalar>& batch, const Objective& objective, wide_t<scalar>* statistics);

// All of them: the value is returned, gradients and statistics are written.
template <class scalar>
wide_t<scalar> loss_gradients(const Batch<scalar>& batch, const Objective& objective, wide_t<scalar>* statistics);

// Binary cross-entropy with a label for each logit.
template <class scalar>
wide_t<scalar> bce(const scalar* logits, const scalar* labels, int64_t count, bool mean);
template <class scalar>
void bce_backward(wide_t<scalar> upstream, const scalar* logits, const scalar* labels, scalar* gradient, int64_t count,
                  bool mean);

// Without a reduction.

// Gradients from above: one for each row, or one for all, which a sum or a mean leaves.
template <class T>
struct Upstream {
  const T* each;
  T one;
  FASTGAN_INLINE T operator[](int64_t i) const { return each ? each[i] : one; }
};

template <class scalar>
void loss_rows(const Batch<scalar>& batch, const Objective& objective, wide_t<scalar>* values);
template <class scalar>
void loss_rows_backward(const Batch<scalar>& batch, const Objective& objective, Upstream<wide_t<scalar>> upstream);
template <class scalar>
void bce_rows(const scalar* logits, const scalar* labels, int64_t count, wide_t<scalar>* values);
template <class scalar>
void bce_rows_backward(Upstream<wide_t<scalar>> upstream, const scalar* logits, const scalar* labels, scalar* gradient,
                       int64_t count);

}  // namespace fastgan
