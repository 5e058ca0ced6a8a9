// linear: a chain's products in bf16 by dot products of pairs (AVX512-BF16), with bias, activation, dropout and slope applied to
// a tile of sums while it is in the cache. bf16.h has the storage.

#include "bf16.h"

#include "masks.h"
#include "threads.h"
#include "vector_math.h"

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

using fastgan::kPanel;
using fastgan::kRows;
using fastgan::Masks;
using fastgan::Tile;

constexpr int64_t kUnitRows = 4 * kRows;  // rows of a panel that a thread takes at a time
constexpr int64_t kUnitWork = 1 << 20;    // multiplications worth a thread
constexpr int64_t kFillWork = 1 << 14;    // elements worth a thread

// An operand's storage.
struct Operand {
  uint16_t* values;
  int64_t stride;  // of a row of values, in columns
  uint32_t* panels;
  int64_t panel_stride;  // in words
  int64_t rows, columns;

  void store_values(const Tile& tile, int64_t row, int count, int64_t column, int64_t width) const {
    for (int r = 0; r < count; ++r) fastgan::store_values(tile.at[r], width, values + (row + r) * stride + column);
  }
  void store_panels(const Tile& tile, int64_t row, int count, int64_t column) const {
    uint32_t* const panel = panels + column / kPanel * panel_stride + row / 2 * kPanel;
    for (int r = 0; r < count; r += 2) fastgan::store_pairs(tile.at[r], tile.at[r + 1], panel + r / 2 * kPanel);
  }
};

Operand operand_of(const Tensor& values, const Tensor& panels, int64_t columns) {
  TORCH_CHECK(values.scalar_type() == at::kBFloat16 && panels.scalar_type() == at::kBFloat16, "operands are bf16");
  TORCH_CHECK(values.dim() == 2 && values.stride(1) == 1 && values.size(1) >= columns + columns % 2 && values.stride(0) % 2 == 0,
              "values must be [rows, columns] with even row strides");
  TORCH_CHECK(panels.dim() == 3 && panels.stride(2) == 1 && panels.stride(1) == 2 * kPanel && panels.size(2) == 2 * kPanel &&
                  2 * panels.size(1) == values.size(0) && panels.size(0) * kPanel >= columns,
              "panels must be [columns / 64, rows / 2, 128]");
  return {reinterpret_cast<uint16_t*>(values.data_ptr()), values.stride(0), reinterpret_cast<uint32_t*>(panels.data_ptr()),
          panels.stride(0) / 2, values.size(0), columns};
}

// 16 activations from `values` on; those beyond the first `count` are zero.
__m256i load_16(const uint16_t* values, int64_t count) {
  return _mm256_maskz_loadu_epi16(count < 16 ? static_cast<__mmask16>((1u << count) - 1) : 0xffff, values);
}

__m512 wide(__m256i values) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

// A = leaky(pre), with its slope in its sign: -0 where the pre-activation is 0.
struct Fold {
  __m512 negative_slope;
  explicit Fold(double slope) : negative_slope(_mm512_set1_ps(static_cast<float>(slope))) {}
  __m512 operator()(__m512 pre) const {
    const __m512 size = _mm512_mul_ps(negative_slope, _mm512_abs_ps(pre));
    const __m512 below = _mm512_or_ps(size, _mm512_set1_ps(-0.0f));
    return _mm512_mask_mov_ps(below, _mm512_cmp_ps_mask(pre, _mm512_setzero_ps(), _CMP_GT_OQ), pre);
  }
};

// A layer's slope at its activations: their signs have it, and +0 is a dropped unit.
struct Slope {
  __m512 above, below;
  Slope(double negative_slope, double scale)
      : above(_mm512_set1_ps(static_cast<float>(scale))), below(_mm512_set1_ps(static_cast<float>(negative_slope * scale))) {}
  __m512 operator()(__m256i activations) const {
    const __m512 kept = _mm512_mask_mov_ps(above, _mm256_movepi16_mask(activations), below);
    return _mm512_maskz_mov_ps(_mm256_test_epi16_mask(activations, activations), kept);
  }
};

