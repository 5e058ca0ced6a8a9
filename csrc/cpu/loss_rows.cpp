// loss without a reduction: a value for each row, and gradients that a gradient for each row multiplies.

#include "loss.h"

#include "loss_pass.h"
#include "threads.h"

namespace fastgan {
namespace {

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
  parallel(rows, kGrain, [&](int64_t begin, int64_t end) {
    if (values) return row_pass(values, one, other, begin, end);
    gradient_pass(one, begin, end);
    gradient_pass(other, begin, end);
  });
}

// Logits, where their gradients go and what multiplies these; or where values go.
template <class scalar>
struct Rows {
  using T = wide_t<scalar>;
  const Batch<scalar>& batch;
  const Objective& objective;
  Upstream<T> upstream;
  T* values;
};

template <class LogitLoss, class scalar>
void visit_sides(const Rows<scalar>& rows) {
  using T = wide_t<scalar>;
  const auto& [logits, gradients, counts] = rows.batch;
  const auto item = [&](int side) {
    return Row<scalar, LogitLoss>{rows.batch.logits[side], rows.batch.gradients[side], rows.upstream,
                                  LogitLoss(rows.objective.target[side], 0.0), T(rows.objective.scale)};
  };
  const bool alone = rows.values ? logits[kReal] == nullptr : gradients[kReal] == nullptr;
  if (alone) return visit(rows.values, item(kFake), Nothing<T>{}, counts[kFake]);
  visit(rows.values, item(kReal), item(kFake), counts[kFake]);
}

template <bool write_real, class scalar>
void visit_pairs(const Rows<scalar>& rows) {
  using T = wide_t<scalar>;
  const auto& [logits, gradients, counts] = rows.batch;
  const Bce<T> logit_loss(rows.objective.target[kFake], 0.0);
  const PairRow<scalar, write_real> item{logits[kReal], logits[kFake], gradients[kReal],       gradients[kFake],
                                         rows.upstream, logit_loss,    T(rows.objective.scale)};
  visit(rows.values, item, Nothing<T>{}, counts[kFake]);
}

template <class scalar>
void visit_rows(const Rows<scalar>& rows) {
  if (rows.objective.form == kPaired) return rows.batch.gradients[kReal] ? visit_pairs<true>(rows) : visit_pairs<false>(rows);
  visit_form(rows.objective.form,
             [&](auto form) { visit_sides<typename decltype(form)::template Loss<wide_t<scalar>>>(rows); });
}

}  // namespace

template <class scalar>
void loss_rows(const Batch<scalar>& batch, const Objective& objective, wide_t<scalar>* values) {
  visit_rows(Rows<scalar>{batch, objective, {}, values});
}

template <class scalar>
void loss_rows_backward(const Batch<scalar>& batch, const Objective& objective, Upstream<wide_t<scalar>> upstream) {
  visit_rows(Rows<scalar>{batch, objective, upstream, nullptr});
}

template <class scalar>
void bce_rows(const scalar* logits, const scalar* labels, int64_t count, wide_t<scalar>* values) {
  visit(values, LabelRow<scalar>{logits, labels, nullptr, {}}, Nothing<wide_t<scalar>>{}, count);
}

template <class scalar>
void bce_rows_backward(Upstream<wide_t<scalar>> upstream, const scalar* logits, const scalar* labels, scalar* gradient,
                       int64_t count) {
  using T = wide_t<scalar>;
  visit(static_cast<T*>(nullptr), LabelRow<scalar>{logits, labels, gradient, upstream}, Nothing<T>{}, count);
}

#define FASTGAN_LOSS_ROWS(scalar)                                                                     \
  template void loss_rows(const Batch<scalar>&, const Objective&, wide_t<scalar>*);                   \
  template void loss_rows_backward(const Batch<scalar>&, const Objective&, Upstream<wide_t<scalar>>); \
  template void bce_rows(const scalar*, const scalar*, int64_t, wide_t<scalar>*);                     \
  template void bce_rows_backward(Upstream<wide_t<scalar>>, const scalar*, const scalar*, scalar*, int64_t);
FASTGAN_LOSS_ROWS(double)
FASTGAN_LOSS_ROWS(float)
FASTGAN_LOSS_ROWS(bf16)
#undef FASTGAN_LOSS_ROWS

}  // namespace fastgan
