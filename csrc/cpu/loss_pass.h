// One pass over many logits: it sums their losses, or writes their gradients.
#pragma once

#include "../logit_loss.h"
#include "vector_math.h"

#include <algorithm>
#include <cstdint>

// In an anonymous namespace: a variant is chosen by a symbol of its own in each file.
namespace {

using fastgan::narrow;
using fastgan::wide_t;

constexpr int64_t kStreams = 4;   // places that a sum reads from at a time: memory answers faster than to one
constexpr int64_t kLanes = 32;    // sums side by side in a stream: a single one would wait for its own additions
constexpr int64_t kWiden = 1024;  // elements of a stream summed in fp32, 32 to a lane

// Elements that one thread takes at a time: fewer where each takes an exponential.
template <class LogitLoss>
constexpr int64_t kChunk = 64 * 1024;
template <class T>
constexpr int64_t kChunk<Bce<T>> = 16 * 1024;
template <class T>
constexpr int64_t kChunk<BceGradient<T>> = 16 * 1024;

// What a pass does with element i: its value, the logits it looks at, and the gradient it writes.

template <class scalar, class LogitLoss>
struct Single {
  using T = wide_t<scalar>;
  static constexpr int64_t chunk = kChunk<LogitLoss>;
  const scalar* logits;
  scalar* gradient;
  LogitLoss logit_loss;
  T weight, offset;
  T value(int64_t i) const { return logit_loss.value(T(logits[i])); }
  T first(int64_t i) const { return T(logits[i]); }
  T second(int64_t) const { return T(0); }
  void write(int64_t i) const { gradient[i] = narrow<scalar>(weight * logit_loss.gradient(T(logits[i])) + offset); }
};

template <class scalar, bool write_real>
struct Pairs {
  using T = wide_t<scalar>;
  static constexpr int64_t chunk = kChunk<Bce<T>>;
  const scalar *real, *fake;
  scalar *real_gradient, *fake_gradient;
  Bce<T> logit_loss;
  T weight;
  T value(int64_t i) const { return logit_loss.value(second(i) - first(i)); }
  T first(int64_t i) const { return T(real[i]); }
  T second(int64_t i) const { return T(fake[i]); }
  void write(int64_t i) const {
    const T loss_gradient = weight * logit_loss.gradient(second(i) - first(i));
    fake_gradient[i] = narrow<scalar>(loss_gradient);
    if constexpr (write_real) real_gradient[i] = narrow<scalar>(-loss_gradient);
  }
};

template <class scalar>
struct Labelled {
  using T = wide_t<scalar>;
  static constexpr int64_t chunk = kChunk<Bce<T>>;
  const scalar *logits, *labels;
  scalar* gradient;
  T weight;
  T value(int64_t i) const { return Bce<T>(T(labels[i]), T(0)).value(T(logits[i])); }
  void write(int64_t i) const { gradient[i] = narrow<scalar>(weight * Bce<T>(T(labels[i]), T(0)).gradient(T(logits[i]))); }
};

// Of the values, and of the logits that the item looks at and their signs.
struct Sums {
  double value = 0, logits[2] = {}, signs[2] = {};
  void operator+=(const Sums& other) {
    value += other.value;
    for (const int k : {0, 1}) logits[k] += other.logits[k], signs[k] += other.signs[k];
  }
};

template <class T>
T sign(T x) {
  return T(x > T(0)) - T(x < T(0));
}

// A sum kept in parts: short sums of T, from time to time added to long ones in fp64.
template <class T>
struct Lanes {
  static constexpr int64_t parts = kStreams * kLanes;
  T part[parts] = {};
  double total[parts] = {};
  void widen() {
#pragma omp simd
    for (int64_t lane = 0; lane < parts; ++lane) {
      total[lane] += static_cast<double>(part[lane]);
      part[lane] = T(0);
    }
  }
  double sum() {
    widen();
    double all = 0;
#pragma omp simd reduction(+ : all)
    for (int64_t lane = 0; lane < parts; ++lane) all += total[lane];
    return all;
  }
};

// Sums the values of elements begin to end, and their logits and signs too if asked.
template <bool with_statistics, class Item>
FASTGAN_VARIANTS FASTGAN_FLATTEN Sums value_pass(Item item, int64_t begin, int64_t end) {
  Lanes<typename Item::T> value, logits[2], signs[2];
  const auto accumulate = [&](int64_t i, int64_t lane) {
    value.part[lane] += item.value(i);
    if constexpr (with_statistics) {
      logits[0].part[lane] += item.first(i), signs[0].part[lane] += sign(item.first(i));
      logits[1].part[lane] += item.second(i), signs[1].part[lane] += sign(item.second(i));
    }
  };
  const auto widen = [&] {
    value.widen();
    if constexpr (with_statistics) {
      for (const int k : {0, 1}) logits[k].widen(), signs[k].widen();
    }
  };
  const int64_t length = (end - begin) / (kStreams * kLanes) * kLanes;  // of a stream
  for (int64_t i = 0; i < length;) {
    for (const int64_t stop = std::min(i + kWiden, length); i < stop; i += kLanes) {
#pragma GCC unroll 4
      for (int64_t stream = 0; stream < kStreams; ++stream) {
#pragma omp simd
        for (int64_t lane = 0; lane < kLanes; ++lane) accumulate(begin + stream * length + i + lane, stream * kLanes + lane);
      }
    }
    widen();
  }
  begin += kStreams * length;
#pragma omp simd
  for (int64_t lane = 0; lane < end - begin; ++lane) accumulate(begin + lane, lane);
  if constexpr (with_statistics) {
    return {value.sum(), {logits[0].sum(), logits[1].sum()}, {signs[0].sum(), signs[1].sum()}};
  }
  return {value.sum()};
}

// Writes the gradients of elements begin to end. Apart from the sums, because one loop for both would often not vectorise;
// a chunk that was just summed is still in the cache.
template <class Item>
FASTGAN_VARIANTS FASTGAN_FLATTEN void gradient_pass(Item item, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) item.write(i);
}

}  // namespace
