// Optimizer rules: what a step makes of one weight and its gradient.
#pragma once

#include "vector_math.h"

#include <algorithm>
#include <cmath>
#include <limits>

// In an anonymous namespace: a variant is chosen by a symbol of its own in each file.
namespace {

using fastgan::bit_cast;

constexpr int kCache = 2;      // that numbers are fetched to in advance: the second
constexpr int64_t kWide = 64;  // gradients whose squares are added side by side

// Whether a number is finite, and no larger than `most`, as a mask of its bits: choosing by masks leaves no branch, so loops
// over elements are vector code.
template <class T>
struct Finite {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Bits bad;  // all zeros, or all ones where it is not: one comparison makes that, and one subtraction counts it

  explicit FASTGAN_INLINE Finite(T x, T most = std::numeric_limits<T>::max())
      : bad(-static_cast<Bits>((bit_cast<Bits>(x) & std::numeric_limits<Bits>::max()) > bit_cast<Bits>(most))) {}
  FASTGAN_INLINE T choose(T yes, T no) const { return bit_cast<T>((bit_cast<Bits>(yes) & ~bad) | (bit_cast<Bits>(no) & bad)); }
  FASTGAN_INLINE Finite operator&(Finite other) const {
    other.bad |= bad;
    return other;
  }
};

// What a caller has found to be finite already.
struct IsFinite {
  template <class T>
  FASTGAN_INLINE T choose(T yes, T) const {
    return yes;
  }
  template <class T>
  FASTGAN_INLINE Finite<T> operator&(Finite<T> other) const {
    return other;
  }
};

// What the caller of a step gives of its rule. options: the rule's own numbers, in the order of torch.optim's arguments after
// lr; state: its buffers; count: which update this is, from 1.
template <class T>
struct RuleArgs {
  std::string_view rule;
  fastgan::Span<double> options;
  fastgan::Span<T*> state;
  double lr, count;

  void check(size_t numbers, size_t buffers) const {
    fastgan::require(options.size() == numbers, rule, " has ", numbers, " options, not ", options.size());
    fastgan::require(state.size() == buffers, "this rule keeps ", buffers, " buffers, not ", state.size());
  }
};

// A rule holds a step's numbers and its state's pointers, and makes the new weight of element i. It is plain arithmetic: what
// is switched off has the coefficient 0. `prefetch` asks for the state's cache lines at i. with_<rule>(given, run) calls run
// with the rule that a caller's numbers make.

// torch.optim.SGD's formula: the step is along near * g + far * velocity.
template <class T, bool has_momentum>
struct Sgd {
  T lr, weight_decay, momentum, undamped, near, far;
  T* velocity;

  template <class Known>
  FASTGAN_INLINE T operator()(int64_t i, T w, T g, Known finite) const {
    g += weight_decay * w;
    if constexpr (!has_momentum) return w - lr * g;
    const T old = velocity[i], v = momentum * old + undamped * g;
    velocity[i] = finite.choose(v, old);
    return w - lr * (near * g + far * v);
  }
  FASTGAN_INLINE void prefetch(int64_t i) const {
    if constexpr (has_momentum) __builtin_prefetch(velocity + i, 1, kCache);
  }
};

template <class T, class Run>
void with_sgd(const RuleArgs<T>& given, const Run& run) {  // momentum, dampening, weight decay, nesterov
  const auto& options = given.options;
  given.check(4, options.empty() || options[0] == 0 ? 0 : 1);
  const T momentum = options[0], dampening = options[1], weight_decay = options[2], nesterov = options[3];
  if (!momentum) return run(Sgd<T, false>{T(given.lr), weight_decay});
  const bool first = given.count == 1;  // the velocity begins as the gradient, whole
  run(Sgd<T, true>{T(given.lr), weight_decay, first ? 0 : momentum, first ? 1 : 1 - dampening, nesterov,
                   nesterov ? momentum : 1, given.state[0]});
}

// See reference.least_eps.
template <class T>
T least_eps(double eps) {
  return std::max(T(eps), std::numeric_limits<T>::min());
}

// torch.optim.RMSprop's formula.
template <class T, bool has_momentum, bool centered>
struct RmsProp {
  T lr, weight_decay, alpha, rest, eps, momentum;
  T *square, *velocity, *mean;

