// update: a chain's weight gradients by bf16 dot products of pairs of rows, and the optimizer's step on each block of weights
// while its gradient is in the cache; the packed weights that products read follow in the same pass. storage.h has the layout.

#include "../optimizer_step.h"
#include "../threads.h"
#include "gradient.h"

#include <ATen/core/List.h>
#include <torch/library.h>

#include <vector>

namespace {

#ifdef FASTGAN_BF16_DOT

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")

using fastgan::Block;
using fastgan::kBlock;
using fastgan::kPanel;
using fastgan::layer_of;
using fastgan::LayerPart;
using fastgan::pairs_of;
using fastgan::Tile;
using fastgan::words_at;

// Writes a line past the caches: the old one, which an ordinary store would first read from memory, is of no use.
inline void stream(uint32_t* line, __m512i words) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(line), words);
}

// The packed forms of a block of new weights; those that it lacks are zero.
void pack_block(const Tile& weights, const LayerPart& layer, const Block& block) {
  const auto [output, input] = std::pair(block.output, block.input);
  const int64_t pairs_in = (layer.inputs + 1) / 2, pairs_out = (layer.outputs + 1) / 2;
  uint32_t* const adjoint = layer.pack.adjoint + (input / kPanel * pairs_out + output / 2) * kPanel;
  const auto vector = [&](int r, int v) { return _mm512_load_ps(&weights.at[r][16 * v]); };
  for (int r = 0; r < kBlock && output / 2 + r / 2 < pairs_out; r += 2)
    for (int v = 0; v < fastgan::kVectors; ++v)
      stream(adjoint + r / 2 * kPanel + 16 * v, pairs_of(vector(r, v), vector(r + 1, v)));
  uint32_t* const forward = layer.pack.forward + (output / kPanel * pairs_in + input / 2) * kPanel + output % kPanel;
  for (int half = 0; half < 2; ++half) {
    __m512i words[kBlock];
    for (int r = 0; r < kBlock; ++r) words[r] = fastgan::narrow_32(vector(r, 2 * half), vector(r, 2 * half + 1));
    fastgan::transpose(words);
    const int64_t count = std::min<int64_t>(16, pairs_in - input / 2 - 16 * half);
    for (int64_t k = 0; k < count; ++k) stream(forward + (16 * half + k) * kPanel, words[k]);
  }
}

// Asks for a block's numbers, a vector at a time while its gradient is made: from memory they take as long.
template <bool has_ema, class Rule>
class Fetch {
 public:
  Fetch(const Block& block, int64_t layer, const Network<float>& network, const Rule& rule)
      : block_(block), layer_(layer), network_(network), rule_(rule) {}
  C10_ALWAYS_INLINE void advance() {
    if (done_ >= block_.vectors()) return;
    const int64_t i = layer_ + block_.vector(done_++);
    __builtin_prefetch(network_.weight + i, 1, kCache);
    rule_.prefetch(i);
    if constexpr (has_ema) __builtin_prefetch(network_.ema + i, 1, kCache);
  }

 private:
  const Block block_;
  const int64_t layer_;  // where its weights begin in the network's
  const Network<float>& network_;
  const Rule& rule_;
  int64_t done_ = 0;
};

// The sum of squares of a gradient of `rows` rows.
inline float squares_of(const Tile& gradient, int64_t rows) {
  __m512 sums[fastgan::kVectors];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < fastgan::kVectors; ++v) {
      const __m512 g = _mm512_load_ps(&gradient.at[r][16 * v]);
      sums[v] = _mm512_fmadd_ps(g, g, sums[v]);
    }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

// One step of a block of weights whose gradient is made, a vector at a time: it runs between the products of the next block's
// gradient, which leave the divider and the way to memory idle.
template <bool has_ema, class Rule>
class BlockStep {
 public:
  BlockStep(const LayerPart& layer, const Network<float>& network, const Rule& rule, Lanes<float>& lanes)
      : layer_(layer), first_(layer.weight - network.weight), network_(network), rule_(rule), lanes_(lanes) {}

