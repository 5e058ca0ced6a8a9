// linear: a chain's products in bf16 by dot products of pairs (AVX512-BF16), with bias, activation, dropout and slope applied to
// a tile of sums while it is in the cache. storage.h has the layout.

#include "operand.h"

#include "../dropout.h"
#include "../threads.h"
#include "../vector_math.h"

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <vector>

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

#ifdef FASTGAN_BF16_DOT

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")

using fastgan::change_all;
using fastgan::kIdentity;
using fastgan::kPanel;
using fastgan::kRows;
using fastgan::kTanh;
using fastgan::lanes;
using fastgan::MaskCounter;
using fastgan::Operand;
using fastgan::operand_of;
using fastgan::Sums;

constexpr int64_t kUnitRows = 8 * kRows;  // rows of a panel that a thread takes at a time: fewer read the panel more often
constexpr int64_t kUnitWork = 1 << 20;    // multiplications worth a thread

// 16 activations from `values` on; those of other lanes are zero.
__m256i load_16(const uint16_t* values, __mmask16 mask) {
  return _mm256_maskz_loadu_epi16(mask, values);
}

__m512 wide(__m256i values) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

// A = leaky(pre), with its slope in its sign: -0 where the pre-activation is 0.
struct EncodeActivation {
  __m512 negative_slope;
  explicit EncodeActivation(double slope) : negative_slope(_mm512_set1_ps(static_cast<float>(slope))) {}
  __m512 operator()(__m512 pre) const {
    const __m512 size = _mm512_mul_ps(negative_slope, _mm512_abs_ps(pre));
    const __m512 below = _mm512_or_ps(size, _mm512_set1_ps(-0.0f));
    return _mm512_mask_mov_ps(below, _mm512_cmp_ps_mask(pre, _mm512_setzero_ps(), _CMP_GT_OQ), pre);
  }
};

// A layer's slope at its activations: their signs have it, and +0 is a dropped unit.
struct ActivationSlope {
  __m512 above, below;
  ActivationSlope(double negative_slope, double scale)
      : above(_mm512_set1_ps(static_cast<float>(scale))), below(_mm512_set1_ps(static_cast<float>(negative_slope * scale))) {}
  __m512 operator()(__m256i activations) const {
    const __m512 kept = _mm512_mask_mov_ps(above, _mm256_movepi16_mask(activations), below);
    return _mm512_maskz_mov_ps(_mm256_test_epi16_mask(activations, activations), kept);
  }
};

// Multiplies the units of a tile that are kept by the scale, and makes the others +0.
template <int R, int V>
inline __attribute__((always_inline)) void drop(const MaskCounter& masks, Sums<R, V>& sums, int64_t row, int64_t column) {
  constexpr int kLines = MaskCounter::kTileColumns / kPanel;  // of one pass: a pass has an even number of rows
  static_assert(R % kLines == 0);
  uint16_t numbers[R / kLines][MaskCounter::kTileColumns];
  for (int r = 0; r < R; r += kLines) masks.draw(row + r, kLines, column, numbers[r / kLines]);
  const __m512 scale = _mm512_set1_ps(masks.scale);
  const __m256i threshold = _mm256_set1_epi16(static_cast<short>(masks.threshold));
  const __mmask16 some = masks.threshold > 0xffff ? 0 : 0xffff;  // a probability next to 1 rounds to one beyond 16 bits
  change_all(sums, [&](__m512 units, int r, int v) {
    const auto* sixteen = reinterpret_cast<const __m256i*>(numbers[r / kLines] + r % kLines * kPanel + 16 * v);
    const __mmask16 kept = _mm256_mask_cmpge_epu16_mask(some, _mm256_loadu_si256(sixteen), threshold);
    return _mm512_maskz_mul_ps(kept, units, scale);
  });
}

template <int R, int V>
inline __attribute__((always_inline)) void add_bias(Sums<R, V>& sums, const float* bias, int64_t column, int64_t width) {
  if (!bias) return;
  change_all(sums, [&](__m512 sum, int, int v) {
    return _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes(width, v), bias + column + 16 * v));
  });
}

// A tile of a product, which `finish` gets in registers.
template <int R, int V, class Finish>
void tile(const uint32_t* x, int64_t stride, const uint32_t* y, int64_t pairs, int64_t row, int64_t column, int64_t width,
          const Finish& finish) {
  Sums<R, V> sums;
  // captured: a lambda without captures also becomes a plain function, which gcc compiles without AVX-512
  const __m512 zero = _mm512_setzero_ps();
  change_all(sums, [zero](__m512, int, int) { return zero; });
  fastgan::multiply(sums, x, stride, 1, y, pairs);
  finish(sums, row, column, width);
}

template <int R, class Finish>
inline void tile(const uint32_t* x, int64_t stride, const uint32_t* y, int64_t pairs, int64_t row, int64_t column,
                 int64_t width, const Finish& finish) {
  width <= 16 ? tile<R, 1>(x, stride, y, pairs, row, column, width, finish)
              : tile<R, fastgan::kVectors>(x, stride, y, pairs, row, column, width, finish);
}

