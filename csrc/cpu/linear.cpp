// linear: rows of activations, each in one pass.

#include "linear.h"

#include "threads.h"

#include <algorithm>
#include <cmath>

namespace fastgan {
namespace {

constexpr int64_t kWork = 1 << 14;  // elements worth a thread

// A = leaky(pre + bias) of a row, with its slope in its sign: -0 where the pre-activation is 0.
template <class scalar>
FASTGAN_VARIANTS void encode_row(scalar* row, const wide_t<scalar>* bias, int64_t width, wide_t<scalar> slope) {
  using T = wide_t<scalar>;
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) {
    const T pre = T(row[j]) + (bias ? bias[j] : T(0));
    row[j] = narrow<scalar>(pre > T(0) ? pre : -(slope * std::fabs(pre)));
  }
}

template <class scalar>
FASTGAN_VARIANTS void drop_row(scalar* row, const uint16_t* numbers, int64_t width, uint32_t threshold, wide_t<scalar> scale) {
  using T = wide_t<scalar>;
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) row[j] = narrow<scalar>(numbers[j] >= threshold ? T(row[j]) * scale : T(0));
}

template <class scalar>
FASTGAN_VARIANTS void multiply_row_by_slope(scalar* adjoints, const scalar* activations, int64_t width, wide_t<scalar> above,
                                            wide_t<scalar> below) {
  using T = wide_t<scalar>;
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) {
    const T a = T(activations[j]);
    const T kept = std::copysign(T(1), a) < T(0) ? below : (a == T(0) ? T(0) : above);
    adjoints[j] = narrow<scalar>(T(adjoints[j]) * kept);
  }
}

// visit(row) for every row, on torch's own threads: a product of torch's comes next, and other threads would be in its way.
template <class Visit>
void for_each_row(int64_t rows, int64_t width, const Visit& visit) {
  parallel(rows, std::max<int64_t>(1, kWork / std::max<int64_t>(1, width)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) visit(row);
  });
}

}  // namespace

template <class scalar>
void encode_activation(scalar* values, int64_t rows, int64_t width, const wide_t<scalar>* bias, double negative_slope,
                       const MaskCounter& masks) {
  using T = wide_t<scalar>;
  constexpr int64_t kColumns = MaskCounter::kTileColumns;
  for_each_row(rows, width, [&](int64_t row) {
    scalar* const line = values + row * width;
    encode_row<scalar>(line, bias, width, T(negative_slope));
    uint16_t numbers[kColumns];
    for (int64_t column = 0; !masks.streams.empty() && column < width; column += kColumns) {
      masks.draw(row, 1, column, numbers);
      drop_row<scalar>(line + column, numbers, std::min(kColumns, width - column), masks.threshold, T(masks.scale));
    }
  });
}

template <class scalar>
void activation_slope(scalar* adjoints, const scalar* activations, int64_t rows, int64_t width, double negative_slope,
                      double scale) {
  using T = wide_t<scalar>;
  for_each_row(rows, width, [&](int64_t row) {
    multiply_row_by_slope<scalar>(adjoints + row * width, activations + row * width, width, T(scale),
                                  T(negative_slope * scale));
  });
}

#define FASTGAN_LINEAR(scalar)                                                                                   \
  template void encode_activation(scalar*, int64_t, int64_t, const wide_t<scalar>*, double, const MaskCounter&); \
  template void activation_slope(scalar*, const scalar*, int64_t, int64_t, double, double);
FASTGAN_LINEAR(double)
FASTGAN_LINEAR(float)
FASTGAN_LINEAR(bf16)
#undef FASTGAN_LINEAR

}  // namespace fastgan
