// Optimizer rules: what a step makes of one weight and its gradient.
#pragma once

#include "vector_math.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <c10/macros/Macros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <type_traits>

// In an anonymous namespace: a variant is chosen by a symbol of its own in each file.
namespace {

// Whether a number is finite, as a mask of its bits: choosing by masks leaves no branch, so loops over elements are vector
// code.
template <class T>
struct Finite {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Bits mask;  // all ones or all zeros

  explicit C10_ALWAYS_INLINE Finite(T x) {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    mask = -static_cast<Bits>((c10::bit_cast<Bits>(x) & c10::bit_cast<Bits>(kInfinity)) != c10::bit_cast<Bits>(kInfinity));
  }
  C10_ALWAYS_INLINE T choose(T yes, T no) const {
    return c10::bit_cast<T>((c10::bit_cast<Bits>(yes) & mask) | (c10::bit_cast<Bits>(no) & ~mask));
  }
};

// What a caller has found to be finite already.
struct IsFinite {
  template <class T>
  C10_ALWAYS_INLINE T choose(T yes, T) const {
    return yes;
  }
};

// A rule holds a step's numbers and its state's pointers, and makes the new weight of element i. It is plain arithmetic: what
// is switched off has the coefficient 0. `prefetch` asks for the state's cache lines at i.

// torch.optim.SGD's formula: the step is along near * g + far * velocity.
template <class T, bool has_momentum>
struct Sgd {
  T lr, weight_decay, momentum, undamped, near, far;
  T* velocity;

  template <class Known>
  C10_ALWAYS_INLINE T operator()(int64_t i, T w, T g, Known finite) const {
    g += weight_decay * w;
    if constexpr (!has_momentum) return w - lr * g;
    const T old = velocity[i], v = momentum * old + undamped * g;
    velocity[i] = finite.choose(v, old);
    return w - lr * (near * g + far * v);
  }
  C10_ALWAYS_INLINE void prefetch(int64_t i) const {
    if constexpr (has_momentum) __builtin_prefetch(velocity + i, 1, 2);
  }
};

// torch.optim.RMSprop's formula.
template <class T, bool has_momentum, bool centered>
struct RmsProp {
  T lr, weight_decay, alpha, rest, eps, momentum;
  T *square, *velocity, *mean;

  template <class Known>
  C10_ALWAYS_INLINE T operator()(int64_t i, T w, T g, Known finite) const {
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
  C10_ALWAYS_INLINE void prefetch(int64_t i) const {
    __builtin_prefetch(square + i, 1, 2);
    if constexpr (has_momentum) __builtin_prefetch(velocity + i, 1, 2);
    if constexpr (centered) __builtin_prefetch(mean + i, 1, 2);
  }
};

// torch.optim.Adam's formula; step = lr / (1 - beta1^count) and scale = 1 / sqrt(1 - beta2^count) are made in fp64.
template <class T>
struct Adam {
  T step, scale, weight_decay, beta1, rest1, beta2, rest2, eps;
  T *mean, *square;

