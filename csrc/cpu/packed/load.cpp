// linear: what a chain's products in bf16 begin with, from rows in fp32. storage.h has the layout.

#include "operand.h"

#include "../threads.h"

#include <torch/library.h>

#ifdef FASTGAN_BF16_DOT

namespace {

using at::Tensor;

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")

using fastgan::change_all;
using fastgan::kPanel;
using fastgan::kSigmoid;
using fastgan::kTanh;
using fastgan::lanes;
using fastgan::Operand;
using fastgan::operand_of;
using fastgan::Sums;

constexpr int64_t kFillWork = 1 << 14;  // elements worth a thread

const float* rows_of(const Tensor& source, const Tensor& like) {
  TORCH_CHECK(
      source.scalar_type() == at::kFloat && source.dim() == 2 && source.is_contiguous() && source.sizes() == like.sizes(),
      "rows must be fp32 [rows, columns], all of one shape");
  return source.const_data_ptr<float>();
}

// Fills the first rows of an operand, two at a time: value(i, lanes) makes 16 values from element i of the rows on, and
// panel(i, row, values, lanes) what goes into the panels.
template <class Value, class Panel>
void fill(const Operand& out, int64_t rows, const Value& value, const Panel& panel) {
  TORCH_CHECK(rows <= out.rows, "more rows than the operand has");
  const int64_t columns = out.columns, grain = std::max<int64_t>(1, kFillWork / std::max<int64_t>(columns, 1));
  fastgan::share((rows + 1) / 2, grain, [&](int64_t pair) {
    const int64_t row = 2 * pair;
    for (int64_t column = 0; column < columns; column += kPanel) {
      const int64_t width = std::min(kPanel, columns - column);
      const auto mask = [&](int r, int v) { return row + r < rows ? lanes(width, v) : static_cast<__mmask16>(0); };
      Sums<2, fastgan::kVectors> made, mixed;
      change_all(made, [&](__m512, int r, int v) { return value((row + r) * columns + column + 16 * v, mask(r, v)); });
      change_all(mixed, [&](__m512, int r, int v) {
        return panel((row + r) * columns + column + 16 * v, row + r, made.at[r][v], mask(r, v));
      });
      out.store_values(made, row, column, width);
      out.store_panels(mixed, row, column);
    }
  });
}

__m512 itself(int64_t, int64_t, __m512 values, __mmask16) {
  return values;
}

void load_bf16_(const Tensor& rows, const Tensor& values, const Tensor& panels) {
  const float* const x = rows_of(rows, rows);
  const auto value = [=](int64_t i, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, x + i); };
  fill(operand_of(values, panels, rows.size(1)), rows.size(0), value, itself);
}

void load_tangent_bf16_(const Tensor& tangent, const Tensor& rows, const Tensor& coefficient, const Tensor& values,
                        const Tensor& panels) {
  const float *const v = rows_of(tangent, tangent), *const x = rows_of(rows, tangent);
  TORCH_CHECK(coefficient.scalar_type() == at::kFloat && coefficient.is_contiguous() && coefficient.numel() >= tangent.size(0),
              "the coefficient must be fp32 [rows]");
  const float* const c = coefficient.const_data_ptr<float>();
  const int64_t count = tangent.size(0);
  const auto value = [=](int64_t i, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, v + i); };
  const auto panel = [=](int64_t i, int64_t row, __m512 values, __mmask16 mask) {
    return _mm512_fmadd_ps(_mm512_set1_ps(row < count ? c[row] : 0.0f), _mm512_maskz_loadu_ps(mask, x + i), values);
  };
  fill(operand_of(values, panels, tangent.size(1)), count, value, panel);
}

void load_output_bf16_(const Tensor& gradient, const Tensor& output, int64_t activation, const Tensor& values,
                       const Tensor& panels) {
  const float *const g = rows_of(gradient, gradient), *const y = rows_of(output, gradient);
  const auto value = [=](int64_t i, __mmask16 mask) {
    const __m512 gradients = _mm512_maskz_loadu_ps(mask, g + i), outputs = _mm512_maskz_loadu_ps(mask, y + i);
    const __m512 one = _mm512_set1_ps(1.0f);
    if (activation == kTanh) return _mm512_mul_ps(gradients, _mm512_sub_ps(one, _mm512_mul_ps(outputs, outputs)));
    if (activation == kSigmoid) return _mm512_mul_ps(gradients, _mm512_mul_ps(outputs, _mm512_sub_ps(one, outputs)));
    return gradients;
  };
  fill(operand_of(values, panels, gradient.size(1)), gradient.size(0), value, itself);
}

#pragma GCC pop_options

}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("load_bf16_", &load_bf16_);
  m.impl("load_tangent_bf16_", &load_tangent_bf16_);
  m.impl("load_output_bf16_", &load_output_bf16_);
}

#endif
