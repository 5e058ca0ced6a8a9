// The packed products of a chain of layers: what their kernels are given, and the kernels of every instruction set.
//
// A weight is packed as products read it, for what sums over k and has n columns, by panels of so many columns:
//
//   pack     [n / panel, k / group, panel, group]
//
// An operand of `rows` rows is stored as products read its rows, and as weight gradients read it, along its columns:
//
//   values   group 2: [rows, stride], row-major; group 1: as panels
//   panels   [columns / panel, rows / group, panel, group]
//
// A group is what one multiplication adds up: 1 number in fp32; 2 numbers of bf16, a word of 32 bits, in a dot product of pairs.
// What fills up the last columns of a panel, or the second of a pair, is zero where it is multiplied by something. An operand
// has an even number of rows.
#pragma once

#include "../dropout.h"
#include "../update.h"

#include <vector>

namespace fastgan::packed {

// One of the storages of an operand. stride: of a panel in words of 32 bits, or of row-major values' rows in numbers.
struct Storage {
  void* at;
  int64_t stride;
};

struct Operand {
  Storage values, panels;
  int64_t rows, columns;
};

enum Activation : int64_t { kIdentity, kTanh, kSigmoid };  // of a chain's last layer

// A_l = m_l * (A_{l-1} W_l^T + b_l). A layer without dropout has masks without streams.
struct Hidden {
  Storage x;
  Operand out;
  const void* pack;
  int64_t inputs;
  const float* bias;  // or null
  float negative_slope;
  MaskCounter masks;
};

// The last layer's output in fp32, or an input gradient.
struct Output {
  Storage x;
  int64_t rows, inputs, outputs;
  const void* pack;
  const float* bias;  // or null
  Activation activation;
  float* out;  // [rows, outputs]
};

// U_l = m_l * (U_{l+1} W_{l+1}), by the slopes at the activations of layer l.
struct Adjoint {
  Storage x;
  Operand out;
  const void* pack;
  int64_t inputs;
  Storage activations;
  float negative_slope, scale;
};

// T_l = m_l * (T_{l-1} W_l^T) into out's values, and c * A_l + T_l into its panels. coefficient: c, [rows].
struct Tangent {
  Storage x;
  Operand out;
  const void* pack;
  int64_t inputs;
  Storage activations;
  const float* coefficient;
  float negative_slope, scale;
};

// Rows [rows, out.columns] in fp32 that an operand begins with. second, coefficient: of load_tangent and load_output alone.
struct Load {
  const float *first, *second, *coefficient;
  int64_t rows;
  Activation activation;
  Operand out;
};

// One layer's part of a network: panels of its adjoints and of its inputs, and its weights.
struct Layer {
  Storage upstream, x;
  int64_t rows, outputs, inputs;
  float *weight, *bias;  // bias or null
  void *forward, *adjoint;
};

// What one instruction set has. A panel's columns; a group's numbers.
struct Kernels {
  const char* name;  // as FASTGAN_CPU has it
  int64_t panel, group;
  void (*linear)(const Hidden&);
  void (*output)(const Output&);
  void (*adjoint)(const Adjoint&);
  void (*tangent)(const Tangent&);
  void (*load)(const Load&);
  void (*load_tangent)(const Load&);
  void (*load_output)(const Load&);
  void (*gradient)(const Layer&, const float* coefficient);  // into weight and bias
  void (*pack)(const Layer&);
  // One step of all layers' weights; the step's own gradient is not looked at.
  StepResult (*update)(const std::vector<Layer>&, const float* coefficient, const Step<float>&);
};

// Each is null where it was not compiled, or the processor lacks its instructions.
const Kernels* avx2();
const Kernels* avx512();
const Kernels* avx512_bf16();
const Kernels* portable();

}  // namespace fastgan::packed
