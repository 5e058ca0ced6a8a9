// loss: values and gradients, each in one pass over memory.
//
// Sums are in fp32 (fp64 for fp64) over 32 elements, then in fp64 in an order of its own: the result does not depend on the
// threads.

#include "loss.h"

#include "loss_pass.h"
#include "threads.h"

#include <algorithm>
#include <vector>

namespace fastgan {
namespace {

constexpr int64_t kGrain = 2;  // chunks that are worth a thread

template <class LogitLoss, class scalar>
double sum_of(const scalar* logits, int64_t begin, int64_t end) {
  return logits ? value_pass(Single<scalar, LogitLoss>{logits, nullptr, LogitLoss(0.0, 0.0), 0, 0}, begin, end) : 0.0;
}

// Apart from the values, whose loop would not have the registers; a chunk is in the cache.
template <class scalar>
void add_statistics(const std::array<const scalar*, 2>& logits, int64_t begin, int64_t end, Sums& sums) {
  using T = wide_t<scalar>;
  for (const int k : {0, 1}) {
    sums.logits[k] = sum_of<Linear<T>>(logits[k], begin, end);
    sums.signs[k] = sum_of<Sign<T>>(logits[k], begin, end);
  }
}

// Both sides in one parallel loop over chunks of fixed size; their sums are added in the chunks' order.
template <int wanted, class Item>
std::array<Sums, 2> run(const std::array<Item, 2>& items, const std::array<int64_t, 2>& counts) {
  const int64_t real_chunks = (counts[kReal] + Item::chunk - 1) / Item::chunk;
  const int64_t chunks = real_chunks + (counts[kFake] + Item::chunk - 1) / Item::chunk;
  std::vector<Sums> partial(chunks);
  parallel(chunks, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int side = chunk < real_chunks ? kReal : kFake;
      const int64_t begin = (side == kReal ? chunk : chunk - real_chunks) * Item::chunk;
      const int64_t end = std::min(begin + Item::chunk, counts[side]);
      if constexpr (asks(wanted, kValue)) partial[chunk].value = value_pass(items[side], begin, end);
      if constexpr (asks(wanted, kStatistics)) add_statistics(items[side].looked_at(), begin, end, partial[chunk]);
      if constexpr (asks(wanted, kGradient)) gradient_pass(items[side], begin, end);
    }
  });
  std::array<Sums, 2> totals;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    totals[chunk < real_chunks ? kReal : kFake] += partial[chunk];
  }
  return totals;
}

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

// The other side's mean logit shifts every logit, so a logit's gradient also carries the other side's gradients, through the
// mean.
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
    if constexpr (asks(wanted, kGradient)) {
      if (batch.gradients[kReal]) return run_pairs<wanted, true>(batch, objective.target[kFake], weight[kReal]);
    }
    return run_pairs<wanted, false>(batch, objective.target[kFake], weight[kReal]);
  }
  return visit_form(objective.form, [&](auto form) {
    using LogitLoss = typename decltype(form)::template Loss<wide_t<scalar>>;
    return run_singles<wanted, LogitLoss>(batch, objective.target, {}, weight, {});
  });
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

template <class scalar>
void write_statistics(const Batch<scalar>& batch, const std::array<Sums, 2>& sums, std::string_view form, wide_t<scalar>* out) {
  for (const int side : {kReal, kFake}) {
    // a pair's sums stand on real's side
    const Sums& sum = form == kPaired ? sums[kReal] : sums[side];
    const int place = form == kPaired ? side : 0;
    const auto mean = [&](double sum) { return batch.logits[side] ? sum / batch.counts[side] : 0.0; };
    out[side] = mean(sum.logits[place]);
    out[2 + side] = mean(sum.signs[place]);
  }
}

}  // namespace

template <class scalar>
wide_t<scalar> loss(const Batch<scalar>& batch, const Objective& objective) {
  return total(evaluate<kValue>(batch, objective, {}), weights(batch, objective, 1.0));
}

template <class scalar>
void loss_backward(const Batch<scalar>& batch, const Objective& objective, wide_t<scalar> upstream) {
  evaluate<kGradient>(batch, objective, weights(batch, objective, upstream));
}

template <class scalar>
wide_t<scalar> loss_statistics(const Batch<scalar>& batch, const Objective& objective, wide_t<scalar>* statistics) {
  const auto sums = evaluate<kValue | kStatistics>(batch, objective, {});
  write_statistics(batch, sums, objective.form, statistics);
  return total(sums, weights(batch, objective, 1.0));
}

template <class scalar>
wide_t<scalar> loss_gradients(const Batch<scalar>& batch, const Objective& objective, wide_t<scalar>* statistics) {
  const Two weight = weights(batch, objective, 1.0);
  const auto sums = evaluate<kValue | kGradient | kStatistics>(batch, objective, weight);
  write_statistics(batch, sums, objective.form, statistics);
  return total(sums, weight);
}

template <class scalar>
wide_t<scalar> bce(const scalar* logits, const scalar* labels, int64_t count, bool mean) {
  const Labelled<scalar> item{logits, labels, nullptr, 0};
  const double sum = run<kValue>(std::array{item, item}, {0, count})[kFake].value;
  return mean ? sum / count : sum;
}

template <class scalar>
void bce_backward(wide_t<scalar> upstream, const scalar* logits, const scalar* labels, scalar* gradient, int64_t count,
                  bool mean) {
  const wide_t<scalar> weight = upstream / (mean ? double(count) : 1.0);
  const Labelled<scalar> item{logits, labels, gradient, weight};
  run<kGradient>(std::array{item, item}, {0, count});
}

#define FASTGAN_LOSS(scalar)                                                                        \
  template wide_t<scalar> loss(const Batch<scalar>&, const Objective&);                             \
  template void loss_backward(const Batch<scalar>&, const Objective&, wide_t<scalar>);              \
  template wide_t<scalar> loss_statistics(const Batch<scalar>&, const Objective&, wide_t<scalar>*); \
  template wide_t<scalar> loss_gradients(const Batch<scalar>&, const Objective&, wide_t<scalar>*);  \
  template wide_t<scalar> bce(const scalar*, const scalar*, int64_t, bool);                         \
  template void bce_backward(wide_t<scalar>, const scalar*, const scalar*, scalar*, int64_t, bool);
FASTGAN_LOSS(double)
FASTGAN_LOSS(float)
FASTGAN_LOSS(bf16)
#undef FASTGAN_LOSS

}  // namespace fastgan