  template <class Known>
  FASTGAN_INLINE T operator()(int64_t i, T w, T g, Known finite) const {
    g += weight_decay * w;
    const T old_square = square[i], s = alpha * old_square + rest * g * g;
    square[i] = finite.choose(s, old_square);
    T spread = s;
    if constexpr (centered) {
      const T old_mean = mean[i], m = alpha * old_mean + rest * g;
      mean[i] = finite.choose(m, old_mean);
      spread = s - m * m;
    }
    T direction = g / (std::sqrt(spread) + eps);
    if constexpr (has_momentum) {
      const T old = velocity[i];
      direction = momentum * old + direction;
      velocity[i] = finite.choose(direction, old);
    }
    return w - lr * direction;
  }
  FASTGAN_INLINE void prefetch(int64_t i) const {
    __builtin_prefetch(square + i, 1, kCache);
    if constexpr (has_momentum) __builtin_prefetch(velocity + i, 1, kCache);
    if constexpr (centered) __builtin_prefetch(mean + i, 1, kCache);
  }
};

template <class T, class Run>
void with_rmsprop(const RuleArgs<T>& given, const Run& run) {  // alpha, eps, weight decay, momentum, centered
  const auto& options = given.options;
  const bool moves = options.size() > 3 && options[3], centred = options.size() > 4 && options[4];
  given.check(5, 1 + moves + centred);
  const auto with = [&](auto has_momentum, auto centered) {
    T* velocity = has_momentum ? given.state[1] : nullptr;
    T* mean = centered ? given.state.back() : nullptr;
    run(RmsProp<T, has_momentum, centered>{T(given.lr), T(options[2]), T(options[0]), T(1.0 - options[0]),
                                           least_eps<T>(options[1]), T(options[3]), given.state[0], velocity, mean});
  };
  constexpr std::true_type yes;
  constexpr std::false_type no;
  if (moves) return centred ? with(yes, yes) : with(yes, no);
  centred ? with(no, yes) : with(no, no);
}

// torch.optim.Adam's formula; step = lr / (1 - beta1^count) and scale = 1 / sqrt(1 - beta2^count) are made in fp64.
template <class T>
struct Adam {
  T step, scale, weight_decay, beta1, rest1, beta2, rest2, eps;
  T *mean, *square;

  template <class Known>
  FASTGAN_INLINE T operator()(int64_t i, T w, T g, Known finite) const {
    g += weight_decay * w;
    const T old_mean = mean[i], old_square = square[i];
    // not old + rest * (g - old): where a beta is 0, that leaves the rounding of a larger old moment
    const T m = beta1 * old_mean + rest1 * g, s = beta2 * old_square + rest2 * g * g;
    mean[i] = finite.choose(m, old_mean);
    square[i] = finite.choose(s, old_square);
    return w - step * (m / (std::sqrt(s) * scale + eps));
  }
  FASTGAN_INLINE void prefetch(int64_t i) const {
    __builtin_prefetch(mean + i, 1, kCache);
    __builtin_prefetch(square + i, 1, kCache);
  }
};

template <class T, class Run>
void with_adam(const RuleArgs<T>& given, const Run& run) {  // beta1, beta2, eps, weight decay
  const auto& options = given.options;
  given.check(4, 2);
  const double beta1 = options[0], beta2 = options[1];
  const T rate = given.lr / (1.0 - std::pow(beta1, given.count)), scale = 1.0 / std::sqrt(1.0 - std::pow(beta2, given.count));
  run(Adam<T>{rate, scale, T(options[3]), T(beta1), T(1.0 - beta1), T(beta2), T(1.0 - beta2), least_eps<T>(options[2]),
              given.state[0], given.state[1]});
}

// Calls run with the rule of this name.
template <class T, class Run>
void with_rule(const RuleArgs<T>& given, const Run& run) {
  if (given.rule == "sgd") return with_sgd(given, run);
  if (given.rule == "rmsprop") return with_rmsprop(given, run);
  if (given.rule == "adam") return with_adam(given, run);
  fastgan::fail<std::runtime_error>("unknown rule ", given.rule);
}

// In place of a rule, a step that is withheld: its gradients count, and all stays as it is.
struct Withheld {
  FASTGAN_INLINE void prefetch(int64_t) const {}
};

// What every rule works on.
template <class T>
struct Network {
  T* weight;
  T* ema;       // or null
  T bound;      // weights stay in [-bound, bound]
  T ema_decay;  // of the ema
};

struct Totals {
  double squares = 0, not_finite = 0;  // of finite gradients; weights whose gradient or new value is not finite
  void operator+=(const Totals& other) {
    squares += other.squares;
    not_finite += other.not_finite;
  }
};

// What a step counts, side by side in lanes: a single sum would wait for its own additions.
template <class T>
struct Lanes {
  static constexpr int64_t count = 16;
  T squares[count] = {};
  typename Finite<T>::Bits not_finite[count] = {};

