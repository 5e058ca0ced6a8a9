// loss without a reduction: a value for each row, and gradients that a gradient for each row multiplies.

#include "../objective.h"
#include "loss_pass.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <string_view>
#include <tuple>

namespace {

// Gradients from above: one for each row, or one for all, which a sum or a mean leaves.
template <class T>
struct Upstream {
  const T* each;
  T one;
  T operator[](int64_t i) const { return each ? each[i] : one; }
};

template <class scalar, class LogitLoss>
struct Row {
  using T = wide_t<scalar>;
  const scalar* logits;
  scalar* gradient;
  Upstream<T> upstream;
  LogitLoss logit_loss;
  T scale;
  T value(int64_t i) const { return scale * logit_loss.value(T(logits[i])); }
  void write(int64_t i) const { gradient[i] = narrow<scalar>(upstream[i] * scale * logit_loss.gradient(T(logits[i]))); }
};

template <class scalar, bool write_real>
struct PairRow {
  using T = wide_t<scalar>;
  const scalar *real, *fake;
  scalar *real_gradient, *fake_gradient;
  Upstream<T> upstream;
  Bce<T> logit_loss;
  T scale;
  T value(int64_t i) const { return scale * logit_loss.value(T(fake[i]) - T(real[i])); }
  void write(int64_t i) const {
    const T loss_gradient = upstream[i] * scale * logit_loss.gradient(T(fake[i]) - T(real[i]));
    fake_gradient[i] = narrow<scalar>(loss_gradient);
    if constexpr (write_real) real_gradient[i] = narrow<scalar>(-loss_gradient);
  }
};

template <class scalar>
struct LabelRow {
  using T = wide_t<scalar>;
  const scalar *logits, *labels;
  scalar* gradient;
  Upstream<T> upstream;
  T value(int64_t i) const { return Bce<T>(T(labels[i]), T(0)).value(T(logits[i])); }
  void write(int64_t i) const { gradient[i] = narrow<scalar>(upstream[i] * Bce<T>(T(labels[i]), T(0)).gradient(T(logits[i]))); }
};

template <class T>
struct Nothing {
  T value(int64_t) const { return T(0); }
  void write(int64_t) const {}
};

template <class T, class One, class Other>
FASTGAN_VARIANTS FASTGAN_FLATTEN void row_pass(T* out, One one, Other other, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) out[i] = one.value(i) + other.value(i);
}

constexpr int64_t kGrain = 16 * 1024;  // rows that are worth a thread

// Writes values, or gradients where there is no place for values.
template <class T, class One, class Other>
void visit(T* values, const One& one, const Other& other, int64_t rows) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    if (values) return row_pass(values, one, other, begin, end);
    gradient_pass(one, begin, end);
    gradient_pass(other, begin, end);
  });
}

// Logits, where their gradients go and what multiplies these; or where values go.
template <class scalar>
struct Rows {
  using T = wide_t<scalar>;
  const scalar *real, *fake;
  scalar *real_gradient, *fake_gradient;
  Upstream<T> upstream;
  T* values;
  int64_t count;
};

template <class LogitLoss, class scalar>
void visit_sides(const Rows<scalar>& rows, const Objective& objective) {
  using T = wide_t<scalar>;
  const auto item = [&](const scalar* logits, scalar* gradient, int side) {
    return Row<scalar, LogitLoss>{logits, gradient, rows.upstream, LogitLoss(objective.target[side], 0.0), T(objective.scale)};
  };
  const auto fake = item(rows.fake, rows.fake_gradient, kFake), real = item(rows.real, rows.real_gradient, kReal);
  if (rows.values ? rows.real == nullptr : rows.real_gradient == nullptr) {
    return visit(rows.values, fake, Nothing<T>{}, rows.count);
  }
  visit(rows.values, real, fake, rows.count);
}

template <bool write_real, class scalar>
void visit_pairs(const Rows<scalar>& rows, const Objective& objective) {
  using T = wide_t<scalar>;
  const Bce<T> logit_loss(objective.target[kFake], 0.0);
  const PairRow<scalar, write_real> item{rows.real,     rows.fake,  rows.real_gradient, rows.fake_gradient,
                                         rows.upstream, logit_loss, T(objective.scale)};
  visit(rows.values, item, Nothing<T>{}, rows.count);
}

template <class scalar>
void visit_rows(const Rows<scalar>& rows, const Objective& objective) {
  if (objective.form == kPaired) {
    return rows.real_gradient ? visit_pairs<true>(rows, objective) : visit_pairs<false>(rows, objective);
  }
  visit_form(objective.form,
             [&](auto form) { visit_sides<typename decltype(form)::template Loss<wide_t<scalar>>>(rows, objective); });
}

void check_rows(const Objective& objective, const Tensor& real, const Tensor& fake) {
  check(objective, real, fake);
  TORCH_CHECK(objective.form != kAverage, "a row of this form depends on the others");
  TORCH_CHECK(!real.defined() || real.sizes() == fake.sizes(), "real and fake differ in shape");
}

void check_upstreams(const Tensor& upstream, const Tensor& logits) {
  TORCH_CHECK(upstream.sizes() == logits.sizes() && upstream.scalar_type() == wide_type(logits),
              "the upstream gradient is not like the values");
}

