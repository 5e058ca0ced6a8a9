// loss: logits -> an objective's value and its gradient per logit, each in one pass over memory.
// logit_loss.h says what the forms mean.
//
// Sums are in fp32 (fp64 for fp64) over 32 elements, then in fp64 in an order of its own: the result does not depend on the threads.

#include "../objective.h"
#include "loss_pass.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>
#include <vector>

namespace {

constexpr int64_t kGrain = 2;  // chunks that are worth a thread

// Both sides in one parallel loop over chunks of fixed size; their sums are added in the chunks' order.
template <int wanted, class Item>
std::array<Sums, 2> run(const std::array<Item, 2>& items, const std::array<int64_t, 2>& counts) {
  const int64_t real_chunks = (counts[kReal] + Item::chunk - 1) / Item::chunk;
  const int64_t chunks = real_chunks + (counts[kFake] + Item::chunk - 1) / Item::chunk;
  std::vector<Sums> partial(chunks);
  at::parallel_for(0, chunks, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int side = chunk < real_chunks ? kReal : kFake;
      const int64_t begin = (side == kReal ? chunk : chunk - real_chunks) * Item::chunk;
      const int64_t end = std::min(begin + Item::chunk, counts[side]);
      if constexpr (asks(wanted, kValue)) partial[chunk] = value_pass<asks(wanted, kStatistics)>(items[side], begin, end);
      if constexpr (asks(wanted, kGradient)) gradient_pass(items[side], begin, end);
    }
  });
  std::array<Sums, 2> totals;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    totals[chunk < real_chunks ? kReal : kFake] += partial[chunk];
  }
  return totals;
}

// Real and fake logits, and where their gradients go.
template <class scalar>
struct Batch {
  std::array<const scalar*, 2> logits;
  std::array<scalar*, 2> gradients;
  std::array<int64_t, 2> counts;
};

template <int wanted, class LogitLoss, class scalar>
std::array<Sums, 2> run_singles(const Batch<scalar>& batch, Two target, Two shift, Two weight, Two offset) {
  using T = wide_t<scalar>;
  const auto item = [&](int side) {
    return Single<scalar, LogitLoss>{batch.logits[side], batch.gradients[side], LogitLoss(target[side], shift[side]),
                                     T(weight[side]), T(offset[side])};
  };
  auto counts = batch.counts;
  if (asks(wanted, kGradient) && !batch.gradients[kReal]) counts[kReal] = 0;
  return run<wanted>(std::array{item(kReal), item(kFake)}, counts);
}

template <int wanted, bool write_real, class scalar>
std::array<Sums, 2> run_pairs(const Batch<scalar>& batch, double target, double weight) {
  using T = wide_t<scalar>;
  const Pairs<scalar, write_real> item{batch.logits[kReal],    batch.logits[kFake], batch.gradients[kReal],
                                       batch.gradients[kFake], Bce<T>(target, 0.0), T(weight)};
  return run<wanted>(std::array{item, item}, {batch.counts[kReal], 0});
}

// The other side's mean logit shifts every logit, so a logit's gradient also carries the other side's gradients, through the mean.
template <int wanted, class scalar>
std::array<Sums, 2> run_average(const Batch<scalar>& batch, Two target, Two weight) {
  using T = wide_t<scalar>;
  const auto logits = run_singles<kValue, Linear<T>>(batch, {}, {}, {}, {});
  const Two mean = {logits[kReal].value / batch.counts[kReal], logits[kFake].value / batch.counts[kFake]};
  const Two shift = {mean[kFake], mean[kReal]};
  Two offset{};
  if constexpr (asks(wanted, kGradient)) {
    const auto gradients = run_singles<kValue, BceGradient<T>>(batch, target, shift, {}, {});
    offset[kReal] = -weight[kFake] * gradients[kFake].value / batch.counts[kReal];
    offset[kFake] = -weight[kReal] * gradients[kReal].value / batch.counts[kFake];
  }
  return run_singles<wanted, Bce<T>>(batch, target, shift, weight, offset);
}

template <int wanted, class scalar>
std::array<Sums, 2> evaluate(const Batch<scalar>& batch, const Objective& objective, Two weight) {
  if (objective.form == kAverage) return run_average<wanted>(batch, objective.target, weight);
  if (objective.form == kPaired) {
    return batch.gradients[kReal] ? run_pairs<wanted, true>(batch, objective.target[kFake], weight[kReal])
                                  : run_pairs<wanted, false>(batch, objective.target[kFake], weight[kReal]);
  }
  return visit_form(objective.form, [&](auto form) {
    using LogitLoss = typename decltype(form)::template Loss<wide_t<scalar>>;
    return run_singles<wanted, LogitLoss>(batch, objective.target, {}, weight, {});
  });
}