// Multiplies the units of a tile that are kept by the scale, and makes the others +0.
void drop(const Masks& masks, Tile& tile, int64_t row, int count, int64_t column) {
  constexpr int kLines = Masks::kTileColumns / kPanel;  // of one pass: a pass has an even number of rows
  uint16_t numbers[Masks::kTileColumns];
  const __m512 scale = _mm512_set1_ps(masks.scale);
  const __m256i threshold = _mm256_set1_epi16(static_cast<short>(masks.threshold));
  for (int first = 0; first < count; first += kLines) {
    masks.draw(row + first, kLines, column, numbers);
    for (int i = 0; i < kLines * fastgan::kVectors; ++i) {
      float* const units = &tile.at[first + i / fastgan::kVectors][16 * (i % fastgan::kVectors)];
      const auto* sixteen = reinterpret_cast<const __m256i*>(numbers + 16 * i);
      const __mmask16 kept = _mm256_cmpge_epu16_mask(_mm256_loadu_si256(sixteen), threshold);
      _mm512_store_ps(units, _mm512_maskz_mul_ps(kept, _mm512_load_ps(units), scale));
    }
  }
}

// Runs finish(tile, row, rows, column, width) on every tile of x [rows, k] times a packed weight with `columns` columns.
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
  const auto nothing = [](int64_t) {};
  fastgan::share(panels * strips, std::max<int64_t>(1, kUnitWork / std::max<int64_t>(work, 1)), [&](int64_t unit) {
    const int64_t panel = unit / strips, column = panel * kPanel, width = std::min(kPanel, columns - column);
    const int vectors = static_cast<int>((width + 15) / 16);
    const uint32_t* const y = weights + panel * pairs * kPanel;
    const int64_t end = std::min(rows, (unit % strips + 1) * kUnitRows);
    Tile tile;
    for (int64_t row = unit % strips * kUnitRows; row < end; row += kRows) {
      const uint32_t* const left = words + row * stride;
      const int count = static_cast<int>(std::min<int64_t>(kRows, end - row));
      if (count == 6) {
        fastgan::multiply<6, false>(left, stride, 1, y, pairs, vectors, tile, 0, nothing);
      } else if (count == 4) {
        fastgan::multiply<4, false>(left, stride, 1, y, pairs, vectors, tile, 0, nothing);
      } else {
        fastgan::multiply<2, false>(left, stride, 1, y, pairs, vectors, tile, 0, nothing);
      }
      finish(tile, row, count, column, width);
    }
  });
}

// Replaces the vectors of a tile, those with columns of the matrix in them: change(vector, row, first column, its columns).
template <class Change>
inline void change_tile(Tile& tile, int count, int64_t width, const Change& change) {
  for (int r = 0; r < count; ++r) {
    for (int64_t j = 0; j < width; j += 16)
      _mm512_store_ps(&tile.at[r][j], change(_mm512_load_ps(&tile.at[r][j]), r, j, std::min<int64_t>(16, width - j)));
  }
}

void add_bias(Tile& tile, int count, const float* bias, int64_t column, int64_t width) {
  if (!bias) return;
  change_tile(tile, count, width, [=](__m512 sum, int, int64_t j, int64_t columns) {
    return _mm512_add_ps(sum, _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << columns) - 1), bias + column + j));
  });
}

const float* bias_of(const OptionalTensor& bias, int64_t columns) {
  if (!bias.has_value()) return nullptr;
  TORCH_CHECK(bias->scalar_type() == at::kFloat && bias->is_contiguous() && bias->numel() == columns, "bias must be fp32 [out]");
  return bias->const_data_ptr<float>();
}

void linear_bf16_(const Tensor& x, const Tensor& pack, const OptionalTensor& bias, int64_t columns, double negative_slope,
                  const Tensor& values, const Tensor& panels, at::IntArrayRef streams, int64_t threshold, double scale,
                  int64_t seed, int64_t step, int64_t first_row) {
  const Operand out = operand_of(values, panels, columns);
  const float* const b = bias_of(bias, columns);
  const Fold fold(negative_slope);
  const int64_t passes = std::max<int64_t>(1, streams.size());
  const Masks masks{{streams.begin(), streams.end()},      out.rows / passes,           static_cast<uint32_t>(threshold),
                    static_cast<uint32_t>(step),           static_cast<uint32_t>(first_row), static_cast<uint64_t>(seed),
                    static_cast<float>(scale)};
  product(x, pack, columns, [&](Tile& tile, int64_t row, int count, int64_t column, int64_t width) {
    add_bias(tile, count, b, column, width);
    change_tile(tile, count, width, [=](__m512 pre, int, int64_t, int64_t) { return fold(pre); });
    if (!streams.empty()) drop(masks, tile, row, count, column);
    out.store_values(tile, row, count, column, width);
    out.store_panels(tile, row, count, column);
  });
}

