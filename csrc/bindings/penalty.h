// penalty: a penalty's value and its derivative by the input gradients [B, ...], fp32 or fp64; see the reference.
#pragma once

#include "../cpu/penalty.h"
#include "tensors.h"

namespace fastgan::bindings {

// run(gradient, derivative, rows, width) writes the derivative and returns the value.
template <class Run>
std::tuple<Tensor, Tensor> penalty_gradient(const Tensor& given, const Run& run) {
  require(given.dim() >= 1, "a gradient has a row for each sample");
  const Tensor gradient = dense(given);
  const int64_t rows = gradient.size(0), width = rows ? gradient.numel() / rows : 0;
  Tensor value, derivative;
  visit_dtype<float, double>(gradient, "fastgan::penalty has no kernel for this dtype", [&](auto scalar) {
    using T = decltype(scalar);
    value = empty<T>(nullptr, 0), derivative = empty_like<T>(gradient);
    *target<T>(value) = run(source<T>(gradient), target<T>(derivative), rows, width);
  });
  return {value, derivative};
}

inline std::tuple<Tensor, Tensor> norm_penalty_gradient(const Tensor& gradient, double weight, double target, bool one_sided) {
  return penalty_gradient(gradient, [=](const auto* g, auto* derivative, int64_t rows, int64_t width) {
    return fastgan::norm_penalty_gradient(g, derivative, rows, width, weight, target, one_sided);
  });
}

inline std::tuple<Tensor, Tensor> square_penalty_gradient(const Tensor& gradient, double gamma) {
  return penalty_gradient(gradient, [=](const auto* g, auto* derivative, int64_t rows, int64_t width) {
    return fastgan::square_penalty_gradient(g, derivative, rows, width, gamma);
  });
}

inline void define_penalty(Library& m) {
  m.def(
      "norm_penalty_gradient(Tensor gradient, float weight, float target, bool one_sided) -> (Tensor value, Tensor derivative)");
  m.def("square_penalty_gradient(Tensor gradient, float gamma) -> (Tensor value, Tensor derivative)");
}

inline void implement_penalty(Library& m) {
  m.impl("norm_penalty_gradient", TORCH_BOX(&norm_penalty_gradient));
  m.impl("square_penalty_gradient", TORCH_BOX(&square_penalty_gradient));
}

}  // namespace fastgan::bindings
