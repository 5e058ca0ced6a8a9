// A logit's loss in each form of objective, and its gradient dLoss/dlogit: the formulas of C++, on a CPU and on a GPU.
//
// An objective is a form and a target for each side: a target of 1 pulls logits up, 0 pushes them down.
//
//   form      loss of a logit x with target t                           objectives
//   bce       t softplus(-x) + (1 - t) softplus(x)                      minimax (scale -1 for G), nonsaturating
//   square    (x - t)^2                                                 lsgan
//   hinge     relu(1 + (1 - 2t) x)                                      hinge
//   linear    (1 - 2t) x                                                wgan
//   paired    bce of fake - real, row by row, with fake's target        relativistic
//   average   bce of x - mean of the other side                         relativistic-average
//
// Value = scale * (sum of real's losses / real's count + the same of fake), or without the division for sums.
#pragma once

#include "cpu/base.h"

#include <cmath>

#ifdef __CUDACC__
#define FASTGAN_DEVICE __device__
#else
#include "cpu/vector_math.h"
#define FASTGAN_DEVICE
#endif

// In an anonymous namespace, as the passes that they are compiled into.
namespace {

// e^-a for a >= 0 and log(1 + e) for 0 <= e <= 1: CUDA's own, or arithmetic that compilers vectorise.
#ifdef __CUDACC__
template <class T>
__device__ T exp_negative(T a) {
  return std::exp(-a);
}
template <class T>
__device__ T log1p_unit(T e) {
  return std::log1p(e);
}
#else
using fastgan::exp_negative;
using fastgan::log1p_unit;
#endif

// What is asked of a pass over logits, added up.
constexpr int kValue = 1, kGradient = 2, kStatistics = 4;

constexpr bool asks(int wanted, int what) {
  return (wanted & what) != 0;
}

// One logit's loss and gradient; made from a target and a shift, which `average` subtracts from the logit.

template <class T>
struct Bce {
  T up, down, shift;  // the slope towards +inf, and minus the slope towards -inf
  template <class Number>
  FASTGAN_DEVICE Bce(Number target, Number shift) : up(1 - target), down(target), shift(shift) {}

  FASTGAN_DEVICE T value(T x) const {
    x -= shift;
    const T magnitude = std::fabs(x), slope = x > T(0) ? up : down;
    return log1p_unit(exp_negative(magnitude)) + linear_part(slope, magnitude);
  }
  // (1 - t) sigmoid(x) - t sigmoid(-x), without cancellation where it is small
  FASTGAN_DEVICE T gradient(T x) const {
    x -= shift;
    const T e = exp_negative(std::fabs(x));
    return (x > T(0) ? up - down * e : up * e - down) / (T(1) + e);
  }
  // not 0 * inf: an infinite logit on its right side has no loss
  FASTGAN_DEVICE static T linear_part(T slope, T magnitude) { return slope == T(0) ? T(0) : slope * magnitude; }
};

template <class T>
struct Square {
  T target;
  FASTGAN_DEVICE Square(double target, double) : target(target) {}
  FASTGAN_DEVICE T value(T x) const { return (x - target) * (x - target); }
  FASTGAN_DEVICE T gradient(T x) const { return T(2) * (x - target); }
};

template <class T>
struct Hinge {
  T sign;
  FASTGAN_DEVICE Hinge(double target, double) : sign(1 - 2 * target) {}
  FASTGAN_DEVICE T value(T x) const { return T(1) + sign * x <= T(0) ? T(0) : T(1) + sign * x; }
  FASTGAN_DEVICE T gradient(T x) const { return T(1) + sign * x <= T(0) ? T(0) : sign; }
};

template <class T>
struct Linear {
  T sign;
  FASTGAN_DEVICE Linear(double target, double) : sign(1 - 2 * target) {}
  FASTGAN_DEVICE T value(T x) const { return sign * x; }
  FASTGAN_DEVICE T gradient(T) const { return sign; }
};

// The logit itself, and Bce whose value is its gradient: to sum logits and gradients.
template <class T>
struct Identity : Linear<T> {
  FASTGAN_DEVICE Identity(double, double) : Linear<T>(0.0, 0.0) {}
};
template <class T>
struct BceGradient : Bce<T> {
  using Bce<T>::Bce;
  FASTGAN_DEVICE T value(T x) const { return Bce<T>::gradient(x); }
};

// The sum of many logits' losses with one logarithm for all: log1p(a) + log1p(b) = log1p(a + b + ab), where nothing cancels
// because nothing is negative.
template <class T>
struct LossSum {
  T growth = 0, rest = 0;
  FASTGAN_DEVICE T sum() const { return growth == T(0) ? rest : rest + std::log1p(growth); }
};

template <class T, class LogitLoss>
FASTGAN_DEVICE void add_loss(const LogitLoss& logit_loss, T x, LossSum<T>& loss_sum) {
  loss_sum.rest += logit_loss.value(x);
}
template <class T>
FASTGAN_DEVICE void add_loss(const Bce<T>& logit_loss, T x, LossSum<T>& loss_sum) {
  x -= logit_loss.shift;
  const T magnitude = std::fabs(x), e = exp_negative(magnitude);
  const T slope = x > T(0) ? logit_loss.up : logit_loss.down;
  loss_sum.growth = std::fma(loss_sum.growth, e, loss_sum.growth) + e;
  loss_sum.rest += logit_loss.linear_part(slope, magnitude);
}

// The forms whose sides have a loss each, by name; the others compare both sides, and are passes of their own.

template <template <class> class LogitLoss>
struct Form {
  template <class T>
  using Loss = LogitLoss<T>;
};

template <class Visit>
auto visit_form(std::string_view name, const Visit& visit) {
  if (name == "bce") return visit(Form<Bce>());
  if (name == "square") return visit(Form<Square>());
  if (name == "hinge") return visit(Form<Hinge>());
  fastgan::require(name == "linear", "unknown form ", name);
  return visit(Form<Linear>());
}

}  // namespace
