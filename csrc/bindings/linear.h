// linear: in place on rows [rows, width] of fp64, fp32 or bf16 (then bias is fp32), see encode_activation and activation_slope
// of the reference. streams: a word for each stacked pass, none without dropout.
#pragma once

#include "../cpu/linear.h"
#include "tensors.h"

namespace fastgan::bindings {

inline void check_rows(const Tensor& rows) {
  require(rows.dim() == 2 && rows.is_contiguous(), "rows must be contiguous, [rows, width]");
}

template <class Visit>
void visit_rows(const Tensor& rows, const Visit& visit) {
  visit_dtype<float, bf16, double>(rows, "fastgan::linear has no kernel for this dtype", visit);
}

inline void encode_activation_(const Tensor& pre, const OptionalTensor& bias, double negative_slope,
                               const std::vector<int64_t>& streams, int64_t threshold, double scale, int64_t seed, int64_t step,
                               int64_t first_row) {
  check_rows(pre);
  const int64_t rows = pre.size(0), width = pre.size(1), passes = std::max<int64_t>(1, streams.size());
  const MaskCounter masks{{streams.data(), streams.size()},
                          rows / passes,
                          static_cast<uint32_t>(threshold),
                          static_cast<uint32_t>(step),
                          static_cast<uint32_t>(first_row),
                          static_cast<uint64_t>(seed),
                          scale};
  visit_rows(pre, [&](auto scalar) {
    using S = decltype(scalar);
    using T = wide_t<S>;
    require(!bias || (bias->is_contiguous() && bias->numel() == width && holds<T>(*bias)),
            "bias must be contiguous, [width], and fp64 for fp64 rows, otherwise fp32");
    encode_activation(target<S>(pre), rows, width, source<T>(bias), negative_slope, masks);
  });
}

inline void activation_slope_(const Tensor& adjoints, const Tensor& activations, double negative_slope, double scale) {
  check_rows(adjoints);
  check_rows(activations);
  require(same_sizes(adjoints, activations) && dtype_of(adjoints) == dtype_of(activations),
          "adjoints must be like activations");
  visit_rows(adjoints, [&](auto scalar) {
    using S = decltype(scalar);
    activation_slope(target<S>(adjoints), source<S>(activations), adjoints.size(0), adjoints.size(1), negative_slope, scale);
  });
}

inline void define_linear(Library& m) {
  m.def(
      "encode_activation_(Tensor(a!) pre, Tensor? bias, float negative_slope, int[] streams, int threshold, float scale, "
      "int seed, int step, int first_row) -> ()");
  m.def("activation_slope_(Tensor(a!) adjoints, Tensor activations, float negative_slope, float scale) -> ()");
}

inline void implement_linear(Library& m) {
  m.impl("encode_activation_", TORCH_BOX(&encode_activation_));
  m.impl("activation_slope_", TORCH_BOX(&activation_slope_));
}

}  // namespace fastgan::bindings
