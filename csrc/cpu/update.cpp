// update: one optimizer step over a flat network, in place and in one pass over memory.
//
// Per weight: is the gradient finite; weight decay; moments; weight; clip; moving average; the sum of the finite gradients'
// squares. A rule holds the step's numbers and its state's pointers, and makes the new weight of one element. Work is cut into
// blocks of fixed size whose sums are added in their order: the result does not depend on the number of threads.

#include "vector_math.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kBlock = 1024;       // elements whose squares are summed in the weights' type
constexpr int64_t kChunk = 16 * 1024;  // elements that one thread takes at a time

// start + weight (end - start), from the end that is nearer: exact where both are equal, and at weights 0 and 1.
template <class T>
struct Lerp {
  bool near_start;
  T weight;
  explicit Lerp(double weight) : near_start(weight < 0.5), weight(T(near_start ? weight : 1.0 - weight)) {}
  T operator()(T start, T end) const {
    const T base = near_start ? start : end, other = near_start ? end : start;
    return base + weight * (other - base);
  }
};

// torch.optim.SGD's formula.
template <class T, bool has_momentum>
struct Sgd {
  T lr, momentum, undamped, weight_decay;
  bool decays, nesterov, first;
  T* velocity;

  T operator()(int64_t i, T w, T g, bool take) const {
    g = decays ? g + weight_decay * w : g;
    if constexpr (!has_momentum) return w - lr * g;
    const T old = velocity[i];
    const T v = first ? g : momentum * old + undamped * g;
    velocity[i] = take ? v : old;
    return w - lr * (nesterov ? g + momentum * v : v);
  }
};

// torch.optim.RMSprop's formula.
template <class T, bool has_momentum, bool centered>
struct RmsProp {
  T lr, alpha, rest, eps, weight_decay, momentum;
  bool decays;
  T *square, *velocity, *mean;

  T operator()(int64_t i, T w, T g, bool take) const {
    g = decays ? g + weight_decay * w : g;
    const T old_square = square[i], s = alpha * old_square + rest * g * g;
    square[i] = take ? s : old_square;
    T spread = s;
    if constexpr (centered) {
      const T old_mean = mean[i], m = alpha * old_mean + rest * g;
      mean[i] = take ? m : old_mean;
      spread = s - m * m;
    }
    T direction = g / (std::sqrt(spread) + eps);
    if constexpr (has_momentum) {
      const T old = velocity[i];
      direction = momentum * old + direction;
      velocity[i] = take ? direction : old;
    }
    return w - lr * direction;
  }
};

// torch.optim.Adam's formula; step = lr / (1 - beta1^count) and scale = 1 / sqrt(1 - beta2^count) are made in fp64.
template <class T>
struct Adam {
  T step, scale, beta2, rest, eps, weight_decay;
  Lerp<T> towards_gradient;
  bool decays;
  T *mean, *square;

  T operator()(int64_t i, T w, T g, bool take) const {
    g = decays ? g + weight_decay * w : g;
    const T old_mean = mean[i], old_square = square[i];
    const T m = towards_gradient(old_mean, g), s = beta2 * old_square + rest * g * g;
    mean[i] = take ? m : old_mean;
    square[i] = take ? s : old_square;
    return w - step * (m / (std::sqrt(s) * scale + eps));
  }
};

// Changes nothing: a step that is withheld still counts its gradients.
template <class T>
struct Withheld {
  T operator()(int64_t, T w, T, bool) const { return w; }
};

// What every rule works on.
template <class T>
struct Network {
  T* weight;
  const T* gradient;
  T* average;
  T bound;  // weights stay in [-bound, bound]
  Lerp<T> towards_average;
  int64_t size;
};

struct Totals {
  double squares = 0, not_finite = 0;
};

template <bool writes, bool averages, class T, class Rule>
FASTGAN_VARIANTS Totals pass(Network<T> network, Rule rule, int64_t begin, int64_t end) {
  constexpr T kLargest = std::numeric_limits<T>::max();
  T *const weight = network.weight, *const average = network.average;
  const T* const gradient = network.gradient;
  const T bound = network.bound;
  Totals totals;
  for (; begin < end; begin += kBlock) {
    const int64_t stop = std::min(begin + kBlock, end);
    T squares = 0, not_finite = 0;
#pragma omp simd reduction(+ : squares, not_finite)
    for (int64_t i = begin; i < stop; ++i) {
      const T g = gradient[i];
      const bool finite = std::fabs(g) <= kLargest;
      const T clean = finite ? g : T(0);
      squares += clean * clean;
      not_finite += finite ? T(0) : T(1);
      if constexpr (writes) {
        const T w = weight[i];
        T next = rule(i, w, clean, finite);
        next = next > bound ? bound : next;
        next = next < -bound ? -bound : next;
        next = finite ? next : w;
        weight[i] = next;
        if constexpr (averages) average[i] = network.towards_average(next, average[i]);
      }
    }
    totals.squares += squares;
    totals.not_finite += not_finite;
  }
  return totals;
}