template <class scalar>
Batch<scalar> batch_of(const Tensor& real, const Tensor& fake, const Tensor& real_gradient, const Tensor& fake_gradient) {
  const auto target = [](const Tensor& t) { return t.defined() ? t.data_ptr<scalar>() : nullptr; };
  const auto source = [](const Tensor& t) { return t.defined() ? t.const_data_ptr<scalar>() : nullptr; };
  const int64_t real_count = real.defined() ? real.numel() : 0;
  return {{source(real), source(fake)}, {target(real_gradient), target(fake_gradient)}, {real_count, fake.numel()}};
}

// What a side's sum is multiplied by in the value.
template <class scalar>
Two weights(const Batch<scalar>& batch, const Objective& objective, double factor) {
  factor *= objective.scale;
  const auto weight = [&](int side) { return objective.mean ? factor / batch.counts[side] : factor; };
  return {batch.logits[kReal] ? weight(kReal) : 0.0, weight(kFake)};
}

double total(const std::array<Sums, 2>& sums, const Two& weight) {
  const double real = weight[kReal] == 0.0 ? 0.0 : weight[kReal] * sums[kReal].value;
  return real + weight[kFake] * sums[kFake].value;
}

Tensor loss(const OptionalTensor& real_logits, const Tensor& fake_logits, std::string_view form, double fake_target,
            double real_target, double scale, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check(objective, real, fake);
  Tensor value = at::empty({}, fake.options().dtype(wide_type(fake)));
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    const auto batch = batch_of<scalar_t>(real, fake, {}, {});
    *value.data_ptr<wide_t<scalar_t>>() = total(evaluate<kValue>(batch, objective, {}), weights(batch, objective, 1.0));
  });
  return value;
}

std::tuple<Tensor, Tensor> loss_backward(const Tensor& upstream, const OptionalTensor& real_logits, const Tensor& fake_logits,
                                         bool want_real, std::string_view form, double fake_target, double real_target,
                                         double scale, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check(objective, real, fake);
  check_upstream(upstream, fake);
  const Tensor real_gradient = want_real && real.defined() ? at::empty_like(real) : Tensor();
  const Tensor fake_gradient = at::empty_like(fake);
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    const auto batch = batch_of<scalar_t>(real, fake, real_gradient, fake_gradient);
    evaluate<kGradient>(batch, objective, weights(batch, objective, *upstream.const_data_ptr<wide_t<scalar_t>>()));
  });
  return {real_gradient, fake_gradient};
}

// The mean logits of real and of fake, and the mean signs of both; 0 for real where there is none.
template <class scalar>
Tensor statistics_of(const Batch<scalar>& batch, const std::array<Sums, 2>& sums, std::string_view form, const Tensor& like) {
  using T = wide_t<scalar>;
  Tensor statistics = at::empty({4}, like.options());
  T* const out = statistics.data_ptr<T>();
  for (const int side : {kReal, kFake}) {
    // a pair's sums stand on real's side
    const Sums& sum = form == kPaired ? sums[kReal] : sums[side];
    const int place = form == kPaired ? side : 0;
    const auto mean = [&](double sum) { return batch.logits[side] ? sum / batch.counts[side] : 0.0; };
    out[side] = mean(sum.logits[place]);
    out[2 + side] = mean(sum.signs[place]);
  }
  return statistics;
}

std::tuple<Tensor, Tensor> loss_statistics(const OptionalTensor& real_logits, const Tensor& fake_logits, std::string_view form,
                                           double fake_target, double real_target, double scale, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check(objective, real, fake);
  Tensor value = at::empty({}, fake.options().dtype(wide_type(fake))), statistics;
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    const auto batch = batch_of<scalar_t>(real, fake, {}, {});
    const auto sums = evaluate<kValue | kStatistics>(batch, objective, {});
    *value.data_ptr<wide_t<scalar_t>>() = total(sums, weights(batch, objective, 1.0));
    statistics = statistics_of(batch, sums, form, value);
  });
  return {value, statistics};
}

