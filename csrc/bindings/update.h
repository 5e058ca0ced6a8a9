// update: one optimizer step in place over flat buffers, all fp32 or all fp64; see reference.update_. Returns the sum of the
// finite gradients' squares and the number of weights whose gradient or new value is not finite, [2].
// rule and options: as csrc/cpu/optimizer.h explains them.
#pragma once

#include "../cpu/update.h"
#include "tensors.h"

#include <algorithm>
#include <cmath>

namespace fastgan::bindings {

constexpr std::string_view kFloats = "weight must be fp32 or fp64";

// What the caller of an operator gives beside the gradient.
struct StepTensors {
  const Tensor& weight;
  const std::vector<Tensor>& state;
  const Tensor &lr, &count, &withhold;
  const OptionalTensor& ema;
};

// A 0-d tensor's value.
inline double number(const Tensor& scalar, const char* name) {
  require(scalar.numel() == 1, name, " must hold one number");
  double value = 0;
  visit_dtype<int64_t, float, double, bool>(scalar, std::string(name) + " must be int64, fp32, fp64 or bool",
                                            [&](auto type) { value = static_cast<double>(*source<decltype(type)>(scalar)); });
  return value;
}

inline void set_number(const Tensor& scalar, double value) {
  visit_dtype<int64_t, float, double>(scalar, "count must be int64, fp32 or fp64", [&](auto type) {
    using T = decltype(type);
    *target<T>(scalar) = static_cast<T>(value);
  });
}

// Whether any element is true or, of floating-point numbers, not finite.
inline bool is_withheld(const Tensor& withhold) {
  require(withhold.is_contiguous(), "withhold must be contiguous");
  bool any = false;
  visit_dtype<bool, float, double>(withhold, "withhold must be bool, fp32 or fp64", [&](auto type) {
    using T = decltype(type);
    const auto bad = [](T value) { return std::is_same_v<T, bool> ? value : !std::isfinite(double(value)); };
    any = std::any_of(source<T>(withhold), source<T>(withhold) + withhold.numel(), bad);
  });
  return any;
}

inline void check_buffer(const Tensor& buffer, const Tensor& weight, const char* name) {
  require(buffer.is_contiguous() && dtype_of(buffer) == dtype_of(weight) && buffer.numel() == weight.numel(), name,
          " must be contiguous, and of weight's dtype and size");
}

inline void check(const StepTensors& a) {
  check_buffer(a.weight, a.weight, "weight");
  for (const Tensor& buffer : a.state) check_buffer(buffer, a.weight, "state");
  if (a.ema) check_buffer(*a.ema, a.weight, "ema");
}

// Calls run(lr, count, withheld) with the step's numbers, count from 1, and keeps the count unless the step is withheld.
// Returns what the operator does.
template <class Run>
Tensor with_numbers(const StepTensors& a, const Run& run) {
  const bool withheld = is_withheld(a.withhold);
  const double lr = number(a.lr, "lr"), count = number(a.count, "count") + 1;
  const StepResult result = run(lr, count, withheld);
  if (!withheld) set_number(a.count, count);
  Tensor numbers;
  visit_dtype<float, double>(a.weight, kFloats, [&](auto type) {
    using T = decltype(type);
    const int64_t two = 2;
    numbers = empty<T>(&two, 1);
    target<T>(numbers)[0] = static_cast<T>(result.squares), target<T>(numbers)[1] = static_cast<T>(result.not_finite);
  });
  return numbers;
}

// Calls run(step) with the step of weights of type T that the tensors and the options make.
template <class T, class Run>
Tensor with_step(const StepTensors& a, const T* gradient, const std::string& rule, const std::vector<double>& options,
                 double clip, double ema_decay, const Run& run) {
  return with_numbers(a, [&](double lr, double count, bool withheld) {
    std::vector<T*> state;
    for (const Tensor& buffer : a.state) state.push_back(target<T>(buffer));
    return run(Step<T>{target<T>(a.weight),
                       gradient,
                       a.weight.numel(),
                       {state.data(), state.size()},
                       target<T>(a.ema),
                       rule,
                       {options.data(), options.size()},
                       lr,
                       count,
                       clip,
                       ema_decay,
                       withheld});
  });
}

inline Tensor update_(const Tensor& weight, const Tensor& gradient, const std::vector<Tensor>& state, const Tensor& lr,
                      const Tensor& count, const Tensor& withhold, const std::string& rule, const std::vector<double>& options,
                      double clip, const OptionalTensor& ema, double ema_decay) {
  const StepTensors tensors{weight, state, lr, count, withhold, ema};
  check(tensors);
  check_buffer(gradient, weight, "gradient");
  Tensor result;
  visit_dtype<float, double>(weight, kFloats, [&](auto type) {
    using T = decltype(type);
    result = with_step(tensors, source<T>(gradient), rule, options, clip, ema_decay,
                       [](const Step<T>& step) { return update(step); });
  });
  return result;
}

#define FASTGAN_RULE \
  "Tensor lr, Tensor(c!) count, Tensor withhold, str rule, float[] options, float clip=0.0, Tensor(d!)? ema=None, float ema_decay=0.0"

inline void define_update(Library& m) {
  m.def("update_(Tensor(a!) weight, Tensor gradient, Tensor(b!)[] state, " FASTGAN_RULE ") -> Tensor");
}

inline void implement_update(Library& m) {
  m.impl("update_", TORCH_BOX(&update_));
}

}  // namespace fastgan::bindings