  void begin(const Block& block, const Tile& gradient) {
    block_ = block, gradient_ = &gradient, done_ = vectors_ = 0;
    if (!block.is_whole()) std::memset(weights_.at, 0, sizeof(weights_.at));
    if (!block.is_wide()) return;
    if (const float squares = squares_of(gradient, block.rows); std::isfinite(squares)) {
      squares_ += squares;
      vectors_ = block.vectors();
    }
  }
  // The next vector of a wide block whose gradients are all finite.
  C10_ALWAYS_INLINE void advance() {
    if (done_ >= vectors_) return;
    const int64_t place = done_ * 16, i = first_ + block_->vector(done_++);
    apply_finite_lanes<has_ema>(network_, rule_, gradient_->at[0] + place, i, lanes_, weights_.at[0] + place);
  }
  // What is left, and the packed forms.
  void finish() {
    if (!block_) return;
    while (done_ < vectors_) advance();
    for (int64_t r = 0; vectors_ == 0 && r < block_->rows; ++r) {
      const int64_t i = first_ + block_->row(r);
      apply_update<has_ema>(network_, rule_, gradient_->at[r], i, i + block_->width, lanes_, kPanel, weights_.at[r]);
    }
    pack_block(weights_, layer_, *block_);
    block_.reset();
  }
  // The sum of squares that `lanes` did not count.
  double squares() const { return squares_; }

 private:
  const LayerPart& layer_;
  const int64_t first_;  // where its weights begin in the network's
  const Network<float>& network_;
  const Rule& rule_;
  Lanes<float>& lanes_;
  Tile weights_;
  std::optional<Block> block_;
  const Tile* gradient_ = nullptr;
  double squares_ = 0;
  int64_t vectors_ = 0, done_ = 0;
};

// One step of the weights of 16 outputs, all inputs, and of their biases.
template <bool has_ema, class Rule>
Totals step_outputs(const LayerPart layer, const Network<float> network, const Rule rule,
                    const std::vector<uint32_t>& coefficient, int64_t output) {
  Lanes<float> lanes;
  Tile gradients[2];
  BlockStep<has_ema, Rule> step(layer, network, rule, lanes);
  for (int64_t input = 0; input < layer.inputs; input += kPanel) {
    const Block block(layer, output, input);
    Fetch<has_ema, Rule> fetch(block, layer.weight - network.weight, network, rule);
    Tile& gradient = gradients[input / kPanel % 2];
    gradient_block(layer, block, gradient, [&] {
      fetch.advance();
      step.advance();
    });
    step.finish();
    step.begin(block, gradient);
  }
  step.finish();
  if (layer.bias) {
    alignas(64) float sums[kBlock];
    bias_gradient(layer, coefficient, output, sums);
    const int64_t i = layer.bias - network.weight + output;
    apply_update<has_ema>(network, rule, sums, i, i + std::min<int64_t>(kBlock, layer.outputs - output), lanes, kPanel);
  }
  Totals totals = lanes.totals();
  totals.squares += step.squares();
  return totals;
}

// One step of all layers, a thread taking a block of outputs at a time; sums are added in the blocks' order.
template <class Rule>
Totals step_layers(const std::vector<LayerPart>& layers, const Network<float>& network, const Rule& rule,
                   const std::vector<uint32_t>& coefficient) {
  std::vector<std::pair<const LayerPart*, int64_t>> units;  // layer, first output
  for (const LayerPart& layer : layers)
    for (int64_t block = 0; block < layer.blocks(); ++block) units.emplace_back(&layer, block * kBlock);
  std::vector<Totals> parts(units.size());
  fastgan::share(static_cast<int64_t>(units.size()), 1, [&](int64_t unit) {
    const auto [layer, output] = units[unit];
    parts[unit] = network.ema ? step_outputs<true>(*layer, network, rule, coefficient, output)
                              : step_outputs<false>(*layer, network, rule, coefficient, output);
    _mm_sfence();  // streamed lines are in memory before another thread is told that this unit is done
  });
  Totals totals;
  for (const Totals& part : parts) totals += part;
  return totals;
}

void set_pack(LayerPart& layer, const Tensor& forward, const Tensor& adjoint) {
  const auto fits = [](const Tensor& pack, int64_t columns, int64_t depth) {
    const bool packed =
        pack.scalar_type() == at::kBFloat16 && pack.is_contiguous() && pack.dim() == 3 && pack.size(2) == 2 * kPanel;
    const bool on_line = reinterpret_cast<uintptr_t>(pack.const_data_ptr()) % 64 == 0;
    return packed && on_line && pack.size(0) * kPanel >= columns && pack.size(1) == (depth + 1) / 2;
  };
  TORCH_CHECK(fits(forward, layer.outputs, layer.inputs) && fits(adjoint, layer.inputs, layer.outputs),
              "the packed weights do not fit, or do not begin on a cache line");
  layer.pack = {words_at(forward), words_at(adjoint)};
}

