// Barriers of a whole grid, many in one launch, for benchmarks/micro/barriers.py: no torch in here, so that nvcc needs seconds.
//
// Between two barriers a block may relay a word: it reads what its neighbour left in the round before and leaves one more.
// After `rounds` barriers every word is `rounds`, unless a barrier let somebody through too early.

#include <cooperative_groups.h>
#include <cuda_runtime.h>

namespace {

constexpr int kThreads = 256;
constexpr unsigned kFan = 12;  // blocks that arrive at one counter of the two-level barrier
constexpr int kStride = 32;    // words between two counters: a cache line each

__device__ unsigned read_acquire(const unsigned* place) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(place) : "memory");
  return value;
}

__device__ void add_release(unsigned* place) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(place) : "memory");
}

__device__ unsigned add_both(unsigned* place) {
  unsigned before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(place) : "memory");
  return before;
}

struct Flat {  // one counter for all blocks
  __device__ static void sync(unsigned* state, unsigned round) {
    __syncthreads();
    if (threadIdx.x == 0) {
      add_release(state);
      while (read_acquire(state) < round * gridDim.x) {
      }
    }
    __syncthreads();
  }
};

struct TwoLevel {  // the last of kFan blocks arrives for all of them
  __device__ static void sync(unsigned* state, unsigned round) {
    __syncthreads();
    if (threadIdx.x == 0) {
      const unsigned group = blockIdx.x / kFan, groups = (gridDim.x + kFan - 1) / kFan;
      const unsigned members = min(kFan, gridDim.x - group * kFan);
      if (add_both(state + (1 + group) * kStride) == round * members - 1) add_release(state);
      while (read_acquire(state) < round * groups) {
      }
    }
    __syncthreads();
  }
};

struct Library {  // cooperative groups' own
  __device__ static void sync(unsigned*, unsigned) { cooperative_groups::this_grid().sync(); }
};

struct Cluster {  // of the blocks of a cluster alone, by the hardware
  __device__ static void sync(unsigned*, unsigned) {
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#endif
  }
};

template <class Barrier, bool kWord>
__global__ void __launch_bounds__(kThreads) rounds_kernel(unsigned* state, unsigned* words, unsigned rounds) {
  for (unsigned round = 1; round <= rounds; ++round) {
    if (kWord && threadIdx.x == 0) {
      const unsigned* before = words + ((round + 1) % 2) * gridDim.x;
      words[(round % 2) * gridDim.x + blockIdx.x] = __ldcg(before + (blockIdx.x + 1) % gridDim.x) + 1;
    }
    Barrier::sync(state, round);
  }
}

template <class Barrier>
cudaError_t launch(int blocks, int cluster, bool word, unsigned rounds, unsigned* state, unsigned* words, cudaStream_t stream) {
  auto* kernel = word ? rounds_kernel<Barrier, true> : rounds_kernel<Barrier, false>;
  if (cluster > 8) cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  cudaLaunchAttribute attribute{};
  if (cluster) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  } else {
    attribute.id = cudaLaunchAttributeCooperative;  // all blocks at once, or an error
    attribute.val.cooperative = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = kThreads;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, state, words, rounds);
}

}  // namespace

// kind: 0 flat, 1 two levels, 2 the library's, 3 of a cluster of `blocks` blocks. state: zeros, kStride words for each of
// 1 + blocks / kFan counters; words [2, blocks]. Returns a cudaError_t.
extern "C" int grid_barriers(int kind, int blocks, int word, int rounds, void* state, void* words, void* stream) {
  auto* counters = static_cast<unsigned*>(state);
  auto* relayed = static_cast<unsigned*>(words);
  auto queue = static_cast<cudaStream_t>(stream);
  switch (kind) {
    case 0: return launch<Flat>(blocks, 0, word, rounds, counters, relayed, queue);
    case 1: return launch<TwoLevel>(blocks, 0, word, rounds, counters, relayed, queue);
    case 2: return launch<Library>(blocks, 0, word, rounds, counters, relayed, queue);
    case 3: return launch<Cluster>(blocks, blocks, word, rounds, counters, relayed, queue);
    default: return cudaErrorInvalidValue;
  }
}