enum Activation : int64_t { kIdentity, kTanh, kSigmoid };

// tanh to about one unit in the last place: a minimax polynomial up to 5/8, (1 - e) / (1 + e) with e = exp(-2 |x|) beyond.
float tanh_of(float x) {
  const float a = std::fabs(x), u = x * x, e = fastgan::exp_negative(2.0f * a);
  const float small = a + a * u * fastgan::polynomial(u, -0.33333302f, 0.13331456f, -0.053739842f, 0.020638987f, -0.0057048702f);
  return std::copysign(a < 0.625f ? small : (1.0f - e) / (1.0f + e), x);
}

float sigmoid_of(float x) {
  const float e = fastgan::exp_negative(std::fabs(x));
  return (x > 0.0f ? 1.0f : e) / (1.0f + e);
}

void output_bf16_(const Tensor& x, const Tensor& pack, const OptionalTensor& bias, int64_t activation, const Tensor& out) {
  TORCH_CHECK(out.scalar_type() == at::kFloat && out.is_contiguous() && out.dim() == 2 && out.size(0) == x.size(0),
              "out must be fp32 [rows, columns]");
  const int64_t columns = out.size(1);
  float* const result = out.mutable_data_ptr<float>();
  const float* const b = bias_of(bias, columns);
  product(x, pack, columns, [&](Tile& tile, int64_t row, int count, int64_t column, int64_t width) {
    add_bias(tile, count, b, column, width);
    for (int r = 0; r < count; ++r) {
      float* const line = result + (row + r) * columns + column;
      if (activation == kTanh) {
        for (int64_t j = 0; j < width; ++j) line[j] = tanh_of(tile.at[r][j]);
      } else if (activation == kSigmoid) {
        for (int64_t j = 0; j < width; ++j) line[j] = sigmoid_of(tile.at[r][j]);
      } else {
        std::memcpy(line, tile.at[r], width * sizeof(float));
      }
    }
  });
}

void adjoint_bf16_(const Tensor& upstream, const Tensor& pack, const Tensor& activations, int64_t columns, double negative_slope,
                   double scale, const Tensor& values, const Tensor& panels) {
  const Operand out = operand_of(values, panels, columns);
  TORCH_CHECK(activations.scalar_type() == at::kBFloat16 && activations.sizes() == values.sizes(), "activations must be like values");
  const auto* a = reinterpret_cast<const uint16_t*>(activations.const_data_ptr());
  const int64_t stride = activations.stride(0);
  const Slope slope(negative_slope, scale);
  product(upstream, pack, columns, [&](Tile& tile, int64_t row, int count, int64_t column, int64_t width) {
    const uint16_t* const first = a + row * stride + column;
    change_tile(tile, count, width, [=](__m512 sum, int r, int64_t j, int64_t columns) {
      return _mm512_mul_ps(sum, slope(load_16(first + r * stride + j, columns)));
    });
    out.store_values(tile, row, count, column, width);
    out.store_panels(tile, row, count, column);
  });
}

void tangent_bf16_(const Tensor& x, const Tensor& pack, const Tensor& coefficient, int64_t columns, double negative_slope,
                   double scale, const Tensor& values, const Tensor& panels) {
  const Operand out = operand_of(values, panels, columns);
  TORCH_CHECK(coefficient.scalar_type() == at::kFloat && coefficient.is_contiguous() && coefficient.numel() == out.rows,
              "the coefficient must be fp32 [rows]");
  const float* const c = coefficient.const_data_ptr<float>();
  const Slope slope(negative_slope, scale);
  product(x, pack, columns, [&](Tile& tile, int64_t row, int count, int64_t column, int64_t width) {
    Tile mixed = {};
    const uint16_t* const first = out.values + row * out.stride + column;
    change_tile(tile, count, width, [&](__m512 sum, int r, int64_t j, int64_t columns) {
      const __m256i activations = load_16(first + r * out.stride + j, columns);
      const __m512 t = _mm512_mul_ps(sum, slope(activations));
      _mm512_store_ps(&mixed.at[r][j], _mm512_fmadd_ps(_mm512_set1_ps(c[row + r]), wide(activations), t));
      return t;
    });
    out.store_values(tile, row, count, column, width);
    out.store_panels(mixed, row, count, column);
  });
}