Tensor update_bf16_(Tensor& weight, at::TensorList state, const Tensor& lr, Tensor& count, const Tensor& withhold,
                    std::string_view rule, at::ArrayRef<double> options, double clip, const OptionalTensor& ema,
                    double ema_decay, at::TensorList weights, const c10::List<OptionalTensor>& biases, at::TensorList upstream,
                    at::TensorList x, const Tensor& coefficient, at::TensorList forward, at::TensorList adjoint) {
  const Step a{weight, state, lr, count, withhold, rule, options, clip, ema, ema_decay};
  check(a);
  TORCH_CHECK(weight.scalar_type() == at::kFloat, "weight must be fp32");
  std::vector<LayerPart> layers;
  for (size_t l = 0; l < weights.size(); ++l) {
    layers.push_back(layer_of(upstream[l], x[l], weights[l], biases.get(l)));
    set_pack(layers.back(), forward[l], adjoint[l]);
    TORCH_CHECK(2 * layers.back().pairs == coefficient.numel(), "the coefficient must be fp32 [rows]");
  }
  const auto coefficients = pairs_of(coefficient);
  const Network<float> network = network_of<float>(a);
  if (is_withheld(withhold)) return result_of(step_layers(layers, network, Withheld{}, coefficients), weight);
  Totals totals;
  const double steps = number(count, "count") + 1;
  with_rule<float>(a, number(lr, "lr"), std::max(steps, 1.0),
                   [&](const auto& made) { totals = step_layers(layers, network, made, coefficients); });
  set_number(count, steps);
  mark_changed(a);
  return result_of(totals, weight);
}

// Calls run(block) for all blocks of a layer, those of the same outputs on one thread.
template <class Run>
void each_block(const LayerPart& layer, const Run& run) {
  fastgan::share(layer.blocks(), 1, [&](int64_t unit) {
    for (int64_t input = 0; input < layer.inputs; input += kPanel) run(Block(layer, unit * kBlock, input));
    _mm_sfence();  // as in step_layers
  });
}

void gradient_bf16_(const Tensor& upstream, const Tensor& x, const Tensor& coefficient, const Tensor& weight,
                    const OptionalTensor& bias) {
  const LayerPart layer = layer_of(upstream, x, weight, bias);
  const auto coefficients = pairs_of(coefficient);
  each_block(layer, [&](const Block& block) {
    Tile gradient;
    gradient_block(layer, block, gradient, [] {});
    for (int64_t r = 0; r < block.rows; ++r)
      std::memcpy(layer.weight + block.row(r), gradient.at[r], block.width * sizeof(float));
    if (!layer.bias || block.input) return;
    alignas(64) float sums[kBlock];
    bias_gradient(layer, coefficients, block.output, sums);
    std::memcpy(layer.bias + block.output, sums, block.rows * sizeof(float));
  });
}

void pack_bf16_(const Tensor& weight, const Tensor& forward, const Tensor& adjoint) {
  LayerPart layer{nullptr, nullptr, 0, 0, 0, weight.size(0), weight.size(1), weight.data_ptr<float>(), nullptr, {}};
  TORCH_CHECK(weight.scalar_type() == at::kFloat && weight.is_contiguous(), "weights must be fp32 [out, in]");
  set_pack(layer, forward, adjoint);
  each_block(layer, [&](const Block& block) {
    Tile weights;
    std::memset(weights.at, 0, sizeof(weights.at));
    for (int64_t r = 0; r < block.rows; ++r)
      std::memcpy(weights.at[r], layer.weight + block.row(r), block.width * sizeof(float));
    pack_block(weights, layer, block);
  });
}

#pragma GCC pop_options

#endif
}  // namespace

#ifdef FASTGAN_BF16_DOT
TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("update_bf16_", &update_bf16_);
  m.impl("gradient_bf16_", &gradient_bf16_);
  m.impl("pack_bf16_", &pack_bf16_);
}
#endif
