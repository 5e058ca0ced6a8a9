// The C++ operators as torch knows them: schemas, and what stands between tensors and the kernels of csrc/cpu, which know no
// torch. csrc/cuda registers its implementations itself.
//
// This file alone includes torch, by LibTorch's stable ABI, and Python's: one binary serves every torch from
// TORCH_TARGET_VERSION on and every Python from Py_LIMITED_API on. Compile with `-fopenmp -fno-math-errno -fno-trapping-math`,
// optimized. Without -fopenmp `parallel` has the helper threads of `share`; do not link with it: torch brings the OpenMP
// library, and one under another name would be a second. The other two let gcc vectorise rounding and comparisons; they change
// no result. No -march: the hot loops carry variants for newer processors and choose among them when the library is loaded.
#undef Py_LIMITED_API  // torch's build defines an older one
#define Py_LIMITED_API 0x030b0000
#define TORCH_TARGET_VERSION ((2ULL << 56) | (11ULL << 48))

#include <Python.h>

#include "bindings/linear.h"
#include "bindings/loss.h"
#include "bindings/loss_rows.h"
#include "bindings/packed.h"
#include "bindings/penalty.h"
#include "bindings/sample.h"
#include "bindings/update.h"
#include "cpu/threads.h"

STABLE_TORCH_LIBRARY(fastgan, m) {
  using namespace fastgan::bindings;
  define_sample(m);
  define_linear(m);
  define_loss(m);
  define_loss_rows(m);
  define_penalty(m);
  define_update(m);
  define_packed(m);
}

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  using namespace fastgan::bindings;
  implement_sample(m);
  implement_linear(m);
  implement_loss(m);
  implement_loss_rows(m);
  implement_penalty(m);
  implement_update(m);
  implement_packed(m);
  // torch's number is of each thread, and set when it is first asked for
  fastgan::count_threads_by([]() -> int64_t { return torch::stable::get_num_threads(); });
}

STABLE_TORCH_LIBRARY_IMPL(fastgan, CompositeExplicitAutograd, m) {
  m.impl("instruction_sets", TORCH_BOX(&fastgan::bindings::instruction_sets));
}

// The module is empty: importing it loads the library, which registers the operators.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
