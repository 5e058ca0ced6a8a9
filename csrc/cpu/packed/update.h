// update: a chain's weight gradients, and the optimizer's step on each block of weights while its gradient is in the cache; the
// packed weights that products read follow in the same pass.
#pragma once

#include "gradient.h"

#include "../optimizer.h"
#include "../threads.h"

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace fastgan::packed {
namespace {

constexpr int64_t kLanes = ::Lanes<float>::count;  // numbers that take a step together

// The packed forms of a block of new weights; those that it lacks are zero. They are written past the caches: an ordinary store
// would first read the old ones from memory.
template <class I>
void pack_block(const Tile<I>& weights, const Layer& layer, const Block<I>& block) {
  constexpr int group = I::kGroup, width = I::kWidth;
  constexpr int64_t panel = kPanel<I>;
  const auto [output, input] = std::pair(block.output, block.input);
  const int64_t words_in = (layer.inputs + group - 1) / group, words_out = (layer.outputs + group - 1) / group;
  uint32_t* const adjoint = static_cast<uint32_t*>(layer.adjoint) + (input / panel * words_out + output / group) * panel;
  for (int r = 0; r < kBlock && (output + r) / group < words_out; r += group)
    for (int v = 0; v < I::kVectors; ++v) {
      const float* const row = &weights.at[r][width * v];
      if constexpr (group == 1)
        I::stream(adjoint + r * panel + width * v, I::load_words(reinterpret_cast<const uint32_t*>(row)));
      if constexpr (group == 2) I::stream(adjoint + r / 2 * panel + width * v, I::pair(I::load(row), I::load(row + panel)));
    }
  uint32_t* const forward =
      static_cast<uint32_t*>(layer.forward) + (output / panel * words_in + input / group) * panel + output % panel;
  for (int first = 0; first < panel / group; first += width) {
    typename I::Words rows[kBlock / width][width];
    for (int r = 0; r < kBlock; ++r) {
      const float* const row = &weights.at[r][first * group];
      if constexpr (group == 1) rows[r / width][r % width] = I::load_words(reinterpret_cast<const uint32_t*>(row));
      if constexpr (group == 2) rows[r / width][r % width] = I::pair_neighbours(I::load(row), I::load(row + width));
    }
    for (auto& square : rows) I::transpose(square);
    const int64_t count = std::min<int64_t>(width, words_in - input / group - first);
    for (int64_t k = 0; k < count; ++k)
      for (int part = 0; part < kBlock / width; ++part) I::stream(forward + (first + k) * panel + part * width, rows[part][k]);
  }
}

// Whether a step moves an ema.
template <class Rule>
bool has_ema(const Network<float>& network) {
  return !std::is_same_v<Rule, Withheld> && network.ema;
}

// The ema of `count` elements from i on, whose weights are new. A pass of its own, as half of all steps have none.
inline void follow(const Network<float> network, const float* weights, int64_t i, int64_t count) {
  float* const ema = network.ema + i;
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) ema[j] = moved(ema[j], weights[j], network.ema_decay);
}

// One step of elements begin to end, whose gradients may not be finite, but no ema's; gradient[0] is element begin's, and copy[0]
// gets its new weight. As apply_update has it, but apart, and by values: what has its address taken leaves the registers of the
// loops that matter.
template <class Rule>
__attribute__((noinline)) Totals apply_some(const Network<float> network, const Rule rule, const float* gradient, int64_t begin,
                                            int64_t end, float* copy) {
  ::Lanes<float> lanes;
  for (int64_t i = 0; begin + i < end; i += kLanes)
    apply_lanes<false>(network, rule, gradient + i, begin + i, std::min(kLanes, end - begin - i), lanes, copy + i);
  return lanes.totals();
}

// Asks for a block's numbers, some at a time while its gradient is made: from memory they take as long.
template <class I, class Rule>
class Fetch {
 public:
  Fetch(const Block<I>& block, int64_t layer, const Network<float>& network, const Rule& rule)
      : block_(block), layer_(layer), network_(network), rule_(rule) {}
  FASTGAN_INLINE void advance() {
    if (done_ >= block_.rows * kPanel<I>) return;
    const int64_t i = layer_ + block_.row(done_ / kPanel<I>) + done_ % kPanel<I>;
    done_ += kLanes;
    __builtin_prefetch(network_.weight + i, 1, kCache);
    rule_.prefetch(i);
    if (network_.ema) __builtin_prefetch(network_.ema + i, 1, kCache);
  }

 private:
  const Block<I> block_;
  const int64_t layer_;  // where its weights begin in the network's
  const Network<float>& network_;
  const Rule& rule_;
  int64_t done_ = 0;
};

// The sum of squares of a gradient of `rows` rows.
template <class I>
inline float squares_of(const Tile<I>& gradient, int64_t rows) {
  typename I::Vector sums[I::kVectors];
  for (auto& sum : sums) sum = I::zero();
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < I::kVectors; ++v) {
      const auto g = I::load(&gradient.at[r][I::kWidth * v]);
      sums[v] = I::fma(g, g, sums[v]);
    }
  for (int v = 1; v < I::kVectors; ++v) sums[0] = I::add(sums[0], sums[v]);
  return I::sum(sums[0]);
}

