// linear: a chain's products, with bias, activation, dropout and slope applied to a tile of sums while it is in registers.
#pragma once

#include "tiles.h"

#include "../threads.h"
#include "../vector_math.h"

#include <cmath>

namespace fastgan::packed {
namespace {

constexpr int64_t kUnitWork = 1 << 20;  // multiplications worth a thread
constexpr int64_t kFillWork = 1 << 14;  // numbers worth a thread

// A = leaky(pre), with its slope in its sign: -0 where the pre-activation is 0.
template <class I>
struct EncodeActivation {
  typename I::Vector negative_slope;
  explicit EncodeActivation(float slope) : negative_slope(I::set(slope)) {}
  FASTGAN_TILE typename I::Vector operator()(typename I::Vector pre) const {
    return I::if_positive(pre, pre, I::negative(I::multiply(negative_slope, I::abs(pre))));
  }
};

// A layer's slope at its activations: their signs have it, and +0 is a dropped unit.
template <class I>
struct ActivationSlope {
  typename I::Vector above, below;
  ActivationSlope(float negative_slope, float scale) : above(I::set(scale)), below(I::set(negative_slope * scale)) {}
  FASTGAN_TILE typename I::Vector operator()(typename I::Vector activations) const {
    return I::unless_zero_bits(activations, I::if_signed(activations, below, above));
  }
};

// Multiplies the units of a tile that are kept by the scale, and makes the others +0.
template <class I, int R, int V>
FASTGAN_TILE void drop(const MaskCounter& masks, Sums<I, R, V>& sums, int64_t row, int64_t column) {
  constexpr int kLines = MaskCounter::kTileColumns / kPanel<I>;
  uint16_t numbers[(R + kLines - 1) / kLines][MaskCounter::kTileColumns];
  for (int r = 0; r < R; r += kLines) masks.draw(row + r, kLines, column, numbers[r / kLines]);
  const auto scale = I::set(static_cast<float>(masks.scale));
  change_all(sums, [&](auto units, int r, int v) {
    const uint16_t* const drawn = numbers[r / kLines] + r % kLines * kPanel<I> + I::kWidth * v;
    return I::if_at_least(drawn, masks.threshold, I::multiply(units, scale));
  });
}

template <class I, int R, int V>
FASTGAN_TILE void add_bias(Sums<I, R, V>& sums, const float* bias, int64_t column, int64_t width) {
  if (!bias) return;
  change_all(sums, [&](auto sum, int, int v) {
    return I::add(sum, I::load(bias + column + I::kWidth * v, I::lanes(width - I::kWidth * v)));
  });
}

// A tile of a product, which `finish` gets in registers.
template <class I, int R, int V, class Finish>
void tile(Storage x, const uint32_t* y, int64_t words, int64_t row, int64_t column, int64_t width, const Finish& finish) {
  Sums<I, R, V> sums;
  // captured: a lambda without captures also becomes a plain function, which gcc compiles without the instructions
  const auto zero = I::zero();
  change_all(sums, [zero](auto, int, int) { return zero; });
  if constexpr (I::kGroup == 1) {
    constexpr int64_t kColumns = kPanel<I>;
    const uint32_t* panel = panel_at<I>(x, row, 0);
    int64_t k = 0;
    for (; k + kColumns <= words; k += kColumns, panel += x.stride)
      multiply(sums, panel, kColumns, 1, y + k * kColumns, kColumns);
    if (k < words) multiply(sums, panel, kColumns, 1, y + k * kColumns, words - k);
  } else {
    multiply(sums, reinterpret_cast<const uint32_t*>(number_at(x, row, 0)), x.stride / 2, 1, y, words);
  }
  finish(sums, row, column, width);
}

template <class I, int R, class Finish>
inline void tile(Storage x, const uint32_t* y, int64_t words, int64_t row, int64_t column, int64_t width,
                 const Finish& finish) {
  width <= I::kWidth ? tile<I, R, 1>(x, y, words, row, column, width, finish)
                     : tile<I, R, I::kVectors>(x, y, words, row, column, width, finish);
}

// Runs finish(sums, row, column, width) on every tile of x [rows, inputs] times a packed weight with `columns` columns.
template <class I, class Finish>
void product(Storage x, int64_t rows, int64_t inputs, const void* pack, int64_t columns, const Finish& finish) {
  constexpr int kRows = I::kRows;
  constexpr int64_t kUnitRows = 8 * kRows;  // of a panel that a thread takes at a time: fewer read the panel more often
  const int64_t words = (inputs + I::kGroup - 1) / I::kGroup;
  const auto* const weights = static_cast<const uint32_t*>(pack);
  const int64_t panels = (columns + kPanel<I> - 1) / kPanel<I>, strips = (rows + kUnitRows - 1) / kUnitRows;
  const int64_t work = I::kGroup * words * kPanel<I> * std::min(rows, kUnitRows);
  share(panels * strips, std::max<int64_t>(1, kUnitWork / std::max<int64_t>(work, 1)), [&](int64_t unit) {
    const int64_t panel = unit % panels, column = panel * kPanel<I>, width = std::min(kPanel<I>, columns - column);
    const uint32_t* const y = weights + panel * words * kPanel<I>;
    const int64_t end = std::min(rows, (unit / panels + 1) * kUnitRows);
    for (int64_t row = unit / panels * kUnitRows; row < end; row += kRows) {
      const int64_t count = end - row;
      if (count >= kRows) {
        tile<I, kRows>(x, y, words, row, column, width, finish);
      } else if (count == 4) {
        tile<I, 4>(x, y, words, row, column, width, finish);
      } else {
        tile<I, 2>(x, y, words, row, column, width, finish);
      }
    }
  });
}

template <class I>
void linear(const Hidden& layer) {
  const EncodeActivation<I> encode(layer.negative_slope);
  const Operand& out = layer.out;
  product<I>(layer.x, out.rows, layer.inputs, layer.pack, out.columns,
             [&](auto& sums, int64_t row, int64_t column, int64_t width) {
               add_bias(sums, layer.bias, column, width);
               change_all(sums, [&](auto pre, int, int) { return encode(pre); });
               if (!layer.masks.streams.empty()) drop(layer.masks, sums, row, column);
               store(out, sums, sums, row, column, width);
             });
}

// tanh to about one unit in the last place: a minimax polynomial up to 5/8, (1 - e) / (1 + e) with e = exp(-2 |x|) beyond.
inline float tanh_of(float x) {
  const float a = std::fabs(x), u = x * x, e = exp_negative(2.0f * a);
  const float small = a + a * u * polynomial(u, -0.33333302f, 0.13331456f, -0.053739842f, 0.020638987f, -0.0057048702f);
  return std::copysign(a < 0.625f ? small : (1.0f - e) / (1.0f + e), x);
}

inline float sigmoid_of(float x) {
  const float e = exp_negative(std::fabs(x));
  return (x > 0.0f ? 1.0f : e) / (1.0f + e);
}

// Apart from the tiles: what calls it is compiled for each of their sizes.
__attribute__((noinline)) void activate(float* row, int64_t width, Activation activation) {
  if (activation == kTanh) {
    for (int64_t j = 0; j < width; ++j) row[j] = tanh_of(row[j]);
  } else {
    for (int64_t j = 0; j < width; ++j) row[j] = sigmoid_of(row[j]);
  }
}

template <class I>
void output(const Output& layer) {
  const int64_t columns = layer.outputs;
  product<I>(layer.x, layer.rows, layer.inputs, layer.pack, columns,
             [&](auto& sums, int64_t row, int64_t column, int64_t width) {
               add_bias(sums, layer.bias, column, width);
               float* const first = layer.out + row * columns + column;
               change_all(sums, [&](auto sum, int r, int v) {
                 I::store(first + r * columns + I::kWidth * v, I::lanes(width - I::kWidth * v), sum);
                 return sum;
               });
               constexpr int64_t rows = sizeof(sums.at) / sizeof(sums.at[0]);
               for (int64_t r = 0; layer.activation != kIdentity && r < rows; ++r)
                 activate(first + r * columns, width, layer.activation);
             });
}

template <class I>
void adjoint(const Adjoint& layer) {
  const ActivationSlope<I> slope(layer.negative_slope, layer.scale);
  product<I>(layer.x, layer.out.rows, layer.inputs, layer.pack, layer.out.columns,
             [&](auto& sums, int64_t row, int64_t column, int64_t width) {
               change_all(sums, [&](auto sum, int r, int v) {
                 const int64_t skipped = I::kWidth * v;
                 return I::multiply(sum, slope(load_values<I>(layer.activations, row + r, column + skipped, width - skipped)));
               });
               store(layer.out, sums, sums, row, column, width);
             });
}

template <class I>
void tangent(const Tangent& layer) {
  const ActivationSlope<I> slope(layer.negative_slope, layer.scale);
  const float* const c = layer.coefficient;
  product<I>(layer.x, layer.out.rows, layer.inputs, layer.pack, layer.out.columns,
             [&](auto& sums, int64_t row, int64_t column, int64_t width) {
               auto mixed = sums;
               change_all(sums, [&](auto sum, int r, int v) {
                 const int64_t skipped = I::kWidth * v;
                 const auto a = load_values<I>(layer.activations, row + r, column + skipped, width - skipped);
                 const auto t = I::multiply(sum, slope(a));
                 mixed.at[r][v] = I::fma(I::set(c[row + r]), a, t);
                 return t;
               });
               store(layer.out, sums, mixed, row, column, width);
             });
}

// Fills the first rows of an operand, two at a time: value(i, lanes) makes a vector from number i of the rows on, and
// panel(i, row, values, lanes) what goes into the panels.
template <class I, class Value, class Panel>
void fill(const Operand& out, int64_t rows, const Value& value, const Panel& panel) {
  const int64_t columns = out.columns, grain = std::max<int64_t>(1, kFillWork / std::max<int64_t>(columns, 1));
  share((rows + 1) / 2, grain, [&](int64_t pair) {
    const int64_t row = 2 * pair;
    for (int64_t column = 0; column < columns; column += kPanel<I>) {
      const int64_t width = std::min(kPanel<I>, columns - column);
      const auto lanes = [&](int r, int v) { return I::lanes(row + r < rows ? width - I::kWidth * v : 0); };
      const auto index = [&](int r, int v) { return (row + r) * columns + column + I::kWidth * v; };
      Sums<I, 2, I::kVectors> made, mixed;
      change_all(made, [&](auto, int r, int v) { return value(index(r, v), lanes(r, v)); });
      change_all(mixed, [&](auto, int r, int v) { return panel(index(r, v), row + r, made.at[r][v], lanes(r, v)); });
      store(out, made, mixed, row, column, width);
    }
  });
}

template <class I>
void load(const Load& given) {
  const auto value = [&](int64_t i, auto lanes) { return I::load(given.first + i, lanes); };
  fill<I>(given.out, given.rows, value, [&](int64_t, int64_t, auto values, auto) { return values; });
}

// Tangents into the values, and c * the rows they belong to (second) + tangents into the panels.
template <class I>
void load_tangent(const Load& given) {
  const auto value = [&](int64_t i, auto lanes) { return I::load(given.first + i, lanes); };
  fill<I>(given.out, given.rows, value, [&](int64_t i, int64_t row, auto values, auto lanes) {
    return I::fma(I::set(row < given.rows ? given.coefficient[row] : 0.0f), I::load(given.second + i, lanes), values);
  });
}

// Gradients by the last layer's output times the slope of its activation at that output (second).
template <class I>
void load_output(const Load& given) {
  const auto value = [&](int64_t i, auto lanes) {
    const auto gradients = I::load(given.first + i, lanes), outputs = I::load(given.second + i, lanes);
    const auto one = I::set(1.0f);
    if (given.activation == kTanh) return I::multiply(gradients, I::subtract(one, I::multiply(outputs, outputs)));
    if (given.activation == kSigmoid) return I::multiply(gradients, I::multiply(outputs, I::subtract(one, outputs)));
    return gradients;
  };
  fill<I>(given.out, given.rows, value, [&](int64_t, int64_t, auto values, auto) { return values; });
}

}  // namespace
}  // namespace fastgan::packed