// Runs finish(sums, row, column, width) on every tile of x [rows, k] times a packed weight with `columns` columns.
template <class Finish>
void product(const Tensor& x, const Tensor& pack, int64_t columns, const Finish& finish) {
  const int64_t rows = x.size(0), pairs = pack.size(1), stride = x.stride(0) / 2;
  TORCH_CHECK(x.scalar_type() == at::kBFloat16 && x.dim() == 2 && x.stride(1) == 1 && x.stride(0) % 2 == 0 && rows % 2 == 0,
              "x must be bf16 values [rows, columns] with even rows and strides");
  TORCH_CHECK(pack.scalar_type() == at::kBFloat16 && pack.is_contiguous() && pack.dim() == 3 && pack.size(2) == 2 * kPanel &&
                  pack.size(0) * kPanel >= columns && x.size(1) >= 2 * pairs,
              "the packed weight does not fit x");
  const auto* words = reinterpret_cast<const uint32_t*>(x.const_data_ptr());
  const auto* weights = reinterpret_cast<const uint32_t*>(pack.const_data_ptr());
  const int64_t panels = (columns + kPanel - 1) / kPanel, strips = (rows + kUnitRows - 1) / kUnitRows;
  const int64_t work = 2 * pairs * kPanel * std::min(rows, kUnitRows);
  fastgan::share(panels * strips, std::max<int64_t>(1, kUnitWork / std::max<int64_t>(work, 1)), [&](int64_t unit) {
    const int64_t panel = unit / strips, column = panel * kPanel, width = std::min(kPanel, columns - column);
    const uint32_t* const y = weights + panel * pairs * kPanel;
    const int64_t end = std::min(rows, (unit % strips + 1) * kUnitRows);
    for (int64_t row = unit % strips * kUnitRows; row < end; row += kRows) {
      const uint32_t* const left = words + row * stride;
      const int64_t count = end - row;
      if (count >= 6) {
        tile<6>(left, stride, y, pairs, row, column, width, finish);
      } else if (count == 4) {
        tile<4>(left, stride, y, pairs, row, column, width, finish);
      } else {
        tile<2>(left, stride, y, pairs, row, column, width, finish);
      }
    }
  });
}

const float* bias_of(const OptionalTensor& bias, int64_t columns) {
  if (!bias.has_value()) return nullptr;
  TORCH_CHECK(bias->scalar_type() == at::kFloat && bias->is_contiguous() && bias->numel() == columns,
              "bias must be fp32 [out]");
  return bias->const_data_ptr<float>();
}

// values: A_0, A_1, ..; panels: of A_1, .. . streams: the words of all layers that have a threshold, a word for each pass.
void linear_bf16_(at::TensorList values, at::TensorList panels, at::TensorList packs, const c10::List<OptionalTensor>& biases,
                  at::IntArrayRef widths, at::ArrayRef<double> negative_slopes, at::IntArrayRef thresholds,
                  at::ArrayRef<double> scales, at::IntArrayRef streams, int64_t passes, int64_t seed, int64_t step,
                  int64_t first_row) {
  for (size_t l = 0; l < packs.size(); ++l) {
    const Operand out = operand_of(values[l + 1], panels[l], widths[l]);
    MaskCounter masks{{},
                      out.rows / passes,
                      static_cast<uint32_t>(thresholds[l]),
                      static_cast<uint32_t>(step),
                      static_cast<uint32_t>(first_row),
                      static_cast<uint64_t>(seed),
                      static_cast<float>(scales[l])};
    if (thresholds[l]) {
      TORCH_CHECK(static_cast<int64_t>(streams.size()) >= passes, "a layer with dropout has a stream for each pass");
      masks.streams.assign(streams.begin(), streams.begin() + passes);
      streams = streams.slice(passes);
    }
    const EncodeActivation encode(negative_slopes[l]);
    const OptionalTensor given = biases.get(l);
    const float* const bias = bias_of(given, widths[l]);
    product(values[l], packs[l], widths[l], [&](auto& sums, int64_t row, int64_t column, int64_t width) {
      add_bias(sums, bias, column, width);
      change_all(sums, [&](__m512 pre, int, int) { return encode(pre); });
      if (!masks.streams.empty()) drop(masks, sums, row, column);
      out.store_values(sums, row, column, width);
      out.store_panels(sums, row, column);
    });
  }
}

// tanh to about one unit in the last place: a minimax polynomial up to 5/8, (1 - e) / (1 + e) with e = exp(-2 |x|) beyond.
float tanh_of(float x) {
  const float a = std::fabs(x), u = x * x, e = fastgan::exp_negative(2.0f * a);
  const float small =
      a + a * u * fastgan::polynomial(u, -0.33333302f, 0.13331456f, -0.053739842f, 0.020638987f, -0.0057048702f);
  return std::copysign(a < 0.625f ? small : (1.0f - e) / (1.0f + e), x);
}

