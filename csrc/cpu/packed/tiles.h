// Tiles of sums in registers, the products that make them, and how they get to and from an operand's storage.
#pragma once

#include "kernels.h"

#include <algorithm>
#include <cstdint>

namespace fastgan::packed {
namespace {

#define FASTGAN_TILE inline __attribute__((always_inline))

template <class I>
constexpr int64_t kPanel = I::kWidth * I::kVectors;  // columns

// Sums in fp32, R rows of V vectors of columns.
template <class I, int R, int V>
struct Sums {
  typename I::Vector at[R][V];
};

// visit(vector, row, v) for every vector of a tile. Whatever walks through a tile is unrolled: only then is it in registers.
template <class I, int R, int V, class Visit>
FASTGAN_TILE void visit_all(const Sums<I, R, V>& sums, const Visit& visit) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) visit(sums.at[r][v], r, v);
  }
}

// Replaces every vector of a tile: change(vector, row, v).
template <class I, int R, int V, class Change>
FASTGAN_TILE void change_all(Sums<I, R, V>& sums, const Change& change) {
  visit_all(sums, [&](auto vector, int r, int v) { sums.at[r][v] = change(vector, r, v); });
}

// sums[r][v] += sum over k of x[r x_row + k x_step] . y[panel k + width v ..], products of words.
template <class I, int R, int V>
FASTGAN_TILE void multiply(Sums<I, R, V>& sums, const uint32_t* x, int64_t x_row, int64_t x_step, const uint32_t* y,
                           int64_t words) {
  for (int64_t k = 0; k < words; ++k) {
    typename I::Words columns[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) columns[v] = I::load_words(y + kPanel<I> * k + I::kWidth * v);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto row = I::broadcast(x[r * x_row + k * x_step]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums.at[r][v] = I::dot(sums.at[r][v], row, columns[v]);
    }
  }
}

template <class I>
FASTGAN_TILE uint32_t* panel_at(Storage panels, int64_t row, int64_t column) {
  return static_cast<uint32_t*>(panels.at) + column / kPanel<I> * panels.stride + row / I::kGroup * kPanel<I> +
         column % kPanel<I>;
}

inline uint16_t* number_at(Storage values, int64_t row, int64_t column) {
  return static_cast<uint16_t*>(values.at) + row * values.stride + column;
}

// A vector of values from (row, column) on, of which `left` columns are the operand's; the others are zero.
template <class I>
FASTGAN_TILE typename I::Vector load_values(Storage values, int64_t row, int64_t column, int64_t left) {
  if constexpr (I::kGroup == 1) return I::load(reinterpret_cast<const float*>(panel_at<I>(values, row, column)));
  if constexpr (I::kGroup == 2) return I::load_bf16(number_at(values, row, column), I::lanes(left));
}

template <class I, int R, int V>
FASTGAN_TILE void store_panels(Storage panels, const Sums<I, R, V>& sums, int64_t row, int64_t column) {
  uint32_t* const panel = panel_at<I>(panels, row, column);
  visit_all(sums, [&](auto vector, int r, int v) {
    uint32_t* const words = panel + r / I::kGroup * kPanel<I> + I::kWidth * v;
    if constexpr (I::kGroup == 1) I::store(reinterpret_cast<float*>(words), vector);
    if constexpr (I::kGroup == 2) {
      if (r % 2 == 1) I::store_words(words, I::pair(sums.at[r - 1][v], vector));
    }
  });
}

// Stores a tile of values, and one of what weight gradients read.
template <class I, int R, int V>
FASTGAN_TILE void store(const Operand& out, const Sums<I, R, V>& values, const Sums<I, R, V>& panels, int64_t row,
                        int64_t column, int64_t width) {
  if constexpr (I::kGroup == 1) {
    store_panels(out.values, values, row, column);
    if (out.panels.at != out.values.at) store_panels(out.panels, panels, row, column);
  } else {
    visit_all(values, [&](auto vector, int r, int v) {
      if (v % 2 == 0 && v + 1 < V) return;  // stored together with the next one
      const int first = v - v % 2;
      const int64_t left = std::min<int64_t>(width, I::kWidth * V) - I::kWidth * first;
      uint16_t* const to = number_at(out.values, row + r, column + I::kWidth * first);
      I::store_bf16(to, left, values.at[r][first], first < v ? vector : I::zero());
    });
    store_panels(out.panels, panels, row, column);
  }
}

}  // namespace
}  // namespace fastgan::packed
