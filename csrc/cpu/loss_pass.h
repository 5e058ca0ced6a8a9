// One pass over many logits: it sums their losses, or writes their gradients.
#pragma once

#include "../logit_loss.h"
#include "vector_math.h"

#include <algorithm>
#include <array>

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

// The logit itself is the value of Linear<T>(0, 0); this is its sign.
template <class T>
struct Sign {
  Sign(double, double) {}
  T value(T x) const { return T(x > T(0)) - T(x < T(0)); }
};

// What a pass does with element i: its value, and the gradient it writes; and the logits that it looks at.

template <class scalar, class LogitLoss>
struct Single {
  using T = wide_t<scalar>;
  static constexpr int64_t chunk = kChunk<LogitLoss>;
  const scalar* logits;
  scalar* gradient;
  LogitLoss logit_loss;
  T weight, offset;
  std::array<const scalar*, 2> looked_at() const { return {logits, nullptr}; }
  T value(int64_t i) const { return logit_loss.value(T(logits[i])); }
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
  std::array<const scalar*, 2> looked_at() const { return {real, fake}; }
  T value(int64_t i) const { return logit_loss.value(T(fake[i]) - T(real[i])); }
  void write(int64_t i) const {
    const T loss_gradient = weight * logit_loss.gradient(T(fake[i]) - T(real[i]));
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

// Sums the values of elements begin to end.
template <class Item>
FASTGAN_VARIANTS FASTGAN_FLATTEN double value_pass(Item item, int64_t begin, int64_t end) {
  Lanes<typename Item::T> sum;
  const int64_t length = (end - begin) / (kStreams * kLanes) * kLanes;  // of a stream
  for (int64_t i = 0; i < length;) {
    for (const int64_t stop = std::min(i + kWiden, length); i < stop; i += kLanes) {
#pragma GCC unroll 4
      for (int64_t stream = 0; stream < kStreams; ++stream) {
#pragma omp simd
        for (int64_t lane = 0; lane < kLanes; ++lane)
          sum.part[stream * kLanes + lane] += item.value(begin + stream * length + i + lane);
      }
    }
    sum.widen();
  }
  begin += kStreams * length;
#pragma omp simd
  for (int64_t lane = 0; lane < end - begin; ++lane) sum.part[lane] += item.value(begin + lane);
  return sum.sum();
}

// Writes the gradients of elements begin to end. Apart from the sums, because one loop for both would often not vectorise;
// a chunk that was just summed is still in the cache.
template <class Item>
FASTGAN_VARIANTS FASTGAN_FLATTEN void gradient_pass(Item item, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) item.write(i);
}

}  // namespace
