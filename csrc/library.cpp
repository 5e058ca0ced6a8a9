// The schemas of every C++ operator; csrc/cpu and csrc/cuda hold their implementations (TORCH_LIBRARY_IMPL).
//
// Compile with `-O3 -fopenmp -fno-math-errno -fno-trapping-math`. Without -fopenmp every loop runs on one thread, because
// at::parallel_for is a header, compiled here; do not link with it: torch brings the OpenMP library, and one under another
// name would be a second. The other two let gcc vectorise rounding and comparisons; they change no result. No -march: the
// hot loops carry variants for newer processors and choose among them when the library is loaded.
#include <Python.h>
#include <torch/library.h>

TORCH_LIBRARY(fastgan, m) {
  // sample: fills `out` [rows, columns] (fp32, indices int64) as the reference of the same name does.
  m.def("uniforms_(Tensor(a!) out, int seed, int step, int stream, int first_row) -> ()");
  m.def("normals_(Tensor(a!) out, int seed, int step, int stream, int first_row) -> ()");
  m.def("dropout_scale_(Tensor(a!) out, int threshold, float scale, int seed, int step, int stream, int first_row) -> ()");
  m.def("batch_indices_(Tensor(a!) out, int size, int position, int seed, int stream) -> ()");
  m.def("gather_rows_(Tensor(a!) out, Tensor images, Tensor indices) -> ()");

  // linear

  // loss: csrc/cpu/loss.cpp lists the forms. Values and means (of real and of fake logits) are fp32, or fp64 for fp64 logits;
  // gradients and slopes are like the logits, and a slope is the value's derivative by that logit. No autograd here. `real` is
  // None where the objective looks at fake logits alone; what would describe it is then undefined (None), its mean nan.
  // An argument costs a caller 0.2 us, so the defaults are those of a discriminator's mean.
#define FASTGAN_OBJECTIVE "int form, float fake_target=0.0, float real_target=1.0, float scale=1.0, bool mean=True"
  m.def("loss(Tensor? real, Tensor fake, " FASTGAN_OBJECTIVE ") -> Tensor");
  m.def("loss_backward(Tensor upstream, Tensor? real, Tensor fake, bool want_real, " FASTGAN_OBJECTIVE
        ") -> (Tensor real_gradient, Tensor fake_gradient)");
  m.def("loss_with_slope(Tensor? real, Tensor fake, " FASTGAN_OBJECTIVE
        ") -> (Tensor value, Tensor real_slope, Tensor fake_slope, Tensor means)");
#undef FASTGAN_OBJECTIVE
  m.def("bce(Tensor x, Tensor labels, bool mean) -> Tensor");
  m.def("bce_backward(Tensor upstream, Tensor x, Tensor labels, bool mean) -> Tensor");

  // penalty

  // update: one optimizer step in place over flat buffers, all fp32 or all fp64; see reference.update_. Returns the sum of the
  // finite gradients' squares and the number of the others, [2].
#define FASTGAN_UPDATE(name, options)                                                                                       \
  m.def(name "(Tensor(a!) weight, Tensor gradient, Tensor(b!)[] state, Tensor lr, Tensor(c!) count, Tensor withhold, *, "   \
        options ", float clip=0.0, Tensor(d!)? average=None, float decay=0.0) -> Tensor")
  FASTGAN_UPDATE("sgd_", "float momentum=0.0, float dampening=0.0, float weight_decay=0.0, bool nesterov=False");
  FASTGAN_UPDATE("rmsprop_",
                 "float alpha=0.99, float eps=1e-08, float weight_decay=0.0, float momentum=0.0, bool centered=False");
  FASTGAN_UPDATE("adam_", "float[] betas=[0.9, 0.999], float eps=1e-08, float weight_decay=0.0");
#undef FASTGAN_UPDATE
}

// torch.ops.load_library is what loads this file; the module itself is empty.
extern "C" PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
