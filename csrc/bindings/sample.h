// sample: fills `out` [rows, columns] (fp32, indices int64) as the reference of the same name does.
#pragma once

#include "../cpu/sample.h"
#include "tensors.h"

namespace fastgan::bindings {

inline void check_matrix(const Tensor& out) {
  require(out.dim() == 2 && out.is_contiguous() && holds<float>(out), "out must be a contiguous fp32 matrix");
}

inline Counter counter_of(int64_t seed, int64_t step, int64_t stream, int64_t first_row) {
  return {static_cast<uint64_t>(seed), static_cast<uint32_t>(step), static_cast<uint32_t>(stream), first_row};
}

inline void uniforms_(const Tensor& out, int64_t seed, int64_t step, int64_t stream, int64_t first_row) {
  check_matrix(out);
  uniforms(target<float>(out), out.size(0), out.size(1), counter_of(seed, step, stream, first_row));
}

inline void normals_(const Tensor& out, int64_t seed, int64_t step, int64_t stream, int64_t first_row) {
  check_matrix(out);
  normals(target<float>(out), out.size(0), out.size(1), counter_of(seed, step, stream, first_row));
}

inline void dropout_scale_(const Tensor& out, int64_t threshold, double scale, int64_t seed, int64_t step, int64_t stream,
                           int64_t first_row) {
  check_matrix(out);
  dropout_scale(target<float>(out), out.size(0), out.size(1), static_cast<uint32_t>(threshold), static_cast<float>(scale),
                counter_of(seed, step, stream, first_row));
}

inline void batch_indices_(const Tensor& out, int64_t size, int64_t position, int64_t seed, int64_t stream) {
  require(out.is_contiguous() && holds<int64_t>(out), "out must be contiguous int64");
  batch_indices(target<int64_t>(out), out.numel(), size, position, static_cast<uint64_t>(seed), static_cast<uint32_t>(stream));
}

inline void gather_rows_(const Tensor& out, const Tensor& images, const Tensor& indices) {
  const int64_t count = images.size(0), width = count ? images.numel() / count : 0, rows = indices.numel();
  require(images.is_contiguous() && holds<uint8_t>(images), "images must be contiguous uint8");
  require(indices.is_contiguous() && holds<int64_t>(indices), "indices must be contiguous int64");
  require(out.is_contiguous() && holds<float>(out) && out.numel() == rows * width,
          "out must be contiguous fp32 of one row to an index");
  gather_rows(target<float>(out), source<uint8_t>(images), count, width, {source<int64_t>(indices), static_cast<size_t>(rows)});
}

inline void interpolate_(const Tensor& out, const Tensor& real, const Tensor& fake, const Tensor& alpha) {
  const int64_t rows = alpha.numel(), width = rows ? real.numel() / rows : 0;
  for (const Tensor* each : {&out, &real, &fake})
    require(each->is_contiguous() && holds<float>(*each) && each->numel() == rows * width,
            "real, fake and out must be contiguous fp32 of one size, with a row for each alpha");
  require(alpha.is_contiguous() && holds<float>(alpha), "alpha must be contiguous fp32");
  interpolate(target<float>(out), source<float>(real), source<float>(fake), source<float>(alpha), rows, width);
}

inline void define_sample(Library& m) {
  m.def("uniforms_(Tensor(a!) out, int seed, int step, int stream, int first_row) -> ()");
  m.def("normals_(Tensor(a!) out, int seed, int step, int stream, int first_row) -> ()");
  m.def("dropout_scale_(Tensor(a!) out, int threshold, float scale, int seed, int step, int stream, int first_row) -> ()");
  m.def("batch_indices_(Tensor(a!) out, int size, int position, int seed, int stream) -> ()");
  m.def("interpolate_(Tensor(a!) out, Tensor real, Tensor fake, Tensor alpha) -> ()");
  m.def("gather_rows_(Tensor(a!) out, Tensor images, Tensor indices) -> ()");
}

inline void implement_sample(Library& m) {
  m.impl("uniforms_", TORCH_BOX(&uniforms_));
  m.impl("normals_", TORCH_BOX(&normals_));
  m.impl("dropout_scale_", TORCH_BOX(&dropout_scale_));
  m.impl("batch_indices_", TORCH_BOX(&batch_indices_));
  m.impl("gather_rows_", TORCH_BOX(&gather_rows_));
  m.impl("interpolate_", TORCH_BOX(&interpolate_));
}

}  // namespace fastgan::bindings
