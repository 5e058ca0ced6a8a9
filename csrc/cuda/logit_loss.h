// A logit's loss in each form of objective, and its gradient dLoss/dlogit.
// The formulas are those of csrc/cpu/loss_pass.h, with CUDA's own exp and log1p.
#pragma once

#include <cmath>

namespace {

// The sum of many logits' losses. Softplus adds log1p(e) beside its linear part, and log1p(a) + log1p(b) = log1p(a + b + ab): nothing
// cancels where nothing is negative, and one logarithm serves all.
template <class T>
struct LossSum {
  T growth = 0, rest = 0;
  __device__ T sum() const { return growth == T(0) ? rest : rest + std::log1p(growth); }
};

// One logit's loss and gradient; made from a target and a shift, which `average` subtracts from the logit.

template <class T>
struct Bce {
  T up, down, shift;  // the slope towards +inf, and minus the slope towards -inf
  template <class Number>
  __device__ Bce(Number target, Number shift) : up(1 - target), down(target), shift(shift) {}

  __device__ void accumulate(T x, LossSum<T>& loss_sum) const {
    x -= shift;
    const T magnitude = std::fabs(x), e = std::exp(-magnitude);
    const T slope = x > T(0) ? up : down;
    loss_sum.growth = std::fma(loss_sum.growth, e, loss_sum.growth) + e;
    // not 0 * inf: an infinite logit on its right side has no loss
    loss_sum.rest += slope == T(0) ? T(0) : slope * magnitude;
  }
  // (1 - t) sigmoid(x) - t sigmoid(-x), without cancellation where it is small
  __device__ T gradient(T x) const {
    x -= shift;
    const T e = std::exp(-std::fabs(x));
    return (x > T(0) ? up - down * e : up * e - down) / (T(1) + e);
  }
};

template <class T>
struct Square {
  T target;
  __device__ Square(double target, double) : target(target) {}
  __device__ void accumulate(T x, LossSum<T>& loss_sum) const { loss_sum.rest += (x - target) * (x - target); }
  __device__ T gradient(T x) const { return T(2) * (x - target); }
};

template <class T>
struct Hinge {
  T sign;
  __device__ Hinge(double target, double) : sign(1 - 2 * target) {}
  __device__ void accumulate(T x, LossSum<T>& loss_sum) const {
    loss_sum.rest += T(1) + sign * x <= T(0) ? T(0) : T(1) + sign * x;
  }
  __device__ T gradient(T x) const { return T(1) + sign * x <= T(0) ? T(0) : sign; }
};

template <class T>
struct Linear {
  T sign;
  __device__ Linear(double target, double) : sign(1 - 2 * target) {}
  __device__ void accumulate(T x, LossSum<T>& loss_sum) const { loss_sum.rest += sign * x; }
  __device__ T gradient(T) const { return sign; }
};

// The logit itself, and Bce that adds up its gradient: to sum logits and gradients.
template <class T>
struct Identity : Linear<T> {
  __device__ Identity(double, double) : Linear<T>(0.0, 0.0) {}
};
template <class T>
struct BceGradient : Bce<T> {
  using Bce<T>::Bce;
  __device__ void accumulate(T x, LossSum<T>& loss_sum) const { loss_sum.rest += Bce<T>::gradient(x); }
};

}  // namespace
