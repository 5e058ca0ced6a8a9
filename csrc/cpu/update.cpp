// update: every weight's step.
//
// Per weight: is the gradient finite; weight decay; moments; weight; clip; is that finite; moving average; the sum of the
// finite gradients' squares. Work is cut into blocks of fixed size whose sums are added in their order: the result does not
// depend on the number of threads.

#include "update.h"

#include "optimizer.h"
#include "threads.h"

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
  fastgan::parallel(chunks, 2, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      parts[chunk] = pass(chunk * kChunk, std::min((chunk + 1) * kChunk, size));
  });
  Totals totals;
  for (const Totals& part : parts) totals += part;
  return totals;
}

template <class T>
Totals step_in(const fastgan::Step<T>& a) {
  const auto withheld = [&](int64_t begin, int64_t end) { return withheld_pass(a.gradient, begin, end); };
  if (a.withheld) return run_chunks(a.size, withheld);
  const Network<T> network{a.weight, a.ema, a.clip ? T(a.clip) : std::numeric_limits<T>::infinity(), T(a.ema_decay)};
  const int64_t group = a.size <= kCached ? kBlock : kGroup;
  Totals totals;
  with_rule(RuleArgs<T>{a.rule, a.options, a.state, a.lr, std::max(a.count, 1.0)}, [&](const auto& rule) {
    using Rule = std::decay_t<decltype(rule)>;
    const auto run = network.ema ? &pass<true, T, Rule> : &pass<false, T, Rule>;
    totals = run_chunks(a.size, [&](int64_t begin, int64_t end) { return run(network, rule, a.gradient, begin, end, group); });
  });
  return totals;
}

}  // namespace

template <class T>
fastgan::StepResult fastgan::update(const Step<T>& step) {
  const Totals totals = step_in(step);
  return {totals.squares, totals.not_finite};
}

template fastgan::StepResult fastgan::update(const Step<float>&);
template fastgan::StepResult fastgan::update(const Step<double>&);
