// An optimizer's step as operators are given it: its tensors, checked, and the rule that it names.
#pragma once

#include "optimizer.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What the caller of an operator gives; RuleArgs explains the options.
struct Step {
  const Tensor& weight;
  at::TensorList state;
  const Tensor& lr;
  const Tensor& count;
  const Tensor& withhold;
  std::string_view rule;
  at::ArrayRef<double> options;
  double clip;
  const OptionalTensor& ema;
  double ema_decay;
};

template <class T>
Network<T> network_of(const Step& a) {
  const T bound = a.clip ? T(a.clip) : std::numeric_limits<T>::infinity();
  T* ema = a.ema.has_value() ? a.ema->mutable_data_ptr<T>() : nullptr;
  return {a.weight.mutable_data_ptr<T>(), ema, bound, T(a.ema_decay)};
}

// A 0-d tensor's value.
inline double number(const Tensor& scalar, const char* name) {
  TORCH_CHECK(scalar.numel() == 1, name, " must hold one number");
  switch (scalar.scalar_type()) {
    case at::kLong: return static_cast<double>(*scalar.const_data_ptr<int64_t>());
    case at::kFloat: return *scalar.const_data_ptr<float>();
    case at::kDouble: return *scalar.const_data_ptr<double>();
    case at::kBool: return *scalar.const_data_ptr<bool>();
    default: TORCH_CHECK(false, name, " must be int64, fp32, fp64 or bool");
  }
}

// Whether any element is true or, of floating-point numbers, not finite.
inline bool is_withheld(const Tensor& withhold) {
  const auto any = [&](const auto* values, const auto& bad) { return std::any_of(values, values + withhold.numel(), bad); };
  TORCH_CHECK(withhold.is_contiguous(), "withhold must be contiguous");
  switch (withhold.scalar_type()) {
    case at::kBool: return any(withhold.const_data_ptr<bool>(), [](bool value) { return value; });
    case at::kFloat: return any(withhold.const_data_ptr<float>(), [](float value) { return !std::isfinite(value); });
    case at::kDouble: return any(withhold.const_data_ptr<double>(), [](double value) { return !std::isfinite(value); });
    default: TORCH_CHECK(false, "withhold must be bool, fp32 or fp64");
  }
}

inline void set_number(const Tensor& scalar, double value) {
  if (scalar.scalar_type() == at::kLong) *scalar.mutable_data_ptr<int64_t>() = static_cast<int64_t>(value);
  if (scalar.scalar_type() == at::kFloat) *scalar.mutable_data_ptr<float>() = static_cast<float>(value);
  if (scalar.scalar_type() == at::kDouble) *scalar.mutable_data_ptr<double>() = value;
}

inline void check_buffer(const Tensor& buffer, const Tensor& weight, const char* name) {
  TORCH_CHECK(buffer.is_contiguous() && buffer.scalar_type() == weight.scalar_type() && buffer.numel() == weight.numel(), name,
              " must be contiguous, and of weight's dtype and size");
}

inline void check(const Step& a) {
  TORCH_CHECK(a.weight.scalar_type() == at::kFloat || a.weight.scalar_type() == at::kDouble, "weight must be fp32 or fp64");
  check_buffer(a.weight, a.weight, "weight");
  for (const Tensor& buffer : a.state) check_buffer(buffer, a.weight, "state");
  if (a.ema.has_value()) check_buffer(*a.ema, a.weight, "ema");
}

// What autograd has saved of these tensors is out of date.
inline void mark_changed(const Step& a) {
  const auto bump = [](const Tensor& tensor) {
    if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
  };
  bump(a.weight);
  for (const Tensor& buffer : a.state) bump(buffer);
  if (a.ema.has_value()) bump(*a.ema);
}

// What a step returns: the sum of the finite gradients' squares, and the number of weights left alone for what is not finite.
inline Tensor result_of(const Totals& totals, const Tensor& weight) {
  const double numbers[] = {totals.squares, totals.not_finite};
  return at::tensor(at::ArrayRef<double>(numbers), weight.options());
}

// Calls run(rule) with the rule that a step names; count: which update it is, from 1.
template <class T, class Run>
void with_rule(const Step& a, double lr, double count, const Run& run) {
  c10::SmallVector<T*, 4> state;
  for (const Tensor& buffer : a.state) state.push_back(buffer.mutable_data_ptr<T>());
  with_rule(RuleArgs<T>{a.rule, a.options, state, lr, count}, run);
}

}  // namespace
