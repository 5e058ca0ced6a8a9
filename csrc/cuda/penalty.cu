// penalty: input gradients -> the penalty's value and its derivative by them, a row's norm and derivative in one visit.
//
// A row belongs to a team: some neighbours of a warp, or a block where rows are long and few. Its second reading finds it in
// a cache. The rows' penalties are added up in a fixed order, in the same launch if the rows are the work of one block.

#include "reduce.h"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>

namespace {

using at::Tensor;

// A row's penalty, and what its gradient is multiplied by to be the derivative.
struct ValueAndFactor {
  double value, factor;
};

struct Norm {
  double weight, target, slope;
  bool one_sided;
  __device__ ValueAndFactor operator()(double squares) const {
    const double norm = std::sqrt(squares), over = norm - target, excess = one_sided && over < 0 ? 0.0 : over;
    return {weight * excess * excess, squares > 0 ? slope * excess / norm : 0.0 * squares};
  }
};

struct Square {
  double gamma, slope;
  __device__ ValueAndFactor operator()(double squares) const { return {0.5 * gamma * squares, slope}; }
};

template <class scalar>
struct Rows {
  const scalar* gradient;
  scalar *derivative, *value;
  int64_t rows, width;
  double* partial = nullptr;  // [blocks] penalties, if the blocks are several
  int lanes = kWarp;          // of a team within a warp
};

template <int n, class scalar>
__device__ double sum_of_squares(const scalar* row, int64_t width, int lane, int lanes) {
  double total = 0;
#pragma unroll 4
  for (int64_t j = n * lane; j < width; j += n * lanes) {
    const Group<scalar, n> group(Group<scalar, n>::load(row + j));
    scalar sum = 0;
#pragma unroll
    for (int k = 0; k < n; ++k) sum += group.at[k] * group.at[k];
    total += sum;
  }
  return total;
}

template <int n, class scalar>
__device__ void scale_row(const scalar* row, scalar* out, int64_t width, scalar factor, int lane, int lanes) {
  for (int64_t j = n * lane; j < width; j += n * lanes) {
    Group<scalar, n> group(Group<scalar, n>::load(row + j));
#pragma unroll
    for (int k = 0; k < n; ++k) group.at[k] *= factor;
    group.store(out + j);
  }
}

template <class scalar>
__device__ void write_value(const Rows<scalar>& task, const BlockSums<1>& sums) {
  if (threadIdx.x == 0) *task.value = static_cast<scalar>(sums.totals[0] / task.rows);
}

// `by_block`: a team is a block. Every thread of it makes as many turns as the others, with a row or without.
template <bool by_block, int n, class scalar, class Penalty>
__global__ void __launch_bounds__(kThreads) visit_rows(const Rows<scalar> task, const Penalty penalty) {
  __shared__ BlockSums<1> sums;
  __shared__ double shared_factor;
  const int lanes = by_block ? blockDim.x : task.lanes, lane = threadIdx.x % lanes, teams = blockDim.x / lanes;
  double value = 0, factor = 0;
  for (int64_t first = int64_t{blockIdx.x} * teams; first < task.rows; first += int64_t{gridDim.x} * teams) {
    const int64_t row = first + threadIdx.x / lanes, width = row < task.rows ? task.width : 0;
    double squares = sum_of_squares<n>(task.gradient + row * task.width, width, lane, lanes);
    if constexpr (by_block) {
      sums.give(0, squares);
      squares = sums.add_up().totals[0];
    } else {
      squares = team_sum(squares, lanes);
    }
    if (lane == 0 && row < task.rows) {  // once: fp64 is slow on many devices
      const ValueAndFactor found = penalty(squares);
      value += found.value;
      factor = found.factor;
    }
    if constexpr (by_block) {
      if (lane == 0) shared_factor = factor;
      __syncthreads();
      factor = shared_factor;
    } else {
      factor = __shfl_sync(0xffffffffu, factor, 0, lanes);
    }
    scale_row<n>(task.gradient + row * task.width, task.derivative + row * task.width, width, scalar(factor), lane, lanes);
  }
  sums.give(0, value);
  sums.add_up();
  task.partial ? sums.leave(task.partial) : write_value(task, sums);
}

template <class scalar>
__global__ void finish(const Rows<scalar> task, int blocks) {
  __shared__ BlockSums<1> sums;
  write_value(task, sums.add_up_left(task.partial, blocks));
}

template <int n, class scalar, class Penalty>
void launch(Rows<scalar> task, const Penalty& penalty, const Tensor& like) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const int64_t groups = task.width / n;
  while (task.lanes > 1 && task.lanes / 2 >= groups) task.lanes /= 2;
  const bool few = task.rows * task.width <= kFew;
  // a warp for each row would leave the device idle, or be long at the last rows
  const bool by_block = !few && (groups > 32 * kWarp || (groups > 2 * kWarp && task.rows < 32 * processors()));
  const int threads = by_block ? block_for(groups) : kThreads, teams = by_block ? 1 : kThreads / task.lanes;
  const int blocks = few ? 1 : grid_for((task.rows + teams - 1) / teams, 2048 / threads);
  Tensor partial;
  if (blocks > 1) {
    partial = at::empty({blocks}, like.options().dtype(at::kDouble));
    task.partial = partial.mutable_data_ptr<double>();
  }
  if (by_block) {
    visit_rows<true, n><<<blocks, threads, 0, stream>>>(task, penalty);
  } else {
    visit_rows<false, n><<<blocks, threads, 0, stream>>>(task, penalty);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (blocks == 1) return;
  finish<<<1, block_for(blocks), 0, stream>>>(task, blocks);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class Penalty>
std::tuple<Tensor, Tensor> visit(const Tensor& given, const Penalty& penalty) {
  const Tensor gradient = given.contiguous();
  const int64_t rows = gradient.size(0), width = rows ? gradient.numel() / rows : 0;
  Tensor derivative = at::empty_like(gradient), value = at::empty({}, gradient.options());
  AT_DISPATCH_FLOATING_TYPES(gradient.scalar_type(), "fastgan::penalty", [&] {
    const Rows<scalar_t> task{gradient.const_data_ptr<scalar_t>(), derivative.mutable_data_ptr<scalar_t>(),
                              value.mutable_data_ptr<scalar_t>(), rows, width};
    constexpr int n = kGroup<scalar_t>;
    const bool aligned = width % n == 0 && is_aligned(task.gradient) && is_aligned(task.derivative);
    aligned ? launch<n>(task, penalty, gradient) : launch<1>(task, penalty, gradient);
  });
  return {value, derivative};
}

void check(const Tensor& gradient) {
  TORCH_CHECK(gradient.dim() >= 1, "a gradient has a row for each sample");
}

std::tuple<Tensor, Tensor> norm_penalty_gradient(const Tensor& gradient, double weight, double target, bool one_sided) {
  const c10::cuda::CUDAGuard guard(gradient.device());
  check(gradient);
  return visit(gradient, Norm{weight, target, 2 * weight / gradient.size(0), one_sided});
}

std::tuple<Tensor, Tensor> square_penalty_gradient(const Tensor& gradient, double gamma) {
  const c10::cuda::CUDAGuard guard(gradient.device());
  check(gradient);
  return visit(gradient, Square{gamma, gamma / gradient.size(0)});
}

}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("norm_penalty_gradient", &norm_penalty_gradient);
  m.impl("square_penalty_gradient", &square_penalty_gradient);
}