// `kept` holds what the result points to.
template <class T>
Upstream<T> upstream_of(const Tensor& upstream, Tensor& kept) {
  const auto strides = upstream.strides();
  const bool same = upstream.numel() > 0 && std::all_of(strides.begin(), strides.end(), [](int64_t s) { return s == 0; });
  if (same) return {nullptr, *upstream.const_data_ptr<T>()};
  kept = upstream.contiguous();
  return {kept.const_data_ptr<T>(), T(0)};
}

Tensor empty_values(const Tensor& logits) {
  return at::empty(logits.sizes(), logits.options().dtype(wide_type(logits)));
}

Tensor loss_rows(const OptionalTensor& real_logits, const Tensor& fake_logits, std::string_view form, double fake_target,
                 double real_target, double scale) {
  const Objective objective{form, {real_target, fake_target}, scale, false};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous(), values = empty_values(fake);
  check_rows(objective, real, fake);
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    using T = wide_t<scalar_t>;
    const auto* const real_data = real.defined() ? real.const_data_ptr<scalar_t>() : nullptr;
    visit_rows(
        Rows<scalar_t>{
            real_data, fake.const_data_ptr<scalar_t>(), nullptr, nullptr, {}, values.mutable_data_ptr<T>(), fake.numel()},
        objective);
  });
  return values;
}

std::tuple<Tensor, Tensor> loss_rows_backward(const Tensor& upstream, const OptionalTensor& real_logits,
                                              const Tensor& fake_logits, bool want_real, std::string_view form,
                                              double fake_target, double real_target, double scale) {
  const Objective objective{form, {real_target, fake_target}, scale, false};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check_rows(objective, real, fake);
  check_upstreams(upstream, fake);
  const Tensor real_gradient = want_real && real.defined() ? at::empty_like(real) : Tensor();
  const Tensor fake_gradient = at::empty_like(fake);
  Tensor kept;
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    const auto* const real_data = real.defined() ? real.const_data_ptr<scalar_t>() : nullptr;
    auto* const real_place = real_gradient.defined() ? real_gradient.mutable_data_ptr<scalar_t>() : nullptr;
    visit_rows(
        Rows<scalar_t>{real_data, fake.const_data_ptr<scalar_t>(), real_place, fake_gradient.mutable_data_ptr<scalar_t>(),
                       upstream_of<wide_t<scalar_t>>(upstream, kept), nullptr, fake.numel()},
        objective);
  });
  return {real_gradient, fake_gradient};
}

Tensor bce_rows(const Tensor& x, const Tensor& labels) {
  check_labels(x, labels);
  const Tensor logits = x.contiguous(), targets = labels.contiguous(), values = empty_values(logits);
  FASTGAN_LOGITS(logits.scalar_type(), [&] {
    using T = wide_t<scalar_t>;
    const LabelRow<scalar_t> item{logits.const_data_ptr<scalar_t>(), targets.const_data_ptr<scalar_t>(), nullptr, {}};
    visit(values.mutable_data_ptr<T>(), item, Nothing<T>{}, logits.numel());
  });
  return values;
}

Tensor bce_rows_backward(const Tensor& upstream, const Tensor& x, const Tensor& labels) {
  check_labels(x, labels);
  check_upstreams(upstream, x);
  const Tensor logits = x.contiguous(), targets = labels.contiguous(), gradient = at::empty_like(logits);
  Tensor kept;
  FASTGAN_LOGITS(logits.scalar_type(), [&] {
    using T = wide_t<scalar_t>;
    const LabelRow<scalar_t> item{logits.const_data_ptr<scalar_t>(), targets.const_data_ptr<scalar_t>(),
                                  gradient.mutable_data_ptr<scalar_t>(), upstream_of<T>(upstream, kept)};
    visit(static_cast<T*>(nullptr), item, Nothing<T>{}, logits.numel());
  });
  return gradient;
}

namespace meta {

Tensor dense_like(const Tensor& logits) {
  return at::empty_like(logits, logits.options(), at::MemoryFormat::Contiguous);
}
Tensor loss_rows(const OptionalTensor&, const Tensor& fake, std::string_view, double, double, double) {
  return empty_values(fake);
}
std::tuple<Tensor, Tensor> loss_rows_backward(const Tensor&, const OptionalTensor& real, const Tensor& fake, bool want_real,
                                              std::string_view, double, double, double) {
  return {want_real && real.has_value() && real->defined() ? dense_like(*real) : Tensor(), dense_like(fake)};
}
Tensor bce_rows(const Tensor& x, const Tensor&) {
  return empty_values(x);
}
Tensor bce_rows_backward(const Tensor&, const Tensor& x, const Tensor&) {
  return dense_like(x);
}

}  // namespace meta
}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("loss_rows", &loss_rows);
  m.impl("loss_rows_backward", &loss_rows_backward);
  m.impl("bce_rows", &bce_rows);
  m.impl("bce_rows_backward", &bce_rows_backward);
}

TORCH_LIBRARY_IMPL(fastgan, Meta, m) {
  m.impl("loss_rows", &meta::loss_rows);
  m.impl("loss_rows_backward", &meta::loss_rows_backward);
  m.impl("bce_rows", &meta::bce_rows);
  m.impl("bce_rows_backward", &meta::bce_rows_backward);
}
