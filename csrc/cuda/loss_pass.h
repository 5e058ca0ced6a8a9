// What one launch does with many logits: it sums their losses, and writes their gradients.
#pragma once

#include "../logit_loss.h"
#include "reduce.h"
#include "tensors.h"

namespace {

// What a sweep does with numbers a and b that lie at the same place of its two inputs; b is 0 where there is one input.

template <class T, class LogitLoss>
struct Single {
  static constexpr int inputs = 1;
  LogitLoss logit_loss;
  T weight, offset;
  __device__ void accumulate(T a, T, LossSum<T>& loss_sum) const { add_loss(logit_loss, a, loss_sum); }
  __device__ T gradient(T a, T) const { return weight * logit_loss.gradient(a) + offset; }
};

template <class T>
struct Pairs {  // fake and real logits
  static constexpr int inputs = 2;
  Bce<T> logit_loss;
  T weight;
  __device__ Pairs(double target, double weight) : logit_loss(target, 0.0), weight(weight) {}
  __device__ void accumulate(T a, T b, LossSum<T>& loss_sum) const { add_loss(logit_loss, a - b, loss_sum); }
  __device__ T gradient(T a, T b) const { return weight * logit_loss.gradient(a - b); }
};

template <class T>
struct Labelled {  // logits and labels
  static constexpr int inputs = 2;
  T weight;
  __device__ Labelled(double, double weight) : weight(weight) {}
  __device__ void accumulate(T a, T b, LossSum<T>& loss_sum) const { add_loss(Bce<T>(b, T(0)), a, loss_sum); }
  __device__ T gradient(T a, T b) const { return weight * Bce<T>(b, T(0)).gradient(a); }
};

// Inputs, and where gradients and minus them go: nowhere if null.
template <class scalar>
struct Streams {
  const scalar* in[2];
  scalar* out[2];
  int64_t count;
  bool aligned;
};

// Of the losses, and of the inputs and their signs.
struct Sums {
  double value = 0, inputs[2] = {}, signs[2] = {};
};

// Sums of one thread, of few elements.
template <class T>
struct Part {
  LossSum<T> loss_sum;
  T inputs[2] = {};
  int signs[2] = {};
  __device__ void count(int input, T x) {
    inputs[input] += x;
    signs[input] += (x > T(0)) - (x < T(0));
  }
  __device__ void add_to(Sums& sums) const {
    sums.value += loss_sum.sum();
#pragma unroll
    for (int input = 0; input < 2; ++input) sums.inputs[input] += inputs[input], sums.signs[input] += signs[input];
  }
};

template <int wanted, int n, class scalar, class Item>
__device__ void accumulate_group(const typename Group<scalar, n>::Words (&words)[Item::inputs], scalar* out,
                                 scalar* opposite_out, const Item& item, Part<wide_t<scalar>>& part) {
  const Group<scalar, n> first(words[0]), second(words[Item::inputs - 1]);
  Group<scalar, n> gradients, opposite;
#pragma unroll
  for (int k = 0; k < n; ++k) {
    using T = wide_t<scalar>;
    const T a = first.at[k], b = Item::inputs == 2 ? T(second.at[k]) : T(0);
    if constexpr (asks(wanted, kValue)) item.accumulate(a, b, part.loss_sum);
    if constexpr (asks(wanted, kStatistics)) part.count(0, a), part.count(1, b);
    if constexpr (asks(wanted, kGradient)) {
      const T loss_gradient = item.gradient(a, b);
      gradients.at[k] = static_cast<scalar>(loss_gradient), opposite.at[k] = static_cast<scalar>(-loss_gradient);
    }
  }
  if constexpr (asks(wanted, kGradient)) {
    gradients.store(out);
    if (Item::inputs == 2 && opposite_out) opposite.store(opposite_out);
  }
}

// Groups of each input that a thread reads at a time: memory answers faster than to one. Fewer where it writes, too.
constexpr int together(bool with_gradient, int inputs) {
  return (with_gradient ? 2 : 4) / inputs;
}

// Elements begin to end in groups of n: the tiles of block number `rank` of the grid.
template <int wanted, int n, class scalar, class Item>
__device__ void sweep(const Streams<scalar>& streams, const Item& item, int64_t begin, int64_t end, int rank, Sums& sums) {
  constexpr int inputs = Item::inputs, flight = together(asks(wanted, kGradient), inputs);
  const int step = n * blockDim.x;
  const int64_t tile = flight * step;
  for (int64_t i = begin + rank * tile + n * threadIdx.x; i < end; i += gridDim.x * tile) {
    const int left = static_cast<int>(min(end - i, tile));
    typename Group<scalar, n>::Words words[flight][inputs];
#pragma unroll
    for (int u = 0; u < flight; ++u) {
      if (u * step >= left) break;
#pragma unroll
      for (int input = 0; input < inputs; ++input) {
        words[u][input] = Group<scalar, n>::load(streams.in[input] + i + u * step);
      }
    }
    Part<wide_t<scalar>> part;
#pragma unroll
    for (int u = 0; u < flight; ++u) {
      if (u * step >= left) break;
      scalar* const opposite = streams.out[1] ? streams.out[1] + i + u * step : nullptr;
      accumulate_group<wanted, n>(words[u], streams.out[0] + i + u * step, opposite, item, part);
    }
    part.add_to(sums);
  }
}

// The sums are the thread's own.
template <int wanted, class scalar, class Item>
__device__ Sums sweep(const Streams<scalar>& streams, const Item& item, int rank) {
  constexpr int n = kGroup<scalar>;
  const int64_t whole = streams.aligned ? streams.count / n * n : 0;
  Sums sums;
  sweep<wanted, n>(streams, item, 0, whole, rank, sums);
  sweep<wanted, 1>(streams, item, whole, streams.count, rank, sums);
  return sums;
}

template <class scalar>
struct Task {
  const scalar* logits[2] = {};  // labels are in real's place
  scalar* gradients[2] = {};
  int64_t counts[2] = {};
  bool aligned = true;
  double target[2] = {}, weight[2] = {};     // a side's sum is multiplied by its weight in the value
  const wide_t<scalar>* upstream = nullptr;  // multiplies the gradients
  wide_t<scalar>*value = nullptr, *statistics = nullptr;
  // what the blocks of earlier launches left for `average`, and where those of this one leave their sums, if they are several
  const double *logit_sums = nullptr, *gradient_sums = nullptr;
  double* partial = nullptr;
  int earlier_blocks = 1, blocks = 1;
};

// Sums of each side's losses, and of its logits and their signs where statistics are asked for.
template <int wanted>
constexpr int kSums = asks(wanted, kStatistics) ? 6 : 2;

// What multiplies each side's gradients; and for `average` what is subtracted from its logits, and added to its gradients.
struct Found {
  double weight[2], shift[2], offset[2];
};

template <class scalar>
__device__ void find_weight(const Task<scalar>& task, Found& found) {
  if (threadIdx.x == 0) {
    const double upstream = task.upstream ? *task.upstream : 1.0;
    found = {{task.weight[kReal] * upstream, task.weight[kFake] * upstream}, {}, {}};
  }
  __syncthreads();
}

// The other side's mean logit shifts every logit, so a logit's gradient also carries the other side's gradients, through the mean.

template <class scalar>
__device__ void find_shift(const Task<scalar>& task, const BlockSums<2>& logits, Found& found) {
  if (threadIdx.x == 0) {
    found.shift[kReal] = logits.totals[kFake] / task.counts[kFake];
    found.shift[kFake] = logits.totals[kReal] / task.counts[kReal];
  }
  __syncthreads();
}

template <class scalar>
__device__ void find_offset(const Task<scalar>& task, const BlockSums<2>& gradients, Found& found) {
  if (threadIdx.x == 0) {
    found.offset[kReal] = -found.weight[kFake] * gradients.totals[kFake] / task.counts[kReal];
    found.offset[kFake] = -found.weight[kReal] * gradients.totals[kReal] / task.counts[kFake];
  }
  __syncthreads();
}

template <int n, class scalar>
__device__ void write_value(const Task<scalar>& task, const BlockSums<n>& sums) {
  if (threadIdx.x > 0) return;
  const double real = task.weight[kReal] == 0.0 ? 0.0 : task.weight[kReal] * sums.totals[kReal];
  *task.value = real + task.weight[kFake] * sums.totals[kFake];
  if constexpr (n == kSums<kStatistics>) {
#pragma unroll
    for (int which = 0; which < 4; ++which) {
      const int side = which % 2;
      task.statistics[which] = task.logits[side] ? sums.totals[2 + which] / task.counts[side] : 0.0;
    }
  }
}

// How a launch visits its logits: each side with its own target and shift, ...
template <template <class> class LogitLoss>
struct Sides {
  template <int wanted, int n, class scalar>
  __device__ static void visit(const Task<scalar>& task, const Found& found, BlockSums<n>& sums) {
    using T = wide_t<scalar>;
#pragma unroll 1
    for (int side = kReal; side <= kFake; ++side) {
      const bool skipped = !asks(wanted, kValue) && !task.gradients[side];
      const Streams<scalar> streams{{task.logits[side]}, {task.gradients[side]}, skipped ? 0 : task.counts[side], task.aligned};
      const Single<T, LogitLoss<T>> item{{task.target[side], found.shift[side]}, T(found.weight[side]), T(found.offset[side])};
      const int rank = side == kReal ? blockIdx.x : gridDim.x - 1 - blockIdx.x;  // few tiles: other blocks for the other side
      const Sums one = sweep<wanted>(streams, item, rank);
      if constexpr (asks(wanted, kValue)) sums.give(side, one.value);
      if constexpr (asks(wanted, kStatistics)) sums.give(2 + side, one.inputs[0]), sums.give(4 + side, one.signs[0]);
    }
  }
};

// ... or fake logits together with what is in real's place.
template <template <class> class Item>
struct Both {
  template <int wanted, int n, class scalar>
  __device__ static void visit(const Task<scalar>& task, const Found& found, BlockSums<n>& sums) {
    using T = wide_t<scalar>;
    const Streams<scalar> streams{{task.logits[kFake], task.logits[kReal]},
                                  {task.gradients[kFake], task.gradients[kReal]},
                                  task.counts[kFake],
                                  task.aligned};
    const Sums both = sweep<wanted>(streams, Item<T>(task.target[kFake], found.weight[kFake]), blockIdx.x);
    if constexpr (asks(wanted, kValue)) sums.give(kReal, 0.0), sums.give(kFake, both.value);
    if constexpr (asks(wanted, kStatistics)) {
      sums.give(2 + kReal, both.inputs[1]), sums.give(2 + kFake, both.inputs[0]);
      sums.give(4 + kReal, both.signs[1]), sums.give(4 + kFake, both.signs[0]);
    }
  }
};

}  // namespace
