// Sums over a block and over a grid in a fixed order, elements that move 16 bytes at a time, and the size of a launch.
#pragma once

// c10's headers, not ATen's CUDAContext.h: that needs cuBLAS and its siblings, which a toolkit may come without.
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 512;  // of a block, at most

// Blocks that a multiprocessor is to hold: a thread may have 64 registers, or 128 for fp64.
template <class scalar>
constexpr int kBlocks = sizeof(scalar) == 8 ? 1 : 2;

// The type that values of a tensor's type are computed in.
template <class scalar>
using wide_t = at::opmath_type<scalar>;

template <class scalar>
constexpr int kGroup = 16 / sizeof(scalar);

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// n elements, one or kGroup, that one instruction moves; they lie at a multiple of their size. As words they take fewer
// registers than as small elements.
template <class scalar, int n>
struct Group {
  using Words = std::conditional_t<n == 1, scalar, uint4>;
  scalar at[n];

  __device__ static Words load(const scalar* from) { return *reinterpret_cast<const Words*>(from); }
  Group() = default;
  __device__ explicit Group(const Words& words) { memcpy(at, &words, sizeof(words)); }
  __device__ void store(scalar* to) const {
    Words words;
    memcpy(&words, at, sizeof(words));
    *reinterpret_cast<Words*>(to) = words;
  }
};

// The sum over teams of `lanes` neighbours, a power of two, in each of them: all add the same numbers in the same order.
__device__ inline double team_sum(double sum, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
}

// n sums over a block of whole warps, in shared memory: every thread gives its parts, then all add them up.
template <int n>
struct BlockSums {
  double parts[n][kWarp], totals[n];

  __device__ void give(int which, double part) {
    part = team_sum(part, kWarp);
    if (threadIdx.x % kWarp == 0) parts[which][threadIdx.x / kWarp] = part;
  }
  // Nobody gives again before all threads have passed another barrier.
  __device__ const BlockSums& add_up() {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    __syncthreads();
    for (int which = warp; which < n; which += warps) {
      const double total = team_sum(lane < warps ? parts[which][lane] : 0.0, kWarp);
      if (lane == 0) totals[which] = total;
    }
    __syncthreads();
    return *this;
  }
  // Leaves the totals for a later launch, ...
  __device__ void leave(double* partial) const {
    if (threadIdx.x < n) partial[blockIdx.x * n + threadIdx.x] = totals[threadIdx.x];
  }
  // ... which adds up what every block left, [blocks, n].
  __device__ const BlockSums& add_up_left(const double* partial, int blocks) {
    for (int which = 0; which < n; ++which) {
      double part = 0;
      for (int block = threadIdx.x; block < blocks; block += blockDim.x) part += partial[block * n + which];
      give(which, part);
    }
    return add_up();
  }
};

inline int64_t processors() {
  int count = 1;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, c10::cuda::current_device()));
  return count;
}

// Blocks for so much work, as far as the current device holds `each` on a multiprocessor at a time.
inline int grid_for(int64_t work, int64_t each = 2) {
  return static_cast<int>(std::clamp<int64_t>(work, 1, each * processors()));
}

// Whole warps for so many threads, as far as a block goes.
inline int block_for(int64_t threads) {
  return static_cast<int>(std::clamp<int64_t>((threads + kWarp - 1) / kWarp * kWarp, kWarp, kThreads));
}

// Elements that one block sums as fast as many blocks do.
constexpr int64_t kFew = 1 << 14;

}  // namespace
