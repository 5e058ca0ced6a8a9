// update: one optimizer step over a flat network, in place and in one pass over memory.
//
// Per weight: is the gradient finite; weight decay; moments; weight; clip; is that finite; moving average; the sum of the finite
// gradients' squares. Work is cut into blocks of fixed size whose sums are added in their order: the result does not depend on
// the number of threads.

#include "optimizer_step.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

namespace {

constexpr int64_t kBlock = 4096;       // elements whose squares are summed in the weights' type
constexpr int64_t kChunk = 16 * 1024;  // elements that one thread takes at a time
constexpr int64_t kCached = 1 << 20;   // elements of a step whose numbers the second cache has, or nearly
constexpr int64_t kGroup = 256;        // gradients looked at in advance where it has not: more would hold the others' lines up

template <bool has_ema, class T, class Rule>
FASTGAN_VARIANTS Totals pass(Network<T> network, Rule rule, const T* gradient, int64_t begin, int64_t end, int64_t group) {
  Totals totals;
  for (; begin < end; begin += kBlock) {
    const int64_t stop = std::min(begin + kBlock, end);
    Lanes<T> lanes;
    apply_update<has_ema>(network, rule, gradient + begin, begin, stop, lanes, group);
    totals += lanes.totals();
  }
  return totals;
}

// A step that is withheld still counts its gradients.
template <class T>
Totals withheld_pass(const T* gradient, int64_t begin, int64_t end) {
  Totals totals;
  for (; begin < end; ++begin) {
    const double g = gradient[begin];
    totals += std::isfinite(g) ? Totals{g * g, 0} : Totals{0, 1};
  }
  return totals;
}

// Runs pass(begin, end) on chunks of fixed size, and adds their totals in order.
template <class Pass>
Totals run_chunks(int64_t size, const Pass& pass) {
  const int64_t chunks = (size + kChunk - 1) / kChunk;
  std::vector<Totals> parts(chunks);
  at::parallel_for(0, chunks, 2, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      parts[chunk] = pass(chunk * kChunk, std::min((chunk + 1) * kChunk, size));
  });
  Totals totals;
  for (const Totals& part : parts) totals += part;
  return totals;
}

template <class T>
Totals step_in(const Step& a, const T* gradient) {
  const int64_t size = a.weight.numel();
  Totals totals;
  if (is_withheld(a.withhold)) {
    return run_chunks(size, [&](int64_t begin, int64_t end) { return withheld_pass(gradient, begin, end); });
  }
  const Network<T> network = network_of<T>(a);
  const double count = number(a.count, "count") + 1;
  const int64_t group = size <= kCached ? kBlock : kGroup;
  with_rule<T>(a, number(a.lr, "lr"), std::max(count, 1.0), [&](const auto& rule) {
    using Rule = std::decay_t<decltype(rule)>;
    totals = run_chunks(size, [&](int64_t begin, int64_t end) {
      const auto run = network.ema ? &pass<true, T, Rule> : &pass<false, T, Rule>;
      return run(network, rule, gradient, begin, end, group);
    });
  });
  set_number(a.count, count);
  mark_changed(a);
  return totals;
}

Tensor update_(Tensor& weight, const Tensor& gradient, at::TensorList state, const Tensor& lr, Tensor& count,
               const Tensor& withhold, std::string_view rule, at::ArrayRef<double> options, double clip,
               const OptionalTensor& ema, double ema_decay) {
  const Step a{weight, state, lr, count, withhold, rule, options, clip, ema, ema_decay};
  check(a);
  check_buffer(gradient, weight, "gradient");
  const bool single = weight.scalar_type() == at::kFloat;
  const Totals totals = single ? step_in(a, gradient.const_data_ptr<float>()) : step_in(a, gradient.const_data_ptr<double>());
  return result_of(totals, weight);
}

// What the operator returns, without the numbers: for torch.compile, export and fake tensors.
Tensor meta(Tensor& weight, const Tensor&, at::TensorList, const Tensor&, Tensor&, const Tensor&, std::string_view,
            at::ArrayRef<double>, double, const OptionalTensor&, double) {
  return at::empty({2}, weight.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("update_", &update_);
}

TORCH_LIBRARY_IMPL(fastgan, Meta, m) {
  m.impl("update_", &meta);
}
