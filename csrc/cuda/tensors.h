// What every operator of loss does with its tensors before a kernel gets them.
#pragma once

#include "../logit_loss.h"
#include "../objective.h"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <optional>

namespace {

using at::Tensor;
using fastgan::kAverage;
using fastgan::kFake;
using fastgan::kPaired;
using fastgan::kReal;
using fastgan::Objective;
using fastgan::Two;
using OptionalTensor = std::optional<Tensor>;

#define FASTGAN_LOGITS(TYPE, ...) AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, TYPE, "fastgan::loss", __VA_ARGS__)

at::ScalarType wide_type(const Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor dense(const OptionalTensor& logits) {
  return logits.has_value() && logits->defined() ? logits->contiguous() : Tensor();
}

void check(const Objective& objective, const Tensor& real, const Tensor& fake) {
  TORCH_CHECK(real.defined() || !compares(objective), "this form compares fake with real logits");
  TORCH_CHECK(!real.defined() || real.scalar_type() == fake.scalar_type(), "real and fake differ in dtype");
  TORCH_CHECK(objective.form != kPaired || real.numel() == fake.numel(), "real and fake differ in number");
  TORCH_CHECK(!real.defined() || real.device() == fake.device(), "real and fake are on different devices");
}

void check_upstream(const Tensor& upstream, const Tensor& logits) {
  TORCH_CHECK(upstream.dim() == 0 && upstream.scalar_type() == wide_type(logits) && upstream.device() == logits.device(),
              "the upstream gradient is not like the value");
}

void check_labels(const Tensor& x, const Tensor& labels) {
  TORCH_CHECK(x.sizes() == labels.sizes() && x.scalar_type() == labels.scalar_type() && x.device() == labels.device(),
              "labels must be like the logits");
}

}  // namespace
