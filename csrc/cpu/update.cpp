// update: one optimizer step over a flat network, in place and in one pass over memory.
//
// Per weight: is the gradient finite; weight decay; moments; weight; clip; moving average; the sum of the finite gradients'
// squares. A rule holds the step's numbers and its state's pointers, and makes the new weight of one element. Work is cut into
// blocks of fixed size whose sums are added in their order: the result does not depend on the number of threads.

#include "vector_math.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/macros/Macros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kBlock = 1024;       // elements whose squares are summed in the weights' type
constexpr int64_t kChunk = 16 * 1024;  // elements that one thread takes at a time

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

// Rules are plain arithmetic too: what is switched off has the coefficient 0.

// torch.optim.SGD's formula: the step is along near * g + far * velocity.
template <class T, bool has_momentum>
struct Sgd {
  T lr, weight_decay, momentum, undamped, near, far;
  T* velocity;

  C10_ALWAYS_INLINE T operator()(int64_t i, T w, T g, Finite<T> finite) const {
    g += weight_decay * w;
    if constexpr (!has_momentum) return w - lr * g;
    const T old = velocity[i], v = momentum * old + undamped * g;
    velocity[i] = finite.choose(v, old);
    return w - lr * (near * g + far * v);
  }
};

// torch.optim.RMSprop's formula.
template <class T, bool has_momentum, bool centered>
struct RmsProp {
  T lr, weight_decay, alpha, rest, eps, momentum;
  T *square, *velocity, *mean;

  C10_ALWAYS_INLINE T operator()(int64_t i, T w, T g, Finite<T> finite) const {
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
};

// torch.optim.Adam's formula; step = lr / (1 - beta1^count) and scale = 1 / sqrt(1 - beta2^count) are made in fp64.
template <class T>
struct Adam {
  T step, scale, weight_decay, beta1, rest1, beta2, rest2, eps;
  T *mean, *square;

  C10_ALWAYS_INLINE T operator()(int64_t i, T w, T g, Finite<T> finite) const {
    g += weight_decay * w;
    const T old_mean = mean[i], old_square = square[i];
    const T m = beta1 * old_mean + rest1 * g, s = beta2 * old_square + rest2 * g * g;
    mean[i] = finite.choose(m, old_mean);
    square[i] = finite.choose(s, old_square);
    return w - step * (m / (std::sqrt(s) * scale + eps));
  }
};

// What every rule works on.
template <class T>
struct Network {
  T* weight;
  const T* gradient;
  T* average;
  T bound;  // weights stay in [-bound, bound]
  T decay;  // of the average
  int64_t size;
};

struct Totals {
  double squares = 0, not_finite = 0;
};

template <bool averages, class T, class Rule>
FASTGAN_VARIANTS Totals pass(Network<T> network, Rule rule, int64_t begin, int64_t end) {
  T *const weight = network.weight, *const average = network.average;
  const T* const gradient = network.gradient;
  const T bound = network.bound, decay = network.decay;
  Totals totals;
  for (; begin < end; begin += kBlock) {
    const int64_t stop = std::min(begin + kBlock, end);
    T squares = 0;
    typename Finite<T>::Bits taken = 0;  // minus their number
#pragma omp simd reduction(+ : squares, taken)
    for (int64_t i = begin; i < stop; ++i) {
      const Finite<T> finite(gradient[i]);
      const T g = finite.choose(gradient[i], T(0)), w = weight[i];
      squares += g * g;
      taken += finite.mask;
      T next = rule(i, w, g, finite);
      next = next > bound ? bound : next;
      next = next < -bound ? -bound : next;
      next = finite.choose(next, w);
      weight[i] = next;
      // in this form an average of equal weights is that weight, to the last bit
      if constexpr (averages) average[i] = next + decay * (average[i] - next);
    }
    totals.squares += squares;
    totals.not_finite += stop - begin + taken;
  }
  return totals;
}

// A step that is withheld still counts its gradients.
template <class T>
Totals withheld_pass(const T* gradient, int64_t begin, int64_t end) {
  Totals totals;
  for (; begin < end; ++begin) {
    const double g = gradient[begin];
    if (std::isfinite(g)) {
      totals.squares += g * g;
    } else {
      totals.not_finite += 1;
    }
  }
  return totals;
}

// Runs pass(begin, end) on chunks of fixed size, and adds their totals in order.
template <class Pass>
Totals run_chunks(int64_t size, const Pass& pass) {
  const int64_t chunks = (size + kChunk - 1) / kChunk;
  std::vector<Totals> parts(chunks);
  at::parallel_for(0, chunks, 2, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      parts[chunk] = pass(chunk * kChunk, std::min((chunk + 1) * kChunk, size));
  });
  Totals totals;
  for (const Totals& part : parts) {
    totals.squares += part.squares;
    totals.not_finite += part.not_finite;
  }
  return totals;
}

