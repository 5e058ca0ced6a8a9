// The schemas of every C++ operator; csrc/cpu and csrc/cuda hold their implementations (TORCH_LIBRARY_IMPL).
//
// Compile with `-O3 -fopenmp -fno-math-errno -fno-trapping-math`. Without -fopenmp every loop runs on one thread, because
// at::parallel_for is a header, compiled here; do not link with it: torch brings the OpenMP library, and one under another
// name would be a second. The other two let gcc vectorise rounding and comparisons; they change no result. No -march: the
// hot loops carry variants for newer processors and choose among them when the library is loaded.
#include <Python.h>
#include <torch/library.h>

TORCH_LIBRARY(fastgan, m) {
  // sample

  // linear

  // loss: csrc/cpu/loss.cpp lists the forms. Values and means (of real and of fake logits) are fp32, or fp64 for fp64 logits;
  // gradients and slopes are like the logits, and a slope is the value's derivative by that logit. No autograd here.
  m.def("loss(Tensor? real, Tensor fake, int form, float real_target, float fake_target, float scale, bool mean) -> Tensor");
  m.def(
      "loss_backward(Tensor upstream, Tensor? real, Tensor fake, int form, float real_target, float fake_target, float scale, "
      "bool mean, bool want_real) -> (Tensor real_gradient, Tensor fake_gradient)");
  m.def(
      "loss_with_slope(Tensor? real, Tensor fake, int form, float real_target, float fake_target, float scale, bool mean) "
      "-> (Tensor value, Tensor real_slope, Tensor fake_slope, Tensor means)");
  m.def("bce(Tensor x, Tensor labels, bool mean) -> Tensor");
  m.def("bce_backward(Tensor upstream, Tensor x, Tensor labels, bool mean) -> Tensor");

  // penalty

  // update
}

// torch.ops.load_library is what loads this file; the module itself is empty.
extern "C" PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
