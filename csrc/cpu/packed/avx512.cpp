#include "any_processor.h"

#ifdef FASTGAN_INTRINSICS

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#include "instantiate.h"
#include "isa_avx512.h"

namespace fastgan::packed {
namespace {
constexpr Kernels kKernels = kernels_of<Avx512>("avx512");
}
}  // namespace fastgan::packed
#pragma GCC pop_options

const fastgan::packed::Kernels* fastgan::packed::avx512() {
  return __builtin_cpu_supports("x86-64-v4") ? &kKernels : nullptr;
}

#else

const fastgan::packed::Kernels* fastgan::packed::avx512() {
  return nullptr;
}

#endif
