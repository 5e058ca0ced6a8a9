#include "any_processor.h"
#include "instantiate.h"
#include "isa_portable.h"

namespace fastgan::packed {
namespace {
constexpr Kernels kKernels = kernels_of<Portable<4, 1, 4, 4>>("portable");
}
}  // namespace fastgan::packed

const fastgan::packed::Kernels* fastgan::packed::portable() {
  return &kKernels;
}