  template <class Known>
  C10_ALWAYS_INLINE T operator()(int64_t i, T w, T g, Known finite) const {
    g += weight_decay * w;
    const T old_mean = mean[i], old_square = square[i];
    const T m = old_mean + rest1 * (g - old_mean), s = old_square + rest2 * (g * g - old_square);
    mean[i] = finite.choose(m, old_mean);
    square[i] = finite.choose(s, old_square);
    return w - step * (m / (std::sqrt(s) * scale + eps));
  }
  C10_ALWAYS_INLINE void prefetch(int64_t i) const {
    __builtin_prefetch(mean + i, 1, 2);
    __builtin_prefetch(square + i, 1, 2);
  }
};

// A step that is withheld: its gradients count, and weights stay as they are.
struct Keep {
  template <class Known>
  C10_ALWAYS_INLINE float operator()(int64_t, float w, float, Known) const {
    return w;
  }
  C10_ALWAYS_INLINE void prefetch(int64_t) const {}
};

// What every rule works on.
template <class T>
struct Network {
  T* weight;
  T* average;  // or null
  T bound;     // weights stay in [-bound, bound]
  T decay;     // of the average
};

struct Totals {
  double squares = 0, not_finite = 0;
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

// One step of element i: what becomes of its weight.
template <bool averages, class T, class Rule, class Known>
C10_ALWAYS_INLINE T take_one(const Network<T>& network, const Rule& rule, int64_t i, T g, Known finite) {
  const T w = network.weight[i], bound = network.bound;
  T next = rule(i, w, g, finite);
  next = next > bound ? bound : next;
  next = next < -bound ? -bound : next;
  next = finite.choose(next, w);
  network.weight[i] = next;
  // in this form an average of equal weights is that weight, to the last bit
  if constexpr (averages) network.average[i] = next + network.decay * (network.average[i] - next);
  return next;
}

// One step of `count` neighbouring elements, at most Lanes::count, from element i on; copy gets the new weights if there is one.
template <bool averages, class T, class Rule>
C10_ALWAYS_INLINE void take_lanes(const Network<T> network, const Rule& rule, const T* gradient, int64_t i, int64_t count,
                                  Lanes<T>& lanes, T* copy) {
#pragma omp simd
  for (int64_t lane = 0; lane < count; ++lane) {
    const Finite<T> finite(gradient[lane]);
    const T g = finite.choose(gradient[lane], T(0));
    lanes.squares[lane] += g * g;
    lanes.not_finite[lane] += 1 + finite.mask;
    const T next = take_one<averages>(network, rule, i + lane, g, finite);
    if (copy) copy[lane] = next;
  }
}

// The same of as many elements as there are lanes, whose gradients are known to be finite and are counted elsewhere.
template <bool averages, class T, class Rule>
C10_ALWAYS_INLINE void take_finite_lanes(const Network<T> network, const Rule& rule, const T* gradient, int64_t i, T* copy) {
#pragma omp simd
  for (int64_t lane = 0; lane < Lanes<T>::count; ++lane)
    copy[lane] = take_one<averages>(network, rule, i + lane, gradient[lane], IsFinite());
}

// One step of elements begin to end; gradient[0] is element begin's, and copy[0] gets its new weight if there is a copy.
template <bool averages, class T, class Rule>
C10_ALWAYS_INLINE void take_step(const Network<T> network, const Rule& rule, const T* gradient, int64_t begin, int64_t end,
                                 Lanes<T>& lanes, T* copy = nullptr) {
  constexpr int64_t whole = Lanes<T>::count;
  const int64_t count = end - begin;
  int64_t i = 0;
  for (; i + whole <= count; i += whole)
    take_lanes<averages>(network, rule, gradient + i, begin + i, whole, lanes, copy ? copy + i : nullptr);
  take_lanes<averages>(network, rule, gradient + i, begin + i, count - i, lanes, copy ? copy + i : nullptr);
}

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What the caller of an operator gives. options: the rule's own numbers, in the order of torch.optim's arguments after lr.
struct Step {
  const Tensor& weight;
  at::TensorList state;
  const Tensor& lr;
  const Tensor& count;
  const Tensor& withhold;
  std::string_view rule;
  at::ArrayRef<double> options;
  double clip;
  const OptionalTensor& average;
  double decay;
};

template <class T>
Network<T> network_of(const Step& a) {
  const T bound = a.clip ? T(a.clip) : std::numeric_limits<T>::infinity();
  T* average = a.average.has_value() ? a.average->mutable_data_ptr<T>() : nullptr;
  return {a.weight.mutable_data_ptr<T>(), average, bound, T(a.decay)};
}

// A 0-d tensor's value.
inline double number(const Tensor& scalar, const char* name) {
  TORCH_CHECK(scalar.numel() == 1, name, " must hold one number");
  switch (scalar.scalar_type()) {
    case at::kLong:
      return static_cast<double>(*scalar.const_data_ptr<int64_t>());
    case at::kFloat:
      return *scalar.const_data_ptr<float>();
    case at::kDouble:
      return *scalar.const_data_ptr<double>();
    case at::kBool:
      return *scalar.const_data_ptr<bool>();
    default:
      TORCH_CHECK(false, name, " must be int64, fp32, fp64 or bool");
  }
}

// Whether any element is true or, of floating-point numbers, not finite.
inline bool is_withheld(const Tensor& withhold) {
  const auto any = [&](const auto* values, const auto& bad) {
    return std::any_of(values, values + withhold.numel(), bad);
  };
  TORCH_CHECK(withhold.is_contiguous(), "withhold must be contiguous");
  switch (withhold.scalar_type()) {
    case at::kBool:
      return any(withhold.const_data_ptr<bool>(), [](bool value) { return value; });
    case at::kFloat:
      return any(withhold.const_data_ptr<float>(), [](float value) { return !std::isfinite(value); });
    case at::kDouble:
      return any(withhold.const_data_ptr<double>(), [](double value) { return !std::isfinite(value); });
    default:
      TORCH_CHECK(false, "withhold must be bool, fp32 or fp64");
  }
}

inline void set_number(const Tensor& scalar, double value) {
  if (scalar.scalar_type() == at::kLong) *scalar.mutable_data_ptr<int64_t>() = static_cast<int64_t>(value);
  if (scalar.scalar_type() == at::kFloat) *scalar.mutable_data_ptr<float>() = static_cast<float>(value);
  if (scalar.scalar_type() == at::kDouble) *scalar.mutable_data_ptr<double>() = value;
}

inline void check_buffer(const Tensor& buffer, const Tensor& weight, const char* name) {
  TORCH_CHECK(buffer.is_contiguous() && buffer.scalar_type() == weight.scalar_type() && buffer.numel() == weight.numel(), name,
              " must be contiguous, and of weight's dtype and size");
}

inline void check(const Step& a) {
  TORCH_CHECK(a.weight.scalar_type() == at::kFloat || a.weight.scalar_type() == at::kDouble, "weight must be fp32 or fp64");
  check_buffer(a.weight, a.weight, "weight");
  for (const Tensor& buffer : a.state) check_buffer(buffer, a.weight, "state");
  if (a.average.has_value()) check_buffer(*a.average, a.weight, "average");
}

// What autograd has saved of these tensors is out of date.
inline void mark_changed(const Step& a) {
  const auto bump = [](const Tensor& tensor) {
    if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
  };
  bump(a.weight);
  for (const Tensor& buffer : a.state) bump(buffer);
  if (a.average.has_value()) bump(*a.average);
}

// What a step returns: the sum of the finite gradients' squares and the number of the others.
inline Tensor result_of(const Totals& totals, const Tensor& weight) {
  const double numbers[] = {totals.squares, totals.not_finite};
  return at::tensor(at::ArrayRef<double>(numbers), weight.options());
}

// Calls run(rule) with the rule of a step.
template <class T, class Run>
void with_rule(const Step& a, double lr, double count, const Run& run) {
  const auto& options = a.options;
  const auto given = [&](size_t numbers, size_t states) {
    TORCH_CHECK(options.size() == numbers, a.rule, " has ", numbers, " options, not ", options.size());
    TORCH_CHECK(a.state.size() == states, "this rule keeps ", states, " buffers, not ", a.state.size());
  };
  const auto buffer = [&](size_t index) { return a.state[index].template mutable_data_ptr<T>(); };
  constexpr std::true_type yes;
  constexpr std::false_type no;
  if (a.rule == "sgd") {  // momentum, dampening, weight decay, nesterov
    given(4, options.empty() || options[0] == 0 ? 0 : 1);
    const T momentum = options[0], dampening = options[1], weight_decay = options[2], nesterov = options[3];
    if (!momentum) return run(Sgd<T, false>{T(lr), weight_decay});
    const bool first = count == 1;  // the velocity begins as the gradient, whole
    run(Sgd<T, true>{T(lr), weight_decay, first ? 0 : momentum, first ? 1 : 1 - dampening, nesterov, nesterov ? momentum : 1,
                     buffer(0)});
  } else if (a.rule == "rmsprop") {  // alpha, eps, weight decay, momentum, centered
    const bool moves = options.size() > 3 && options[3], centred = options.size() > 4 && options[4];
    given(5, 1 + moves + centred);
    const auto with = [&](auto has_momentum, auto centered) {
      T* velocity = has_momentum ? buffer(1) : nullptr;
      T* mean = centered ? buffer(a.state.size() - 1) : nullptr;
      run(RmsProp<T, has_momentum, centered>{T(lr), T(options[2]), T(options[0]), T(1.0 - options[0]), T(options[1]),
                                             T(options[3]), buffer(0), velocity, mean});
    };
    if (moves) return centred ? with(yes, yes) : with(yes, no);
    centred ? with(no, yes) : with(no, no);
  } else {  // beta1, beta2, eps, weight decay
    TORCH_CHECK(a.rule == "adam", "unknown rule ", a.rule);
    given(4, 2);
    const double beta1 = options[0], beta2 = options[1];
    const T rate = lr / (1.0 - std::pow(beta1, count)), scale = 1.0 / std::sqrt(1.0 - std::pow(beta2, count));
    run(Adam<T>{rate, scale, T(options[3]), T(beta1), T(1.0 - beta1), T(beta2), T(1.0 - beta2), T(options[2]), buffer(0),
                buffer(1)});
  }
}

}  // namespace
