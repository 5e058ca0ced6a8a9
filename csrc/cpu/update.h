// update: one optimizer step over a flat network, in place and in one pass over memory.
#pragma once

#include "base.h"

namespace fastgan {

// What a step works on and with, float or double. optimizer.h explains rule, options and state.
template <class T>
struct Step {
  T* weight;
  const T* gradient;
  int64_t size;
  Span<T*> state;  // as many each
  T* ema;          // or null
  std::string_view rule;
  Span<double> options;
  double lr, count;  // which update this is, from 1
  double clip;       // weights stay in [-clip, clip]; 0: anywhere
  double ema_decay;
  bool withheld;  // then all stays as it is, but what is returned
};

// The sum of the finite gradients' squares, and the number of weights left alone because their gradient or new value is not
// finite.
struct StepResult {
  double squares, not_finite;
};

template <class T>
StepResult update(const Step<T>& step);

}  // namespace fastgan
