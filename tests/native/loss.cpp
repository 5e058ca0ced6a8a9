// loss against its formulas in fp64, in every type that logits have.
#include "cpu/loss.h"
#include "check.h"

namespace {

using namespace fastgan;

double softplus(double x) {
  return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x)));
}

// A logit's loss with a target, and its gradient, of forms whose sides have a loss each.
struct Expected {
  double value, gradient;
};
Expected expected(std::string_view form, double x, double t) {
  if (form == "bce") return {t * softplus(-x) + (1 - t) * softplus(x), 1 / (1 + std::exp(-x)) - t};
  if (form == "square") return {(x - t) * (x - t), 2 * (x - t)};
  const double sign = 1 - 2 * t;
  if (form == "linear") return {sign * x, sign};
  return {std::fmax(1 + sign * x, 0), 1 + sign * x > 0 ? sign : 0};
}

template <class scalar>
void check_form(std::string_view form, int64_t reals, int64_t fakes, double tolerance) {
  using T = wide_t<scalar>;
  Numbers numbers;
  const auto real = numbers.make<scalar>(reals, 6.0), fake = numbers.make<scalar>(fakes, 6.0);
  std::vector<scalar> of_real(reals), of_fake(fakes);
  T statistics[4];
  const Objective objective{form, {0.9, 0.1}, 0.5, true};
  const Batch<scalar> batch{{real.data(), fake.data()}, {of_real.data(), of_fake.data()}, {reals, fakes}};
  const double value = loss_gradients(batch, objective, statistics);
  double sum = 0, mean[2] = {}, sign[2] = {};
  for (const int side : {kReal, kFake}) {
    const double weight = 0.5 / batch.counts[side];
    for (int64_t i = 0; i < batch.counts[side]; ++i) {
      const double x = static_cast<T>(batch.logits[side][i]);
      const Expected each = expected(form, x, objective.target[side]);
      sum += weight * each.value;
      mean[side] += x / batch.counts[side], sign[side] += ((x > 0) - (x < 0)) / double(batch.counts[side]);
      CHECK(std::fabs(static_cast<T>(batch.gradients[side][i]) - weight * each.gradient) <= tolerance * weight);
    }
    CHECK(close(statistics[side], mean[side], 1e-5) && close(statistics[2 + side], sign[side], 1e-5));
  }
  CHECK(close(value, sum, 1e-5));
  const Batch<scalar> logits{{real.data(), fake.data()}, {}, {reals, fakes}};
  CHECK(close(loss(logits, objective), sum, 1e-5));
}

template <class scalar>
void check_type(double tolerance) {
  for (const std::string_view form : {"bce", "square", "hinge", "linear"}) {
    check_form<scalar>(form, 1, 3, tolerance);
    check_form<scalar>(form, 64, 64, tolerance);
    check_form<scalar>(form, 40001, 129, tolerance);
  }
}

}  // namespace

int main() {
  check_type<double>(1e-12);
  check_type<float>(2e-5);
  check_type<bf16>(0.06);
  check_type<half>(0.06);
}
