#include "any_processor.h"

#ifdef FASTGAN_INTRINSICS

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")
#include "instantiate.h"
#include "isa_avx512_bf16.h"

namespace fastgan::packed {
namespace {
constexpr Kernels kKernels = kernels_of<Avx512Bf16>("avx512-bf16");
}
}  // namespace fastgan::packed
#pragma GCC pop_options

const fastgan::packed::Kernels* fastgan::packed::avx512_bf16() {
  return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16") ? &kKernels : nullptr;
}

#else

const fastgan::packed::Kernels* fastgan::packed::avx512_bf16() {
  return nullptr;
}

#endif
