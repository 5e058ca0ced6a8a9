// A layer's gradients by products of its adjoints and inputs, summed over rows, a block of weights at a time.
#pragma once

#include "tiles.h"

#include "../half.h"

#include <vector>

namespace fastgan::packed {
namespace {

constexpr int kBlock = 16;            // outputs of a block; it has a panel of inputs
constexpr int64_t kChunkWords = 128;  // of a panel's columns, that stay in the first cache

// A block of gradients or weights on its way through the first cache.
template <class I>
struct alignas(64) Tile {
  float at[kBlock][kPanel<I>];
};

inline int64_t blocks_of(const Layer& layer) {
  return (layer.outputs + kBlock - 1) / kBlock;
}

// A block of a layer's weights: 16 outputs and a panel of inputs, or those that are left.
template <class I>
struct Block {
  int64_t output, input, rows, width;
  int64_t stride;  // of an output's weights

  Block(const Layer& layer, int64_t output, int64_t input)
      : output(output), input(input), rows(std::min<int64_t>(kBlock, layer.outputs - output)),
        width(std::min(kPanel<I>, layer.inputs - input)), stride(layer.inputs) {}

  bool is_wide() const { return width == kPanel<I>; }
  bool is_whole() const { return is_wide() && rows == kBlock; }
  // Where an output's weights begin in the layer's.
  int64_t row(int64_t r) const { return (output + r) * stride + input; }
};

template <class I, int R, int V>
FASTGAN_TILE void begin(Sums<I, R, V>& sums, const Tile<I>& gradient, int first, bool adds) {
  change_all(sums, [&](auto, int r, int v) { return adds ? I::load(&gradient.at[first + r][I::kWidth * v]) : I::zero(); });
}

template <class I, int R, int V>
FASTGAN_TILE void finish(const Sums<I, R, V>& sums, Tile<I>& gradient, int first) {
  visit_all(sums, [&](auto sum, int r, int v) { I::store(&gradient.at[first + r][I::kWidth * v], sum); });
}

// Gradients of R outputs and V vectors of inputs, added up over some rows.
template <class I, int R, int V>
__attribute__((noinline)) void accumulate(const uint32_t* upstream, const uint32_t* x, int64_t words, Tile<I>& gradient,
                                          int first, bool adds) {
  Sums<I, R, V> sums;
  begin(sums, gradient, first, adds);
  multiply(sums, upstream, 1, kPanel<I>, x, words);
  finish(sums, gradient, first);
}

// The same over all rows; `between()` runs after every `stride` words. With few registers the sums are in the first cache then: a
// compiler that has to keep them over other work has them in memory all the time.
template <class I, int R, int V, class Between>
FASTGAN_TILE void gradient_tile(const uint32_t* upstream, const uint32_t* x, int64_t words, Tile<I>& gradient, int first,
                                bool adds, int64_t stride, const Between& between) {
  if constexpr (I::kRegisters <= 16) {
    for (int64_t k = 0; k < words; k += stride) {
      accumulate<I, R, V>(upstream + k * kPanel<I>, x + k * kPanel<I>, std::min(stride, words - k), gradient, first, adds || k);
      between();
    }
    return;
  }
  Sums<I, R, V> sums;
  begin(sums, gradient, first, adds);
  for (int64_t k = 0; k < words; k += stride) {
    multiply(sums, upstream + k * kPanel<I>, 1, kPanel<I>, x + k * kPanel<I>, std::min(stride, words - k));
    between();
  }
  finish(sums, gradient, first);
}

// Gradients of a block of weights. `between()` runs on the way, if there are rows enough `calls` times.
template <class I, class Between>
inline void gradient_block(const Layer& layer, const Block<I>& block, Tile<I>& gradient, int64_t calls,
                           const Between& between) {
  constexpr int R = I::kOutputs;
  const int64_t all = layer.rows / I::kGroup, stride = std::max<int64_t>(1, all / std::max<int64_t>(1, calls / (kBlock / R)));
  const uint32_t* const u = panel_at<I>(layer.upstream, 0, block.output);
  const uint32_t* const x = panel_at<I>(layer.x, 0, block.input);
  for (int64_t word = 0; word < all; word += kChunkWords) {
    const int64_t words = std::min(kChunkWords, all - word);
    for (int r = 0; r < block.rows; r += R) {
      const uint32_t *const left = u + word * kPanel<I> + r, *const right = x + word * kPanel<I>;
      block.width <= I::kWidth ? gradient_tile<I, R, 1>(left, right, words, gradient, r, word > 0, stride, between)
                               : gradient_tile<I, R, I::kVectors>(left, right, words, gradient, r, word > 0, stride, between);
    }
  }
}

// Gradients of 16 biases: the sums of upstream times the rows' coefficients, as words.
template <class I>
void bias_gradient(const Layer& layer, const std::vector<uint32_t>& coefficient, int64_t output, float* gradient) {
  for (int part = 0; part < kBlock; part += I::kWidth) {
    const uint32_t* const u = panel_at<I>(layer.upstream, 0, output + part);
    auto sum = I::zero();
    for (int64_t k = 0; k < layer.rows / I::kGroup; ++k)
      sum = I::dot(sum, I::load_words(u + kPanel<I> * k), I::broadcast(coefficient[k]));
    I::store(gradient + part, sum);
  }
}

// Coefficients [rows] as words.
template <class I>
std::vector<uint32_t> words_of(const float* coefficient, int64_t rows) {
  std::vector<uint32_t> words(rows / I::kGroup);
  for (size_t k = 0; k < words.size(); ++k) {
    if constexpr (I::kGroup == 1) words[k] = bit_cast<uint32_t>(coefficient[k]);
    if constexpr (I::kGroup == 2) words[k] = bf16(coefficient[2 * k]).bits | uint32_t(bf16(coefficient[2 * k + 1]).bits) << 16;
  }
  return words;
}

}  // namespace
}  // namespace fastgan::packed
