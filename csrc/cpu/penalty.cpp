// penalty: input gradients -> the penalty's value and its derivative by them, a row's norm and derivative in one visit.

#include "vector_math.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;

constexpr int64_t kWork = 1 << 18;  // elements worth a thread
constexpr int64_t kWiden = 1024;    // elements whose squares are summed in the gradient's type

template <class T>
FASTGAN_VARIANTS double sum_of_squares(const T* row, int64_t width) {
  double total = 0;
  for (int64_t begin = 0; begin < width; begin += kWiden) {
    const int64_t end = std::min(begin + kWiden, width);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = begin; j < end; ++j) sum += row[j] * row[j];
    total += sum;
  }
  return total;
}

template <class T>
FASTGAN_VARIANTS void scale_row(const T* row, T* out, int64_t width, T factor) {
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) out[j] = row[j] * factor;
}

// Of every row, penalty(squared norm) is its share, and factor(squared norm) what its gradient is multiplied by to be the derivative.
template <class Penalty, class Factor>
std::tuple<Tensor, Tensor> visit_rows(const Tensor& given, const Penalty& penalty, const Factor& factor) {
  const Tensor gradient = given.contiguous();
  TORCH_CHECK(gradient.dim() >= 1, "a gradient has a row for each sample");
  const int64_t rows = gradient.size(0), width = rows ? gradient.numel() / rows : 0;
  Tensor derivative = at::empty_like(gradient), value = at::empty({}, gradient.options());
  AT_DISPATCH_FLOATING_TYPES(gradient.scalar_type(), "fastgan::penalty", [&] {
    const scalar_t* const g = gradient.const_data_ptr<scalar_t>();
    scalar_t* const out = derivative.mutable_data_ptr<scalar_t>();
    std::vector<double> penalties(rows);
    // on torch's own threads: its operators come next, and other threads would be in their way
    at::parallel_for(0, rows, std::max<int64_t>(1, kWork / std::max<int64_t>(1, width)), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const double squares = sum_of_squares(g + row * width, width);
        penalties[row] = penalty(squares);
        scale_row(g + row * width, out + row * width, width, static_cast<scalar_t>(factor(squares)));
      }
    });
    double total = 0;
    for (const double each : penalties) total += each;
    *value.mutable_data_ptr<scalar_t>() = static_cast<scalar_t>(total / rows);
  });
  return {value, derivative};
}

std::tuple<Tensor, Tensor> norm_penalty_gradient(const Tensor& gradient, double weight, double target, bool one_sided) {
  const auto excess = [=](double squares) {
    const double over = std::sqrt(squares) - target;
    return one_sided && over < 0 ? 0.0 : over;
  };
  const double slope = 2 * weight / gradient.size(0);
  return visit_rows(
      gradient, [=](double squares) { return weight * excess(squares) * excess(squares); },
      [=](double squares) { return squares > 0 ? slope * excess(squares) / std::sqrt(squares) : 0.0 * squares; });
}

std::tuple<Tensor, Tensor> square_penalty_gradient(const Tensor& gradient, double gamma) {
  const double slope = gamma / gradient.size(0);
  return visit_rows(gradient, [=](double squares) { return 0.5 * gamma * squares; }, [=](double) { return slope; });
}

std::tuple<Tensor, Tensor> meta(const Tensor& gradient) {
  return {at::empty({}, gradient.options()), at::empty_like(gradient, gradient.options(), at::MemoryFormat::Contiguous)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("norm_penalty_gradient", &norm_penalty_gradient);
  m.impl("square_penalty_gradient", &square_penalty_gradient);
}

TORCH_LIBRARY_IMPL(fastgan, Meta, m) {
  m.impl("norm_penalty_gradient", [](const Tensor& gradient, double, double, bool) { return meta(gradient); });
  m.impl("square_penalty_gradient", [](const Tensor& gradient, double) { return meta(gradient); });
}