template <bool writes, class T, class Rule>
Totals run(const Network<T>& network, const Rule& rule) {
  const int64_t chunks = (network.size + kChunk - 1) / kChunk;
  std::vector<Totals> parts(chunks);
  at::parallel_for(0, chunks, 2, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunk * kChunk, end = std::min(begin + kChunk, network.size);
      parts[chunk] = network.average ? pass<writes, true>(network, rule, begin, end) : pass<writes, false>(network, rule, begin, end);
    }
  });
  Totals totals;
  for (const Totals& part : parts) {
    totals.squares += part.squares;
    totals.not_finite += part.not_finite;
  }
  return totals;
}

// What the caller of an operator gives, apart from the rule's own numbers.
struct Arguments {
  const Tensor& weight;
  const Tensor& gradient;
  at::TensorList state;
  const Tensor& lr;
  const Tensor& count;
  const Tensor& withhold;
  double clip;
  const OptionalTensor& average;
  double decay;
};

// A 0-d tensor's value.
double number(const Tensor& scalar, const char* name) {
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

void set_number(const Tensor& scalar, double value) {
  if (scalar.scalar_type() == at::kLong) *scalar.mutable_data_ptr<int64_t>() = static_cast<int64_t>(value);
  if (scalar.scalar_type() == at::kFloat) *scalar.mutable_data_ptr<float>() = static_cast<float>(value);
  if (scalar.scalar_type() == at::kDouble) *scalar.mutable_data_ptr<double>() = value;
}

void check_buffer(const Tensor& buffer, const Tensor& weight, const char* name) {
  TORCH_CHECK(buffer.is_contiguous() && buffer.scalar_type() == weight.scalar_type() && buffer.numel() == weight.numel(), name,
              " must be contiguous, and of weight's dtype and size");
}

void check(const Arguments& a, size_t states) {
  TORCH_CHECK(a.weight.scalar_type() == at::kFloat || a.weight.scalar_type() == at::kDouble, "weight must be fp32 or fp64");
  TORCH_CHECK(a.state.size() == states, "this rule keeps ", states, " buffers, not ", a.state.size());
  check_buffer(a.weight, a.weight, "weight");
  check_buffer(a.gradient, a.weight, "gradient");
  for (const Tensor& buffer : a.state) check_buffer(buffer, a.weight, "state");
  if (a.average.has_value()) check_buffer(*a.average, a.weight, "average");
}

// What autograd has saved of these tensors is out of date.
void mark_changed(const Arguments& a) {
  const auto bump = [](const Tensor& tensor) {
    if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
  };
  bump(a.weight);
  for (const Tensor& buffer : a.state) bump(buffer);
  if (a.average.has_value()) bump(*a.average);
}

template <class T>
Network<T> network_of(const Arguments& a) {
  const T bound = a.clip ? T(a.clip) : std::numeric_limits<T>::infinity();
  T* average = a.average.has_value() ? a.average->mutable_data_ptr<T>() : nullptr;
  return {a.weight.mutable_data_ptr<T>(), a.gradient.const_data_ptr<T>(), average, bound, Lerp<T>(a.decay), a.weight.numel()};
}

// One step: `rule_of(run, lr, count, zero)` calls `run` with its rule in zero's type. A state's number `states` is checked.
template <class T, class RuleOf>
Tensor step_in(const Arguments& a, const RuleOf& rule_of) {
  const Network<T> network = network_of<T>(a);
  Totals totals;
  if (number(a.withhold, "withhold")) {
    totals = run<false>(network, Withheld<T>{});
  } else {
    const double count = number(a.count, "count") + 1;
    set_number(a.count, count);
    rule_of([&](const auto& rule) { totals = run<true>(network, rule); }, number(a.lr, "lr"), std::max(count, 1.0), T(0));
    mark_changed(a);
  }
  const Tensor result = at::empty({2}, a.weight.options());
  result.mutable_data_ptr<T>()[0] = static_cast<T>(totals.squares);
  result.mutable_data_ptr<T>()[1] = static_cast<T>(totals.not_finite);
  return result;
}

template <class RuleOf>
Tensor step(const Arguments& a, size_t states, const RuleOf& rule_of) {
  check(a, states);
  return a.weight.scalar_type() == at::kFloat ? step_in<float>(a, rule_of) : step_in<double>(a, rule_of);
}

template <class T>
T* buffer(const Arguments& a, size_t index) {
  return a.state[index].template mutable_data_ptr<T>();
}

Tensor sgd_(Tensor& weight, const Tensor& gradient, at::TensorList state, const Tensor& lr, Tensor& count, const Tensor& withhold,
            double momentum, double dampening, double weight_decay, bool nesterov, double clip, const OptionalTensor& average,
            double decay) {
  const Arguments a{weight, gradient, state, lr, count, withhold, clip, average, decay};
  return step(a, momentum ? 1 : 0, [&](const auto& run, double lr, double count, auto zero) {
    using T = decltype(zero);
    const T rate = lr, mu = momentum, undamped = 1.0 - dampening, wd = weight_decay;
    if (!momentum) return run(Sgd<T, false>{rate, mu, undamped, wd, weight_decay != 0, nesterov, false, nullptr});
    run(Sgd<T, true>{rate, mu, undamped, wd, weight_decay != 0, nesterov, count == 1, buffer<T>(a, 0)});
  });
}

Tensor rmsprop_(Tensor& weight, const Tensor& gradient, at::TensorList state, const Tensor& lr, Tensor& count,
                const Tensor& withhold, double alpha, double eps, double weight_decay, double momentum, bool centered, double clip,
                const OptionalTensor& average, double decay) {
  const Arguments a{weight, gradient, state, lr, count, withhold, clip, average, decay};
  const size_t states = 1 + (momentum != 0) + centered;
  return step(a, states, [&](const auto& run, double lr, double, auto zero) {
    using T = decltype(zero);
    const auto with = [&](auto has_momentum, auto is_centered) {
      T* velocity = has_momentum ? buffer<T>(a, 1) : nullptr;
      T* mean = is_centered ? buffer<T>(a, states - 1) : nullptr;
      run(RmsProp<T, has_momentum, is_centered>{T(lr), T(alpha), T(1.0 - alpha), T(eps), T(weight_decay), T(momentum),
                                                weight_decay != 0, buffer<T>(a, 0), velocity, mean});
    };
    constexpr std::true_type yes;
    constexpr std::false_type no;
    if (momentum) return centered ? with(yes, yes) : with(yes, no);
    centered ? with(no, yes) : with(no, no);
  });
}

Tensor adam_(Tensor& weight, const Tensor& gradient, at::TensorList state, const Tensor& lr, Tensor& count, const Tensor& withhold,
             at::ArrayRef<double> betas, double eps, double weight_decay, double clip, const OptionalTensor& average, double decay) {
  TORCH_CHECK(betas.size() == 2, "betas are two numbers");
  const Arguments a{weight, gradient, state, lr, count, withhold, clip, average, decay};
  return step(a, 2, [&](const auto& run, double lr, double count, auto zero) {
    using T = decltype(zero);
    const T rate = lr / (1.0 - std::pow(betas[0], count)), scale = 1.0 / std::sqrt(1.0 - std::pow(betas[1], count));
    run(Adam<T>{rate, scale, T(betas[1]), T(1.0 - betas[1]), T(eps), T(weight_decay), Lerp<T>(1.0 - betas[0]), weight_decay != 0,
                buffer<T>(a, 0), buffer<T>(a, 1)});
  });
}

// What the operators return, without the numbers: for torch.compile, export and fake tensors.
template <class... Options>
Tensor meta(Tensor& weight, const Tensor&, at::TensorList, const Tensor&, Tensor&, const Tensor&, Options...) {
  return at::empty({2}, weight.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("sgd_", &sgd_);
  m.impl("rmsprop_", &rmsprop_);
  m.impl("adam_", &adam_);
}

TORCH_LIBRARY_IMPL(fastgan, Meta, m) {
  m.impl("sgd_", &meta<double, double, double, bool, double, const OptionalTensor&, double>);
  m.impl("rmsprop_", &meta<double, double, double, double, bool, double, const OptionalTensor&, double>);
  m.impl("adam_", &meta<at::ArrayRef<double>, double, double, double, const OptionalTensor&, double>);
}