// One step of a block of weights whose gradient is made, some at a time: it runs between the products of the next block's
// gradient, which leave the divider and the way to memory idle.
template <class I, class Rule>
class BlockStep {
 public:
  BlockStep(const Layer& layer, const Network<float>& network, const Rule& rule, ::Lanes<float>& lanes)
      : layer_(layer), first_(layer.weight - network.weight), network_(network), rule_(rule), lanes_(lanes) {}

  void begin(const Block<I>& block, const Tile<I>& gradient) {
    block_ = block, gradient_ = &gradient, done_ = ready_ = 0;
    if (!block.is_whole()) std::memset(weights_.at, 0, sizeof(weights_.at));
    if (!block.is_wide()) return;
    if (const float squares = squares_of<I>(gradient, block.rows); std::isfinite(squares)) {
      rest_.squares += squares;
      ready_ = block.rows * kPanel<I>;
    }
  }
  // The next numbers of a wide block whose gradients are all finite.
  FASTGAN_INLINE void advance() {
    if (done_ >= ready_) return;
    const int64_t offset = done_, i = first_ + block_->row(offset / kPanel<I>) + offset % kPanel<I>;
    done_ += kLanes;
    const float* const gradient = gradient_->at[0] + offset;
    float* const copy = weights_.at[0] + offset;
    apply_finite_lanes<false>(network_, rule_, gradient, i, lanes_, copy);
  }
  // What is left, and the packed forms.
  void finish() {
    if (!block_) return;
    while (done_ < ready_) advance();
    for (int64_t r = 0; ready_ == 0 && r < block_->rows; ++r) {
      const int64_t i = first_ + block_->row(r);
      rest_ += apply_some(network_, rule_, gradient_->at[r], i, i + block_->width, weights_.at[r]);
    }
    for (int64_t r = 0; has_ema<Rule>(network_) && r < block_->rows; ++r)
      follow(network_, weights_.at[r], first_ + block_->row(r), block_->width);
    pack_block(weights_, layer_, *block_);
    block_.reset();
  }
  // What `lanes` did not count.
  Totals rest() const { return rest_; }

 private:
  const Layer& layer_;
  const int64_t first_;  // where its weights begin in the network's
  const Network<float>& network_;
  const Rule& rule_;
  ::Lanes<float>& lanes_;
  Tile<I> weights_;
  std::optional<Block<I>> block_;
  const Tile<I>* gradient_ = nullptr;
  Totals rest_;
  int64_t ready_ = 0, done_ = 0;
};