template <class T, class Rule>
Totals run(const Network<T>& network, const Rule& rule) {
  return run_chunks(network.size, [&](int64_t begin, int64_t end) {
    return network.average ? pass<true>(network, rule, begin, end) : pass<false>(network, rule, begin, end);
  });
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
  return {a.weight.mutable_data_ptr<T>(), a.gradient.const_data_ptr<T>(), average, bound, T(a.decay), a.weight.numel()};
}

// One step: `rule_of(run, lr, count, zero)` calls `run` with its rule in zero's type. A state's number `states` is checked.
template <class T, class RuleOf>
Tensor step_in(const Arguments& a, const RuleOf& rule_of) {
  const Network<T> network = network_of<T>(a);
  Totals totals;
  if (number(a.withhold, "withhold")) {
    totals = run_chunks(network.size, [&](int64_t begin, int64_t end) { return withheld_pass(network.gradient, begin, end); });
  } else {
    const double count = number(a.count, "count") + 1;
    set_number(a.count, count);
    rule_of([&](const auto& rule) { totals = run(network, rule); }, number(a.lr, "lr"), std::max(count, 1.0), T(0));
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

Tensor sgd_(Tensor& weight, const Tensor& gradient, at::TensorList state, const Tensor& lr, Tensor& count,
            const Tensor& withhold, double momentum, double dampening, double weight_decay, bool nesterov, double clip,
            const OptionalTensor& average, double decay) {
  const Arguments a{weight, gradient, state, lr, count, withhold, clip, average, decay};
  return step(a, momentum ? 1 : 0, [&](const auto& run, double lr, double count, auto zero) {
    using T = decltype(zero);
    if (!momentum) return run(Sgd<T, false>{T(lr), T(weight_decay)});
    const bool first = count == 1;  // the velocity begins as the gradient, whole
    const T kept = first ? 0 : momentum, undamped = first ? 1 : 1 - dampening, near = nesterov, far = nesterov ? momentum : 1;
    run(Sgd<T, true>{T(lr), T(weight_decay), kept, undamped, near, far, buffer<T>(a, 0)});
  });
}

Tensor rmsprop_(Tensor& weight, const Tensor& gradient, at::TensorList state, const Tensor& lr, Tensor& count,
                const Tensor& withhold, double alpha, double eps, double weight_decay, double momentum, bool centered,
                double clip, const OptionalTensor& average, double decay) {
  const Arguments a{weight, gradient, state, lr, count, withhold, clip, average, decay};
  const size_t states = 1 + (momentum != 0) + centered;
  return step(a, states, [&](const auto& run, double lr, double, auto zero) {
    using T = decltype(zero);
    const auto with = [&](auto has_momentum, auto is_centered) {
      T* velocity = has_momentum ? buffer<T>(a, 1) : nullptr;
      T* mean = is_centered ? buffer<T>(a, states - 1) : nullptr;
      run(RmsProp<T, has_momentum, is_centered>{T(lr), T(weight_decay), T(alpha), T(1.0 - alpha), T(eps), T(momentum),
                                                buffer<T>(a, 0), velocity, mean});
    };
    constexpr std::true_type yes;
    constexpr std::false_type no;
    if (momentum) return centered ? with(yes, yes) : with(yes, no);
    centered ? with(no, yes) : with(no, no);
  });
}

Tensor adam_(Tensor& weight, const Tensor& gradient, at::TensorList state, const Tensor& lr, Tensor& count,
             const Tensor& withhold, at::ArrayRef<double> betas, double eps, double weight_decay, double clip,
             const OptionalTensor& average, double decay) {
  TORCH_CHECK(betas.size() == 2, "betas are two numbers");
  const Arguments a{weight, gradient, state, lr, count, withhold, clip, average, decay};
  return step(a, 2, [&](const auto& run, double lr, double count, auto zero) {
    using T = decltype(zero);
    const T rate = lr / (1.0 - std::pow(betas[0], count)), scale = 1.0 / std::sqrt(1.0 - std::pow(betas[1], count));
    run(Adam<T>{rate, scale, T(weight_decay), T(betas[0]), T(1.0 - betas[0]), T(betas[1]), T(1.0 - betas[1]), T(eps),
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
