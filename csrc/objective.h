// What every operator of loss is told, and how it checks that, on any device.
#pragma once

#include "logit_loss.h"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

// In an anonymous namespace, as both devices' loss_pass.h are; no file of them needs all of this.
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Two = std::array<double, 2>;  // one number for each side

constexpr int kReal = 0, kFake = 1;  // the sides

struct Objective {
  std::string_view form;
  Two target;
  double scale;
  bool mean;
};

#define FASTGAN_LOGITS(TYPE, ...) AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, TYPE, "fastgan::loss", __VA_ARGS__)

[[maybe_unused]] at::ScalarType wide_type(const Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

[[maybe_unused]] Tensor dense(const OptionalTensor& logits) {
  return logits.has_value() && logits->defined() ? logits->contiguous() : Tensor();
}

[[maybe_unused]] void check(const Objective& objective, const Tensor& real, const Tensor& fake) {
  const bool compares = objective.form == kPaired || objective.form == kAverage;
  TORCH_CHECK(real.defined() || !compares, "this form compares fake with real logits");
  TORCH_CHECK(!real.defined() || real.scalar_type() == fake.scalar_type(), "real and fake differ in dtype");
  TORCH_CHECK(objective.form != kPaired || real.numel() == fake.numel(), "real and fake differ in number");
  TORCH_CHECK(!real.defined() || real.device() == fake.device(), "real and fake are on different devices");
}

[[maybe_unused]] void check_upstream(const Tensor& upstream, const Tensor& logits) {
  TORCH_CHECK(upstream.dim() == 0 && upstream.scalar_type() == wide_type(logits) && upstream.device() == logits.device(),
              "the upstream gradient is not like the value");
}

[[maybe_unused]] void check_labels(const Tensor& x, const Tensor& labels) {
  TORCH_CHECK(x.sizes() == labels.sizes() && x.scalar_type() == labels.scalar_type() && x.device() == labels.device(),
              "labels must be like the logits");
}

}  // namespace