// One step of the weights of 16 outputs, all inputs, and of their biases.
template <class I, class Rule>
Totals step_outputs(const Layer& layer, const Network<float> network, const Rule rule, const std::vector<uint32_t>& coefficient,
                    int64_t output) {
  constexpr int64_t kSteps = I::kRegisters > 16 ? 1 : 2;  // between products that leave and enter the registers
  ::Lanes<float> lanes;
  Tile<I> gradients[2];
  BlockStep<I, Rule> step(layer, network, rule, lanes);
  for (int64_t input = 0; input < layer.inputs; input += kPanel<I>) {
    const Block<I> block(layer, output, input);
    Fetch<I, Rule> fetch(block, layer.weight - network.weight, network, rule);
    Tile<I>& gradient = gradients[input / kPanel<I> % 2];
    gradient_block<I>(layer, block, gradient, kBlock * kPanel<I> / kLanes / kSteps, [&] {
      for (int64_t i = 0; i < kSteps; ++i) {
        fetch.advance();
        step.advance();
      }
    });
    step.finish();
    step.begin(block, gradient);
  }
  step.finish();
  Totals totals = step.rest();
  totals += lanes.totals();
  if (layer.bias) {
    alignas(64) float sums[kBlock], biases[kBlock];
    bias_gradient<I>(layer, coefficient, output, sums);
    const int64_t i = layer.bias - network.weight + output, count = std::min<int64_t>(kBlock, layer.outputs - output);
    totals += apply_some(network, rule, sums, i, i + count, biases);
    if (has_ema<Rule>(network)) follow(network, biases, i, count);
  }
  return totals;
}

// One step of all layers, a thread taking a block of outputs at a time; sums are added in the blocks' order.
template <class I, class Rule>
Totals step_layers(const std::vector<Layer>& layers, const Network<float>& network, const Rule& rule,
                   const std::vector<uint32_t>& coefficient) {
  std::vector<std::pair<const Layer*, int64_t>> units;  // layer, first output
  for (const Layer& layer : layers)
    for (int64_t block = 0; block < blocks_of(layer); ++block) units.emplace_back(&layer, block * kBlock);
  std::vector<Totals> parts(units.size());
  share(static_cast<int64_t>(units.size()), 1, [&](int64_t unit) {
    const auto [layer, output] = units[unit];
    parts[unit] = step_outputs<I>(*layer, network, rule, coefficient, output);
    I::fence();  // streamed lines are in memory before another thread is told that this unit is done
  });
  Totals totals;
  for (const Totals& part : parts) totals += part;
  return totals;
}

template <class I>
StepResult update(const std::vector<Layer>& layers, const float* coefficient, const Step<float>& step) {
  const float bound = step.clip ? static_cast<float>(step.clip) : std::numeric_limits<float>::infinity();
  const Network<float> network{step.weight, step.ema, bound, static_cast<float>(step.ema_decay)};
  const auto coefficients = words_of<I>(coefficient, layers.empty() ? 0 : layers[0].rows);
  Totals totals;
  if (step.withheld) {
    totals = step_layers<I>(layers, network, Withheld{}, coefficients);
  } else {
    with_rule<float>({step.rule, step.options, step.state, step.lr, std::max(step.count, 1.0)},
                     [&](const auto& rule) { totals = step_layers<I>(layers, network, rule, coefficients); });
  }
  return {totals.squares, totals.not_finite};
}

// Calls run(block) for all blocks of a layer, those of the same outputs on one thread.
template <class I, class Run>
void each_block(const Layer& layer, const Run& run) {
  share(blocks_of(layer), 1, [&](int64_t unit) {
    for (int64_t input = 0; input < layer.inputs; input += kPanel<I>) run(Block<I>(layer, unit * kBlock, input));
    I::fence();  // as in step_layers
  });
}

template <class I>
void gradient(const Layer& layer, const float* coefficient) {
  const auto coefficients = words_of<I>(coefficient, layer.rows);
  each_block<I>(layer, [&](const Block<I>& block) {
    Tile<I> made;
    gradient_block<I>(layer, block, made, 0, [] {});
    for (int64_t r = 0; r < block.rows; ++r) std::memcpy(layer.weight + block.row(r), made.at[r], block.width * sizeof(float));
    if (!layer.bias || block.input) return;
    alignas(64) float sums[kBlock];
    bias_gradient<I>(layer, coefficients, block.output, sums);
    std::memcpy(layer.bias + block.output, sums, block.rows * sizeof(float));
  });
}

template <class I>
void pack(const Layer& layer) {
  each_block<I>(layer, [&](const Block<I>& block) {
    Tile<I> weights;
    std::memset(weights.at, 0, sizeof(weights.at));
    for (int64_t r = 0; r < block.rows; ++r)
      std::memcpy(weights.at[r], layer.weight + block.row(r), block.width * sizeof(float));
    pack_block(weights, layer, block);
  });
}

}  // namespace
}  // namespace fastgan::packed
