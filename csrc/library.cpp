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
  m.def("interpolate_(Tensor(a!) out, Tensor real, Tensor fake, Tensor alpha) -> ()");
  m.def("gather_rows_(Tensor(a!) out, Tensor images, Tensor indices) -> ()");

  // linear: in place on rows [rows, width] of fp64, fp32 or bf16 (then bias is fp32), see encode_activation and activation_slope
  // of the reference. streams: a word for each stacked pass, none without dropout.
  m.def(
      "encode_activation_(Tensor(a!) pre, Tensor? bias, float negative_slope, int[] streams, int threshold, float scale, "
      "int seed, int step, int first_row) -> ()");
  m.def("activation_slope_(Tensor(a!) adjoints, Tensor activations, float negative_slope, float scale) -> ()");

  // linear: chains of layers in bf16 by AVX512-BF16 where `bf16_dot` is true; csrc/cpu/packed/storage.h says how values [rows, columns],
  // panels [columns / 64, rows / 2, 128] and packed weights [n / 64, k / 2, 128] are stored. activation: 0 identity, 1 tanh, 2 sigmoid.
  m.def("bf16_dot() -> bool");
  m.def(
      "linear_bf16_(Tensor(a!)[] values, Tensor(b!)[] panels, Tensor[] packs, Tensor?[] biases, int[] widths, "
      "float[] negative_slopes, int[] thresholds, float[] scales, int[] streams, int passes, int seed, int step, int first_row) -> ()");
  m.def("output_bf16_(Tensor x, Tensor pack, Tensor? bias, int activation, Tensor(a!) out) -> ()");
  m.def(
      "adjoint_bf16_(Tensor(a!)[] values, Tensor(b!)[] panels, Tensor[] packs, Tensor[] activations, int[] widths, "
      "float[] negative_slopes, float[] scales) -> ()");
  m.def(
      "tangent_bf16_(Tensor(a!)[] values, Tensor(b!)[] panels, Tensor[] packs, Tensor coefficient, int[] widths, "
      "float[] negative_slopes, float[] scales) -> ()");
  m.def("load_bf16_(Tensor rows, Tensor(a!) values, Tensor(b!) panels) -> ()");
  m.def("load_tangent_bf16_(Tensor tangent, Tensor rows, Tensor coefficient, Tensor(a!) values, Tensor(b!) panels) -> ()");
  m.def("load_output_bf16_(Tensor gradient, Tensor output, int activation, Tensor(a!) values, Tensor(b!) panels) -> ()");
  m.def("pack_bf16_(Tensor weight, Tensor(a!) forward, Tensor(b!) adjoint) -> ()");

  // loss: csrc/logit_loss.h names the forms. Values and statistics are fp32, or fp64 for fp64 logits; gradients are like
  // the logits. No autograd here. `real` is None where the objective looks at fake logits alone; its gradient is then undefined
  // (None), its statistics 0. statistics [4]: the mean logits of real and of fake, and the mean of the signs of both.
  // An argument costs a caller 0.2 us, so the defaults are those of a discriminator's mean.
#define FASTGAN_FORM "str form, float fake_target=0.0, float real_target=1.0, float scale=1.0"
#define FASTGAN_OBJECTIVE FASTGAN_FORM ", bool mean=True"
  m.def("loss(Tensor? real, Tensor fake, " FASTGAN_OBJECTIVE ") -> Tensor");
  m.def("loss_backward(Tensor upstream, Tensor? real, Tensor fake, bool want_real, " FASTGAN_OBJECTIVE
        ") -> (Tensor real_gradient, Tensor fake_gradient)");
  m.def("loss_gradients_(Tensor? real, Tensor fake, Tensor(a!)? real_gradient, Tensor(b!) fake_gradient, " FASTGAN_OBJECTIVE
        ") -> (Tensor value, Tensor statistics)");
  m.def("loss_statistics(Tensor? real, Tensor fake, " FASTGAN_OBJECTIVE ") -> (Tensor value, Tensor statistics)");
#undef FASTGAN_OBJECTIVE
  // Without a reduction: values and upstream gradients are like the logits, but wide. Not for `average`.
  m.def("loss_rows(Tensor? real, Tensor fake, " FASTGAN_FORM ") -> Tensor");
  m.def("loss_rows_backward(Tensor upstream, Tensor? real, Tensor fake, bool want_real, " FASTGAN_FORM
        ") -> (Tensor real_gradient, Tensor fake_gradient)");
#undef FASTGAN_FORM
  m.def("bce_rows(Tensor x, Tensor labels) -> Tensor");
  m.def("bce_rows_backward(Tensor upstream, Tensor x, Tensor labels) -> Tensor");
  m.def("bce(Tensor x, Tensor labels, bool mean) -> Tensor");
  m.def("bce_backward(Tensor upstream, Tensor x, Tensor labels, bool mean) -> Tensor");

  // penalty: a penalty's value and its derivative by the input gradients [B, ...], fp32 or fp64; see the reference.
  m.def(
      "norm_penalty_gradient(Tensor gradient, float weight, float target, bool one_sided) -> (Tensor value, Tensor derivative)");
  m.def("square_penalty_gradient(Tensor gradient, float gamma) -> (Tensor value, Tensor derivative)");

  // update: one optimizer step in place over flat buffers, all fp32 or all fp64; see reference.update_. Returns the sum of the
  // finite gradients' squares and the number of weights whose gradient or new value is not finite, [2].
  // rule and options: as csrc/cpu/optimizer.h explains them.
#define FASTGAN_RULE \
  "Tensor lr, Tensor(c!) count, Tensor withhold, str rule, float[] options, float clip=0.0, Tensor(d!)? ema=None, float ema_decay=0.0"
  m.def("update_(Tensor(a!) weight, Tensor gradient, Tensor(b!)[] state, " FASTGAN_RULE ") -> Tensor");
  // The same with the gradients of a chain of layers made on the way, from bf16 operands: upstream and x are panels, weights and
  // biases the layers' parts of weight; their packs follow.
  m.def("update_bf16_(Tensor(a!) weight, Tensor(b!)[] state, " FASTGAN_RULE
        ", *, Tensor[] weights, Tensor?[] biases, Tensor[] upstream, Tensor[] x, Tensor coefficient, Tensor(e!)[] forward, "
        "Tensor(f!)[] adjoint) -> Tensor");
  m.def("gradient_bf16_(Tensor upstream, Tensor x, Tensor coefficient, Tensor(a!) weight, Tensor(b!)? bias) -> ()");
#undef FASTGAN_RULE
}

// torch.ops.load_library is what loads this file; the module itself is empty.
extern "C" PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