  Totals totals() const {
    Totals sums;
    for (int64_t lane = 0; lane < count; ++lane)
      sums += {static_cast<double>(squares[lane]), static_cast<double>(not_finite[lane])};
    return sums;
  }
};

// An ema after its weight's step; in this form one of equal weights is that weight, to the last bit.
template <class T>
FASTGAN_INLINE T moved(T ema, T weight, T decay) {
  return weight + decay * (ema - weight);
}

// One step of element i: what becomes of its weight, which is counted where that is left alone. Known: Finite, or IsFinite
// where a caller has seen that the gradient is.
template <bool has_ema, class T, class Rule, class Known>
FASTGAN_INLINE T apply_one(const Network<T>& network, const Rule& rule, int64_t i, T g, Known finite,
                           typename Finite<T>::Bits& not_finite) {
  const T w = network.weight[i], bound = network.bound;
  if constexpr (std::is_same_v<Rule, Withheld>) {
    not_finite -= (finite & Finite<T>(T(0))).bad;
    return w;
  } else {
    T next = rule(i, w, g, finite);
    next = next > bound ? bound : next;
    next = next < -bound ? -bound : next;
    // two weights of half the largest number at most have a finite difference, which the ema takes
    const Finite<T> taken = finite & Finite<T>(next, std::numeric_limits<T>::max() / 2);
    not_finite -= taken.bad;
    next = taken.choose(next, w);
    network.weight[i] = next;
    if constexpr (has_ema) network.ema[i] = moved(network.ema[i], next, network.ema_decay);
    return next;
  }
}

// One step of `count` neighbouring elements, at most Lanes::count, from element i on; copy gets the new weights if there is
// one.
template <bool has_ema, class T, class Rule>
FASTGAN_INLINE void apply_lanes(const Network<T> network, const Rule& rule, const T* gradient, int64_t i, int64_t count,
                                Lanes<T>& lanes, T* copy) {
#pragma omp simd
  for (int64_t lane = 0; lane < count; ++lane) {
    const Finite<T> finite(gradient[lane]);
    const T g = finite.choose(gradient[lane], T(0));
    lanes.squares[lane] += g * g;
    const T next = apply_one<has_ema>(network, rule, i + lane, g, finite, lanes.not_finite[lane]);
    if (copy) copy[lane] = next;
  }
}

// The same of as many elements as there are lanes, whose gradients are known to be finite and whose squares are added
// elsewhere.
template <bool has_ema, class T, class Rule>
FASTGAN_INLINE void apply_finite_lanes(const Network<T> network, const Rule& rule, const T* gradient, int64_t i,
                                       Lanes<T>& lanes, T* copy) {
#pragma omp simd
  for (int64_t lane = 0; lane < Lanes<T>::count; ++lane) {
    const T next = apply_one<has_ema>(network, rule, i + lane, gradient[lane], IsFinite(), lanes.not_finite[lane]);
    if (copy) copy[lane] = next;
  }
}

// Adds the squares of gradients, a multiple of kWide of them, if their sum is finite: then they all are. False if it is not.
template <class T>
FASTGAN_INLINE bool add_squares(const T* gradient, int64_t count, Lanes<T>& lanes) {
  T wide[kWide] = {}, sum = 0;
  for (int64_t i = 0; i < count; i += kWide) {
#pragma omp simd
    for (int64_t k = 0; k < kWide; ++k) wide[k] += gradient[i + k] * gradient[i + k];
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < kWide; ++k) sum += wide[k];
  if (!std::isfinite(sum)) return false;
  lanes.squares[0] += sum;
  return true;
}

// One step of elements begin to end; gradient[0] is element begin's. group, a multiple of kWide: of so many, gradients are looked at
// before the step, which then makes no choices where they are finite.
template <bool has_ema, class T, class Rule>
FASTGAN_INLINE void apply_update(const Network<T> network, const Rule& rule, const T* gradient, int64_t begin, int64_t end,
                                 Lanes<T>& lanes, int64_t group) {
  constexpr int64_t kLanes = Lanes<T>::count;
  constexpr T* kNoCopy = nullptr;
  const int64_t count = end - begin, wide = count / kWide * kWide;
  for (int64_t i = 0; i < count;) {
    const int64_t stop = i < wide ? std::min(i + group, wide) : count;
    const bool all_finite = i < wide && add_squares(gradient + i, stop - i, lanes);
    for (; all_finite && i < stop; i += kLanes)
      apply_finite_lanes<has_ema>(network, rule, gradient + i, begin + i, lanes, kNoCopy);
    for (; i < stop; i += kLanes) {
      const int64_t some = std::min(kLanes, stop - i);
      apply_lanes<has_ema>(network, rule, gradient + i, begin + i, some, lanes, kNoCopy);
    }
  }
}

}  // namespace