std::tuple<Tensor, Tensor> loss_gradients_(const OptionalTensor& real_logits, const Tensor& fake_logits,
                                           const OptionalTensor& real_gradients, const Tensor& fake_gradient,
                                           std::string_view form, double fake_target, double real_target, double scale,
                                           bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check(objective, real, fake);
  Tensor value = at::empty({}, fake.options().dtype(wide_type(fake))), statistics;
  const Tensor real_gradient = real.defined() && real_gradients.has_value() ? *real_gradients : Tensor();
  const auto fits = [](const Tensor& gradient, const Tensor& logits) {
    return gradient.is_contiguous() && gradient.scalar_type() == logits.scalar_type() && gradient.numel() == logits.numel();
  };
  TORCH_CHECK(fits(fake_gradient, fake) && (!real.defined() || (real_gradient.defined() && fits(real_gradient, real))),
              "gradients must be contiguous, and as many as the logits");
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    const auto batch = batch_of<scalar_t>(real, fake, real_gradient, fake_gradient);
    const Two weight = weights(batch, objective, 1.0);
    const auto sums = evaluate<kValue | kGradient | kStatistics>(batch, objective, weight);
    *value.data_ptr<wide_t<scalar_t>>() = total(sums, weight);
    statistics = statistics_of(batch, sums, form, value);
  });
  return {value, statistics};
}

Tensor bce(const Tensor& x, const Tensor& labels, bool mean) {
  check_labels(x, labels);
  const Tensor logits = x.contiguous(), targets = labels.contiguous();
  Tensor value = at::empty({}, logits.options().dtype(wide_type(logits)));
  FASTGAN_LOGITS(logits.scalar_type(), [&] {
    const Labelled<scalar_t> item{logits.const_data_ptr<scalar_t>(), targets.const_data_ptr<scalar_t>(), nullptr, 0};
    const double sum = run<kValue>(std::array{item, item}, {0, logits.numel()})[kFake].value;
    *value.data_ptr<wide_t<scalar_t>>() = mean ? sum / logits.numel() : sum;
  });
  return value;
}

Tensor bce_backward(const Tensor& upstream, const Tensor& x, const Tensor& labels, bool mean) {
  check_labels(x, labels);
  const Tensor logits = x.contiguous(), targets = labels.contiguous(), gradient = at::empty_like(logits);
  check_upstream(upstream, x);
  FASTGAN_LOGITS(logits.scalar_type(), [&] {
    using T = wide_t<scalar_t>;
    const T weight = *upstream.const_data_ptr<T>() / (mean ? double(logits.numel()) : 1.0);
    const Labelled<scalar_t> item{logits.const_data_ptr<scalar_t>(), targets.const_data_ptr<scalar_t>(),
                                  gradient.data_ptr<scalar_t>(), weight};
    run<kGradient>(std::array{item, item}, {0, logits.numel()});
  });
  return gradient;
}

// What the operators return, without the numbers: for torch.compile, export and fake tensors.
namespace meta {

Tensor scalar_like(const Tensor& logits) {
  return at::empty({}, logits.options().dtype(wide_type(logits)));
}
Tensor dense_like(const Tensor& logits) {
  return at::empty_like(logits, logits.options(), at::MemoryFormat::Contiguous);
}
Tensor dense_like(const OptionalTensor& logits, bool wanted) {
  return wanted && logits.has_value() && logits->defined() ? dense_like(*logits) : Tensor();
}

Tensor loss(const OptionalTensor&, const Tensor& fake, std::string_view, double, double, double, bool) {
  return scalar_like(fake);
}
std::tuple<Tensor, Tensor> loss_backward(const Tensor&, const OptionalTensor& real, const Tensor& fake, bool want_real,
                                         std::string_view, double, double, double, bool) {
  return {dense_like(real, want_real), dense_like(fake)};
}
std::tuple<Tensor, Tensor> loss_statistics(const OptionalTensor&, const Tensor& fake, std::string_view, double, double, double,
                                           bool) {
  return {scalar_like(fake), at::empty({4}, fake.options().dtype(wide_type(fake)))};
}
std::tuple<Tensor, Tensor> loss_gradients_(const OptionalTensor&, const Tensor& fake, const OptionalTensor&, const Tensor&,
                                           std::string_view, double, double, double, bool) {
  return {scalar_like(fake), at::empty({4}, fake.options().dtype(wide_type(fake)))};
}
Tensor bce(const Tensor& x, const Tensor&, bool) {
  return scalar_like(x);
}
Tensor bce_backward(const Tensor&, const Tensor& x, const Tensor&, bool) {
  return dense_like(x);
}

}  // namespace meta
}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("loss", &loss);
  m.impl("loss_backward", &loss_backward);
  m.impl("loss_gradients_", &loss_gradients_);
  m.impl("loss_statistics", &loss_statistics);
  m.impl("bce", &bce);
  m.impl("bce_backward", &bce_backward);
}

TORCH_LIBRARY_IMPL(fastgan, Meta, m) {
  m.impl("loss", &meta::loss);
  m.impl("loss_backward", &meta::loss_backward);
  m.impl("loss_gradients_", &meta::loss_gradients_);
  m.impl("loss_statistics", &meta::loss_statistics);
  m.impl("bce", &meta::bce);
  m.impl("bce_backward", &meta::bce_backward);
}
