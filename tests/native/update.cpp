// update against plain loops in fp64.
#include "cpu/update.h"
#include "check.h"

#include <limits>

namespace {

using namespace fastgan;

constexpr double kLr = 0.01, kBeta1 = 0.5, kBeta2 = 0.99, kEps = 1e-8, kDecay = 0.1, kClip = 0.9, kEmaDecay = 0.75;

struct Adam {
  std::vector<double> weight, mean, square, ema;
  double squares = 0, not_finite = 0;

  template <class T>
  void step(const std::vector<T>& gradient, double count) {
    squares = not_finite = 0;
    for (size_t i = 0; i < weight.size(); ++i) {
      double g = gradient[i];
      if (!std::isfinite(g)) {
        ++not_finite;
      } else {
        squares += g * g;
        g += kDecay * weight[i];
        mean[i] = kBeta1 * mean[i] + (1 - kBeta1) * g;
        square[i] = kBeta2 * square[i] + (1 - kBeta2) * g * g;
        const double m = mean[i] / (1 - std::pow(kBeta1, count)), s = square[i] / (1 - std::pow(kBeta2, count));
        weight[i] = std::fmin(kClip, std::fmax(-kClip, weight[i] - kLr * m / (std::sqrt(s) + kEps)));
      }
      ema[i] = kEmaDecay * ema[i] + (1 - kEmaDecay) * weight[i];
    }
  }
};

template <class T>
void check_adam(size_t size, bool broken, double tolerance) {
  Numbers numbers;
  std::vector<T> weight = numbers.make<T>(size), ema = weight, mean(size), square(size);
  Adam expected{{weight.begin(), weight.end()}, std::vector<double>(size), std::vector<double>(size), {ema.begin(), ema.end()}};
  const double options[] = {kBeta1, kBeta2, kEps, kDecay};
  T* const state[] = {mean.data(), square.data()};
  for (int count = 1; count <= 3; ++count) {
    std::vector<T> gradient = numbers.make<T>(size);
    if (broken) gradient[size / 2] = std::numeric_limits<T>::quiet_NaN();
    Step<T> step{weight.data(),
                 gradient.data(),
                 static_cast<int64_t>(size),
                 {state, 2},
                 ema.data(),
                 "adam",
                 {options, 4},
                 kLr,
                 double(count),
                 kClip,
                 kEmaDecay,
                 false};
    const StepResult result = update(step);
    expected.step(gradient, count);
    CHECK(close(result.squares, expected.squares, tolerance) && result.not_finite == expected.not_finite);
    for (size_t i = 0; i < size; ++i) {
      CHECK(close(weight[i], expected.weight[i], tolerance) && close(ema[i], expected.ema[i], tolerance));
      CHECK(close(mean[i], expected.mean[i], tolerance) && close(square[i], expected.square[i], tolerance));
    }
    const std::vector<T> before = weight;
    step.withheld = true;
    CHECK(close(update(step).squares, expected.squares, tolerance) && weight == before);
  }
}

}  // namespace

int main() {
  for (const size_t size : {1, 17, 64, 200, 20000}) {
    for (const bool broken : {false, true}) {
      check_adam<float>(size, broken, 2e-5);
      check_adam<double>(size, broken, 1e-12);
    }
  }
}