const float* rows_of(const Tensor& source, const Tensor& like) {
  TORCH_CHECK(source.scalar_type() == at::kFloat && source.dim() == 2 && source.is_contiguous() && source.sizes() == like.sizes(),
              "rows must be fp32 [rows, columns], all of one shape");
  return source.const_data_ptr<float>();
}

// Fills the first rows of an operand, two at a time: value(i) makes the values from element i of the rows, panel(i, row) what goes
// into the panels.
template <class Value, class Panel>
void fill(const Operand& out, int64_t rows, const Value& value, const Panel& panel) {
  TORCH_CHECK(rows <= out.rows, "more rows than the operand has");
  const int64_t columns = out.columns, grain = std::max<int64_t>(1, kFillWork / std::max<int64_t>(columns, 1));
  fastgan::share((rows + 1) / 2, grain, [&](int64_t pair) {
    const int64_t row = 2 * pair;
    const int count = static_cast<int>(std::min<int64_t>(2, rows - row));
    Tile tile;
    std::memset(tile.at, 0, 2 * sizeof(tile.at[0]));
    for (int64_t column = 0; column < columns; column += kPanel) {
      const int64_t width = std::min(kPanel, columns - column), first = row * columns + column;
      if (width < kPanel) std::memset(tile.at, 0, 2 * sizeof(tile.at[0]));
      for (int r = 0; r < count; ++r)
        for (int64_t j = 0; j < width; ++j) tile.at[r][j] = value(first + r * columns + j);
      out.store_values(tile, row, count, column, width);
      for (int r = 0; r < count; ++r)
        for (int64_t j = 0; j < width; ++j) tile.at[r][j] = panel(first + r * columns + j, row + r, tile.at[r][j]);
      out.store_panels(tile, row, 2, column);
    }
  });
}

void load_bf16_(const Tensor& rows, const Tensor& values, const Tensor& panels) {
  const float* const x = rows_of(rows, rows);
  fill(operand_of(values, panels, rows.size(1)), rows.size(0), [&](int64_t i) { return x[i]; },
       [](int64_t, int64_t, float value) { return value; });
}

void load_tangent_bf16_(const Tensor& push, const Tensor& rows, const Tensor& coefficient, const Tensor& values,
                        const Tensor& panels) {
  const float *const v = rows_of(push, push), *const x = rows_of(rows, push);
  TORCH_CHECK(coefficient.scalar_type() == at::kFloat && coefficient.is_contiguous() && coefficient.numel() >= push.size(0),
              "the coefficient must be fp32 [rows]");
  const float* const c = coefficient.const_data_ptr<float>();
  fill(operand_of(values, panels, push.size(1)), push.size(0), [&](int64_t i) { return v[i]; },
       [&](int64_t i, int64_t row, float value) { return value + c[row] * x[i]; });
}

void load_output_bf16_(const Tensor& gradient, const Tensor& output, int64_t activation, const Tensor& values,
                       const Tensor& panels) {
  const float *const g = rows_of(gradient, gradient), *const y = rows_of(output, gradient);
  const Operand out = operand_of(values, panels, gradient.size(1));
  const auto same = [](int64_t, int64_t, float value) { return value; };
  const int64_t rows = gradient.size(0);
  if (activation == kTanh) return fill(out, rows, [&](int64_t i) { return g[i] * (1.0f - y[i] * y[i]); }, same);
  if (activation == kSigmoid) return fill(out, rows, [&](int64_t i) { return g[i] * (y[i] * (1.0f - y[i])); }, same);
  fill(out, rows, [&](int64_t i) { return g[i]; }, same);
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
  m.impl("load_bf16_", &load_bf16_);
  m.impl("load_tangent_bf16_", &load_tangent_bf16_);
  m.impl("load_output_bf16_", &load_output_bf16_);
}
#endif
