// penalty: rows of input gradients, each in one visit.

#include "penalty.h"

#include "threads.h"
#include "vector_math.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace fastgan {
namespace {

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

// Of every row, penalty(squared norm) is its share, and factor(squared norm) what its gradient is multiplied by to be the
// derivative.
template <class T, class Penalty, class Factor>
T visit_rows(const T* gradient, T* derivative, int64_t rows, int64_t width, const Penalty& penalty, const Factor& factor) {
  std::vector<double> penalties(rows);
  // on torch's own threads: its operators come next, and other threads would be in their way
  parallel(rows, std::max<int64_t>(1, kWork / std::max<int64_t>(1, width)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const double squares = sum_of_squares(gradient + row * width, width);
      penalties[row] = penalty(squares);
      scale_row(gradient + row * width, derivative + row * width, width, static_cast<T>(factor(squares)));
    }
  });
  double total = 0;
  for (const double each : penalties) total += each;
  return static_cast<T>(total / rows);
}

}  // namespace

template <class T>
T norm_penalty_gradient(const T* gradient, T* derivative, int64_t rows, int64_t width, double weight, double target,
                        bool one_sided) {
  const auto excess = [=](double squares) {
    const double over = std::sqrt(squares) - target;
    return one_sided && over < 0 ? 0.0 : over;
  };
  const double slope = 2 * weight / rows;
  return visit_rows(
      gradient, derivative, rows, width, [=](double squares) { return weight * excess(squares) * excess(squares); },
      [=](double squares) { return squares > 0 ? slope * excess(squares) / std::sqrt(squares) : 0.0 * squares; });
}

template <class T>
T square_penalty_gradient(const T* gradient, T* derivative, int64_t rows, int64_t width, double gamma) {
  const double slope = gamma / rows;
  return visit_rows(
      gradient, derivative, rows, width, [=](double squares) { return 0.5 * gamma * squares; }, [=](double) { return slope; });
}

#define FASTGAN_PENALTY(T)                                                                \
  template T norm_penalty_gradient(const T*, T*, int64_t, int64_t, double, double, bool); \
  template T square_penalty_gradient(const T*, T*, int64_t, int64_t, double);
FASTGAN_PENALTY(float)
FASTGAN_PENALTY(double)
#undef FASTGAN_PENALTY

}  // namespace fastgan
