// An operand of a chain's products in bf16: its storage in tensors, and how tiles of sums get there.
#pragma once

#include "storage.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

#ifdef FASTGAN_BF16_DOT

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")

namespace fastgan {
namespace {

using at::Tensor;

enum Activation : int64_t { kIdentity, kTanh, kSigmoid };  // of a chain's last layer

// An operand's storage.
struct Operand {
  uint16_t* values;
  int64_t stride;  // of a row of values, in columns
  uint32_t* panels;
  int64_t panel_stride;  // in words
  int64_t rows, columns;

  template <int R, int V>
  void store_values(const Sums<R, V>& sums, int64_t row, int64_t column, int64_t width) const {
    for (int r = 0; r < R; ++r) {
      uint16_t* const line = values + (row + r) * stride + column;
      for (int v = 0; v < V; v += 2) {
        const __m512 second = v + 1 < V ? sums.at[r][std::min(v + 1, V - 1)] : _mm512_setzero_ps();
        const __mmask32 mask = lanes(width, v) | static_cast<__mmask32>(v + 1 < V ? lanes(width, v + 1) : 0) << 16;
        _mm512_mask_storeu_epi16(line + 16 * v, mask, narrow_32(sums.at[r][v], second));
      }
    }
  }
  template <int R, int V>
  void store_panels(const Sums<R, V>& sums, int64_t row, int64_t column) const {
    uint32_t* const panel = panels + column / kPanel * panel_stride + row / 2 * kPanel;
    for (int r = 0; r < R; r += 2)
      for (int v = 0; v < V; ++v)
        _mm512_storeu_si512(panel + r / 2 * kPanel + 16 * v, pairs_of(sums.at[r][v], sums.at[r + 1][v]));
  }
};

Operand operand_of(const Tensor& values, const Tensor& panels, int64_t columns) {
  TORCH_CHECK(values.scalar_type() == at::kBFloat16 && panels.scalar_type() == at::kBFloat16, "operands are bf16");
  TORCH_CHECK(
      values.dim() == 2 && values.stride(1) == 1 && values.size(1) >= columns + columns % 2 && values.stride(0) % 2 == 0,
      "values must be [rows, columns] with even row strides");
  TORCH_CHECK(panels.dim() == 3 && panels.stride(2) == 1 && panels.stride(1) == 2 * kPanel && panels.size(2) == 2 * kPanel &&
                  2 * panels.size(1) == values.size(0) && panels.size(0) * kPanel >= columns,
              "panels must be [columns / 64, rows / 2, 128]");
  return {reinterpret_cast<uint16_t*>(values.data_ptr()),
          values.stride(0),
          reinterpret_cast<uint32_t*>(panels.data_ptr()),
          panels.stride(0) / 2,
          values.size(0),
          columns};
}

// Replaces every vector of a tile: change(vector, row, v).
template <int R, int V, class Change>
inline __attribute__((always_inline)) void change_all(Sums<R, V>& sums, const Change& change) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums.at[r][v] = change(sums.at[r][v], r, v);
  }
}

}  // namespace
}  // namespace fastgan

#pragma GCC pop_options
#endif
