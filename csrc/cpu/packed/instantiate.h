// The kernels of one instruction set.
#pragma once

#include "products.h"
#include "update.h"

namespace fastgan::packed {
namespace {

template <class I>
constexpr Kernels kernels_of(const char* name) {
  return {name,     kPanel<I>,        I::kGroup,       &linear<I>,   &output<I>, &adjoint<I>, &tangent<I>,
          &load<I>, &load_tangent<I>, &load_output<I>, &gradient<I>, &pack<I>,   &update<I>};
}

}  // namespace
}  // namespace fastgan::packed
