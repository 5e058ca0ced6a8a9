// linear: what follows a product of matrices in a chain of layers, in one pass over its result.

#include "dropout.h"
#include "vector_math.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace {

using at::Tensor;
using fastgan::MaskCounter;
using fastgan::narrow;
using fastgan::wide_t;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kWork = 1 << 14;  // elements worth a thread

#define FASTGAN_ROWS(TYPE, ...) AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, TYPE, "fastgan::linear", __VA_ARGS__)

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

void check(const Tensor& rows) {
  TORCH_CHECK(rows.dim() == 2 && rows.is_contiguous(), "rows must be contiguous, [rows, width]");
}

// visit(row) for every row, on torch's own threads: a product of torch's comes next, and other threads would be in its way.
template <class Visit>
void for_each_row(const Tensor& rows, const Visit& visit) {
  const int64_t grain = std::max<int64_t>(1, kWork / std::max<int64_t>(1, rows.size(1)));
  at::parallel_for(0, rows.size(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) visit(row);
  });
}

void encode_activation_(Tensor& pre, const OptionalTensor& bias, double negative_slope, at::IntArrayRef streams,
                        int64_t threshold, double scale, int64_t seed, int64_t step, int64_t first_row) {
  check(pre);
  const int64_t rows = pre.size(0), width = pre.size(1), passes = std::max<int64_t>(1, streams.size());
  const MaskCounter masks{{streams.begin(), streams.end()}, rows / passes,
                          static_cast<uint32_t>(threshold), static_cast<uint32_t>(step),
                          static_cast<uint32_t>(first_row), static_cast<uint64_t>(seed),
                          static_cast<float>(scale)};
  FASTGAN_ROWS(pre.scalar_type(), [&] {
    using T = wide_t<scalar_t>;
    const T* const b = bias.has_value() ? bias->const_data_ptr<T>() : nullptr;
    TORCH_CHECK(!b || (bias->is_contiguous() && bias->numel() == width), "bias must be contiguous, [width]");
    scalar_t* const values = pre.mutable_data_ptr<scalar_t>();
    for_each_row(pre, [&](int64_t row) {
      scalar_t* const line = values + row * width;
      encode_row<scalar_t>(line, b, width, T(negative_slope));
      uint16_t numbers[MaskCounter::kTileColumns];
      for (int64_t column = 0; !streams.empty() && column < width; column += MaskCounter::kTileColumns) {
        masks.draw(row, 1, column, numbers);
        const int64_t count = std::min<int64_t>(MaskCounter::kTileColumns, width - column);
        drop_row<scalar_t>(line + column, numbers, count, masks.threshold, T(scale));
      }
    });
  });
}

void activation_slope_(Tensor& adjoints, const Tensor& activations, double negative_slope, double scale) {
  check(adjoints);
  check(activations);
  TORCH_CHECK(adjoints.sizes() == activations.sizes() && adjoints.scalar_type() == activations.scalar_type(),
              "adjoints must be like activations");
  const int64_t width = adjoints.size(1);
  FASTGAN_ROWS(adjoints.scalar_type(), [&] {
    using T = wide_t<scalar_t>;
    scalar_t* const u = adjoints.mutable_data_ptr<scalar_t>();
    const scalar_t* const a = activations.const_data_ptr<scalar_t>();
    for_each_row(adjoints, [&](int64_t row) {
      multiply_row_by_slope<scalar_t>(u + row * width, a + row * width, width, T(scale), T(negative_slope * scale));
    });
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("encode_activation_", &encode_activation_);
  m.impl("activation_slope_", &activation_slope_);
}
