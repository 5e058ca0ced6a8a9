#include "any_processor.h"

#ifdef FASTGAN_INTRINSICS

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "instantiate.h"
#include "isa_avx2.h"

namespace fastgan::packed {
namespace {
constexpr Kernels kKernels = kernels_of<Avx2>("avx2");
}
}  // namespace fastgan::packed
#pragma GCC pop_options

const fastgan::packed::Kernels* fastgan::packed::avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kKernels : nullptr;
}

#else

const fastgan::packed::Kernels* fastgan::packed::avx2() {
  return nullptr;
}

#endif
