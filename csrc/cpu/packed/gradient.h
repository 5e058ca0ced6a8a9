// A layer's gradients in bf16 by dot products of pairs of rows, a block of weights at a time. storage.h has the layout.
#pragma once

#include "../vector_math.h"
#include "storage.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#ifdef FASTGAN_BF16_DOT

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")

namespace fastgan {
namespace {

using at::Tensor;

constexpr int kBlock = 16;            // outputs of a block; it has kPanel inputs
constexpr int kOutputs = 4;           // of a block, multiplied at a time
constexpr int64_t kChunkPairs = 128;  // pairs of rows of a panel that stay in the first cache

// Where a packed weight is; see storage.h.
struct Pack {
  uint32_t *forward, *adjoint;
};

// One layer's part of the network.
struct LayerPart {
  const uint32_t *upstream, *x;       // panels
  int64_t upstream_stride, x_stride;  // of a panel, in words
  int64_t pairs, outputs, inputs;     // pairs of rows
  float *weight, *bias;               // bias or null
  Pack pack;

  int64_t blocks() const { return (outputs + kBlock - 1) / kBlock; }
  const uint32_t* upstream_at(int64_t output) const { return upstream + output / kPanel * upstream_stride + output % kPanel; }
};

// A block of a layer's weights: 16 outputs and 64 inputs, or those that are left.
struct Block {
  int64_t output, input, rows, width;
  int64_t stride;  // of an output's weights

  Block(const LayerPart& layer, int64_t output, int64_t input)
      : output(output), input(input), rows(std::min<int64_t>(kBlock, layer.outputs - output)),
        width(std::min(kPanel, layer.inputs - input)), stride(layer.inputs) {}

  bool is_wide() const { return width == kPanel; }
  bool is_whole() const { return is_wide() && rows == kBlock; }
  int64_t vectors() const { return rows * kVectors; }
  // Where an output's weights begin in the layer's.
  int64_t row(int64_t r) const { return (output + r) * stride + input; }
  // Where one of a wide block's vectors begins.
  int64_t vector(int64_t number) const { return row(number / kVectors) + number % kVectors * 16; }
};

// Gradients of kOutputs outputs and V vectors of inputs, added up over all rows. `between()` runs after every `stride` pairs.
template <int V, class Between>
inline __attribute__((always_inline)) void gradient_tile(const uint32_t* upstream, const uint32_t* x, int64_t pairs,
                                                         Tile& gradient, int first, bool adds, int64_t stride,
                                                         const Between& between) {
  Sums<kOutputs, V> sums;
  for (int r = 0; r < kOutputs; ++r)
    for (int v = 0; v < V; ++v) sums.at[r][v] = adds ? _mm512_load_ps(&gradient.at[first + r][16 * v]) : _mm512_setzero_ps();
  for (int64_t k = 0; k < pairs; k += stride) {
    multiply(sums, upstream + k * kPanel, 1, kPanel, x + k * kPanel, std::min(stride, pairs - k));
    between();
  }
  for (int r = 0; r < kOutputs; ++r)
    for (int v = 0; v < V; ++v) _mm512_store_ps(&gradient.at[first + r][16 * v], sums.at[r][v]);
}

// Gradients of a block of weights. `between()` runs on the way, if there are rows enough once for each vector of the block.
template <class Between>
inline void gradient_block(const LayerPart& layer, const Block& block, Tile& gradient, const Between& between) {
  const int64_t stride = std::max<int64_t>(1, layer.pairs / (kBlock / kOutputs * kVectors));
  const uint32_t* const u = layer.upstream_at(block.output);
  const uint32_t* const x = layer.x + block.input / kPanel * layer.x_stride;
  for (int64_t pair = 0; pair < layer.pairs; pair += kChunkPairs) {
    const int64_t pairs = std::min(kChunkPairs, layer.pairs - pair);
    for (int r = 0; r < block.rows; r += kOutputs) {
      const uint32_t *const left = u + pair * kPanel + r, *const right = x + pair * kPanel;
      block.width <= 16 ? gradient_tile<1>(left, right, pairs, gradient, r, pair > 0, stride, between)
                        : gradient_tile<kVectors>(left, right, pairs, gradient, r, pair > 0, stride, between);
    }
  }
}

// Gradients of 16 biases: the sums of upstream times the rows' coefficients.
void bias_gradient(const LayerPart& layer, const std::vector<uint32_t>& coefficient, int64_t output, float* gradient) {
  const uint32_t* const u = layer.upstream_at(output);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t k = 0; k < layer.pairs; ++k)
    sum = dot(sum, load(u + kPanel * k), _mm512_set1_epi32(static_cast<int>(coefficient[k])));
  _mm512_storeu_ps(gradient, sum);
}

// Coefficients [rows] as pairs of bf16.
std::vector<uint32_t> pairs_of(const Tensor& coefficient) {
  TORCH_CHECK(coefficient.scalar_type() == at::kFloat && coefficient.is_contiguous() && coefficient.numel() % 2 == 0,
              "the coefficient must be fp32 [rows], an even number");
  const float* const c = coefficient.const_data_ptr<float>();
  std::vector<uint32_t> pairs(coefficient.numel() / 2);
  for (size_t k = 0; k < pairs.size(); ++k) {
    const auto bits = [&](float value) { return static_cast<uint32_t>(narrow<c10::BFloat16>(value).x); };
    pairs[k] = bits(c[2 * k]) | bits(c[2 * k + 1]) << 16;
  }
  return pairs;
}

int64_t words_of(const Tensor& panels) {
  TORCH_CHECK(panels.scalar_type() == at::kBFloat16 && panels.dim() == 3 && panels.stride(2) == 1 &&
                  panels.size(2) == 2 * kPanel && panels.stride(1) == 2 * kPanel,
              "panels must be bf16 [columns / 64, rows / 2, 128]");
  return panels.stride(0) / 2;
}

uint32_t* words_at(const Tensor& tensor) {
  return reinterpret_cast<uint32_t*>(tensor.data_ptr());
}

LayerPart layer_of(const Tensor& upstream, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  TORCH_CHECK(weight.scalar_type() == at::kFloat && weight.is_contiguous() && weight.dim() == 2,
              "weights must be fp32 [out, in]");
  const int64_t outputs = weight.size(0), inputs = weight.size(1), stride = words_of(upstream), x_stride = words_of(x);
  TORCH_CHECK(upstream.size(1) == x.size(1) && upstream.size(0) * kPanel >= outputs && x.size(0) * kPanel >= inputs,
              "panels do not fit the weight");
  float* b = nullptr;
  if (bias.has_value()) {
    TORCH_CHECK(bias->scalar_type() == at::kFloat && bias->is_contiguous() && bias->numel() == outputs,
                "bias must be fp32 [out]");
    b = bias->data_ptr<float>();
  }
  return {words_at(upstream), words_at(x), stride, x_stride, x.size(1), outputs, inputs, weight.data_ptr<float>(), b, {}};
}

}  // namespace
}  // namespace fastgan

#pragma GCC pop_options
#endif
