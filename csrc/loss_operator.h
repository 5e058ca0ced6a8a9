// What every operator of loss is told, and how it checks that; loss.cpp says what the forms mean.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>

// In an anonymous namespace, as loss_pass.h is.
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Two = std::array<double, 2>;  // one number for each side

constexpr int kReal = 0, kFake = 1;  // the sides

enum Form : int64_t { kBce, kSquare, kHinge, kLinear, kPaired, kAverage };

struct Objective {
  int64_t form;
  Two target;
  double scale;
  bool mean;
};

#define FASTGAN_LOGITS(TYPE, ...) AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, TYPE, "fastgan::loss", __VA_ARGS__)

at::ScalarType wide_type(const Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor dense(const OptionalTensor& logits) {
  return logits.has_value() && logits->defined() ? logits->contiguous() : Tensor();
}

void check(const Objective& objective, const Tensor& real, const Tensor& fake) {
  const bool compares = objective.form == kPaired || objective.form == kAverage;
  TORCH_CHECK(objective.form >= kBce && objective.form <= kAverage, "unknown form ", objective.form);
  TORCH_CHECK(real.defined() || !compares, "this form compares fake with real logits");
  TORCH_CHECK(!real.defined() || real.scalar_type() == fake.scalar_type(), "real and fake differ in dtype");
  TORCH_CHECK(objective.form != kPaired || real.numel() == fake.numel(), "real and fake differ in number");
}

}  // namespace
