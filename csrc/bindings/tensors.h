// Tensors of LibTorch's stable ABI, as operators look at them before a kernel gets their pointers. All are on the CPU: with one
// elsewhere torch chooses another device's kernel.
#pragma once

#include "../cpu/half.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace fastgan::bindings {

using torch::stable::Tensor;
using Library = torch::stable::detail::StableLibrary;
using OptionalTensor = std::optional<Tensor>;

// torch's numbers for the types that kernels know. ScalarType would be found by asking for each of torch's.
template <class T>
int32_t dtype_of() {
  if constexpr (std::is_same_v<T, double>) return aoti_torch_dtype_float64();
  if constexpr (std::is_same_v<T, float>) return aoti_torch_dtype_float32();
  if constexpr (std::is_same_v<T, bf16>) return aoti_torch_dtype_bfloat16();
  if constexpr (std::is_same_v<T, half>) return aoti_torch_dtype_float16();
  if constexpr (std::is_same_v<T, int64_t>) return aoti_torch_dtype_int64();
  if constexpr (std::is_same_v<T, uint8_t>) return aoti_torch_dtype_uint8();
  if constexpr (std::is_same_v<T, bool>) return aoti_torch_dtype_bool();
}

inline int32_t dtype_of(const Tensor& tensor) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  return dtype;
}

template <class T>
bool holds(const Tensor& tensor) {
  return dtype_of(tensor) == dtype_of<T>();
}

template <class T>
const T* source(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* target(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The same of what may be missing.
template <class T>
const T* source(const OptionalTensor& tensor) {
  return tensor ? source<T>(*tensor) : nullptr;
}
template <class T>
T* target(const OptionalTensor& tensor) {
  return tensor ? target<T>(*tensor) : nullptr;
}

inline bool same_sizes(const Tensor& one, const Tensor& other) {
  const auto sizes = one.sizes(), others = other.sizes();
  return std::equal(sizes.begin(), sizes.end(), others.begin(), others.end());
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// A contiguous tensor of these sizes on the CPU.
template <class T>
Tensor empty(const int64_t* sizes, int64_t dimensions) {
  std::vector<int64_t> strides(dimensions, 1);
  for (int64_t i = dimensions - 1; i > 0; --i) strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dimensions, sizes, strides.data(), dtype_of<T>(), aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}
template <class T>
Tensor empty_like(const Tensor& tensor) {
  return empty<T>(tensor.sizes().data(), tensor.dim());
}

// Calls visit(T()) with the one of these types that the tensor has; an error that says `otherwise` where it has none.
template <class... Types, class Visit>
void visit_dtype(const Tensor& tensor, std::string_view otherwise, const Visit& visit) {
  const int32_t dtype = dtype_of(tensor);
  const bool visited = ((dtype == dtype_of<Types>() ? (visit(Types()), true) : false) || ...);
  require(visited, otherwise);
}

}  // namespace fastgan::bindings