float sigmoid_of(float x) {
  const float e = fastgan::exp_negative(std::fabs(x));
  return (x > 0.0f ? 1.0f : e) / (1.0f + e);
}

void activate(float* row, int64_t width, int64_t activation) {
  if (activation == kTanh) {
    for (int64_t j = 0; j < width; ++j) row[j] = tanh_of(row[j]);
  } else {
    for (int64_t j = 0; j < width; ++j) row[j] = sigmoid_of(row[j]);
  }
}

void output_bf16_(const Tensor& x, const Tensor& pack, const OptionalTensor& bias, int64_t activation, const Tensor& out) {
  TORCH_CHECK(out.scalar_type() == at::kFloat && out.is_contiguous() && out.dim() == 2 && out.size(0) == x.size(0),
              "out must be fp32 [rows, columns]");
  const int64_t columns = out.size(1);
  float* const result = out.mutable_data_ptr<float>();
  const float* const b = bias_of(bias, columns);
  product(x, pack, columns, [&](auto& sums, int64_t row, int64_t column, int64_t width) {
    add_bias(sums, b, column, width);
    change_all(sums, [&](__m512 sum, int r, int v) {
      _mm512_mask_storeu_ps(result + (row + r) * columns + column + 16 * v, lanes(width, v), sum);
      return sum;
    });
    constexpr int64_t rows = sizeof(sums.at) / sizeof(sums.at[0]);
    for (int64_t r = 0; activation != kIdentity && r < rows; ++r)
      activate(result + (row + r) * columns + column, width, activation);
  });
}

// values: U_l, U_{l-1}, ..; panels, activations: of U_{l-1}, ..
void adjoint_bf16_(at::TensorList values, at::TensorList panels, at::TensorList packs, at::TensorList activations,
                   at::IntArrayRef widths, at::ArrayRef<double> negative_slopes, at::ArrayRef<double> scales) {
  for (size_t l = 0; l < packs.size(); ++l) {
    const Operand out = operand_of(values[l + 1], panels[l], widths[l]);
    const Tensor& made = activations[l];
    TORCH_CHECK(made.scalar_type() == at::kBFloat16 && made.sizes() == values[l + 1].sizes() && made.stride(1) == 1,
                "activations must be like values");
    const auto* a = reinterpret_cast<const uint16_t*>(made.const_data_ptr());
    const int64_t stride = made.stride(0);
    const ActivationSlope slope(negative_slopes[l], scales[l]);
    product(values[l], packs[l], widths[l], [&](auto& sums, int64_t row, int64_t column, int64_t width) {
      const uint16_t* const first = a + row * stride + column;
      change_all(sums, [&](__m512 sum, int r, int v) {
        return _mm512_mul_ps(sum, slope(load_16(first + r * stride + 16 * v, lanes(width, v))));
      });
      out.store_values(sums, row, column, width);
      out.store_panels(sums, row, column);
    });
  }
}

// values: T_0, then A_1, .. which become T_1, ..; panels: of A_1, .. which become c A_1 + T_1, ..
void tangent_bf16_(at::TensorList values, at::TensorList panels, at::TensorList packs, const Tensor& coefficient,
                   at::IntArrayRef widths, at::ArrayRef<double> negative_slopes, at::ArrayRef<double> scales) {
  TORCH_CHECK(coefficient.scalar_type() == at::kFloat && coefficient.is_contiguous(), "the coefficient must be fp32 [rows]");
  const float* const c = coefficient.const_data_ptr<float>();
  for (size_t l = 0; l < packs.size(); ++l) {
    const Operand out = operand_of(values[l + 1], panels[l], widths[l]);
    TORCH_CHECK(coefficient.numel() == out.rows, "the coefficient must be fp32 [rows]");
    const ActivationSlope slope(negative_slopes[l], scales[l]);
    product(values[l], packs[l], widths[l], [&](auto& sums, int64_t row, int64_t column, int64_t width) {
      auto mixed = sums;
      const uint16_t* const first = out.values + row * out.stride + column;
      change_all(sums, [&](__m512 sum, int r, int v) {
        const __m256i activations = load_16(first + r * out.stride + 16 * v, lanes(width, v));
        const __m512 t = _mm512_mul_ps(sum, slope(activations));
        mixed.at[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(c[row + r]), wide(activations), t);
        return t;
      });
      out.store_values(sums, row, column, width);
      out.store_panels(mixed, row, column);
    });
  }
}

#pragma GCC pop_options

bool bf16_dot() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}

#else

bool bf16_dot() {
  return false;
}

#endif
}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CompositeExplicitAutograd, m) {
  m.impl("bf16_dot", &bf16_dot);
}

#ifdef FASTGAN_BF16_DOT
TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("linear_bf16_", &linear_bf16_);
  m.impl("output_bf16_", &output_bf16_);
  m.impl("adjoint_bf16_", &adjoint_bf16_);
  m.impl("tangent_bf16_", &tangent_bf16_);
}
#endif
