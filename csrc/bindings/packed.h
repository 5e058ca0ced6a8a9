// linear, update: chains of layers on packed operands and weights, by the kernels of one instruction set; csrc/cpu/packed/kernels.h
// says how these are stored. set: its number in `instruction_sets`. values, panels: in fp32 one tensor may be both.
#pragma once

#include "../cpu/packed/kernels.h"
#include "tensors.h"
#include "update.h"

#include <string>

namespace fastgan::bindings {

using packed::Kernels;
using packed::Operand;
using packed::Storage;
using Tensors = std::vector<Tensor>;
using OptionalTensors = std::vector<OptionalTensor>;
using Numbers = std::vector<int64_t>;
using Floats = std::vector<double>;

inline const Kernels& kernels_of(int64_t set) {
  const Kernels* const sets[] = {packed::avx2(), packed::avx512(), packed::avx512_bf16(), packed::portable()};
  require(set >= 0 && set < 4 && sets[set], "this processor, or this build, lacks instruction set number ", set);
  return *sets[set];
}

// A line for each that this processor has: number, name, a panel's columns, a group's numbers.
inline std::string instruction_sets() {
  std::string lines;
  int number = 0;
  for (const Kernels* set : {packed::avx2(), packed::avx512(), packed::avx512_bf16(), packed::portable()}) {
    const std::string name = std::to_string(number++);
    if (set) lines += name + " " + set->name + " " + std::to_string(set->panel) + " " + std::to_string(set->group) + "\n";
  }
  return lines;
}

// Words of 32 bits hold a group of numbers.
inline void check_words(const Tensor& tensor, const Kernels& set) {
  require(set.group == 2 ? holds<bf16>(tensor) : holds<float>(tensor),
          "operands and packs must be bf16 in groups of 2, or fp32");
}

inline Storage panels_of(const Tensor& panels, const Kernels& set, int64_t rows, int64_t columns) {
  check_words(panels, set);
  const int64_t width = set.group * set.panel;
  require(panels.dim() == 3 && panels.size(2) == width && panels.stride(2) == 1 && panels.stride(1) == width &&
              panels.size(1) * set.group == rows && panels.size(0) * set.panel >= columns,
          "panels must be [columns / panel, rows / group, panel * group]");
  return {panels.mutable_data_ptr(), panels.stride(0) / set.group};
}

inline int64_t rows_of(const Tensor& values, const Kernels& set) {
  require(values.dim() == 2 || values.dim() == 3, "values must be [rows, columns], or panels");
  const int64_t rows = values.dim() == 2 ? values.size(0) : values.size(1) * set.group;
  require(rows % 2 == 0, "an operand must have an even number of rows");
  return rows;
}

inline Storage values_of(const Tensor& values, const Kernels& set, int64_t rows, int64_t columns) {
  if (set.group == 1) return panels_of(values, set, rows, columns);
  check_words(values, set);
  require(values.dim() == 2 && values.size(0) == rows && values.stride(1) == 1 && values.size(1) >= columns + columns % 2 &&
              values.stride(0) % 2 == 0,
          "values must be [rows, columns] with even row strides");
  return {values.mutable_data_ptr(), values.stride(0)};
}

inline Operand operand_of(const Tensor& values, const Tensor& panels, const Kernels& set, int64_t columns) {
  const int64_t rows = rows_of(values, set);
  return {values_of(values, set, rows, columns), panels_of(panels, set, rows, columns), rows, columns};
}

// A packed weight that sums over `depth` and has so many columns.
inline void* pack_of(const Tensor& pack, const Kernels& set, int64_t depth, int64_t columns) {
  check_words(pack, set);
  require(pack.is_contiguous() && pack.dim() == 3 && pack.size(2) == set.group * set.panel &&
              pack.size(0) * set.panel >= columns && pack.size(1) == (depth + set.group - 1) / set.group &&
              reinterpret_cast<uintptr_t>(pack.const_data_ptr()) % 64 == 0,
          "a packed weight does not fit, or does not begin on a cache line");
  return pack.mutable_data_ptr();
}

inline float* floats_of(const Tensor& tensor, int64_t count, const char* name) {
  require(holds<float>(tensor) && tensor.is_contiguous() && tensor.numel() == count, name, " must be contiguous fp32, of ",
          count, " numbers");
  return target<float>(tensor);
}
inline float* floats_of(const OptionalTensor& tensor, int64_t count, const char* name) {
  return tensor ? floats_of(*tensor, count, name) : nullptr;
}

inline void check_lengths(bool fit) {
  require(fit, "a layer lacks one of its arguments");
}

// values: A_0, A_1, ..; panels: of A_1, .. . widths: of A_0, A_1, .. . streams: the words of all layers that have a threshold, a
// word for each pass.
inline void packed_linear_(const Tensors& values, const Tensors& panels, const Tensors& packs, const OptionalTensors& biases,
                           int64_t number, const Numbers& widths, const Floats& negative_slopes, const Numbers& thresholds,
                           const Floats& scales, const Numbers& streams, int64_t passes, int64_t seed, int64_t step,
                           int64_t first_row) {
  const Kernels& set = kernels_of(number);
  const size_t count = packs.size();
  check_lengths(values.size() > count && panels.size() >= count && biases.size() >= count && widths.size() > count &&
                negative_slopes.size() >= count && thresholds.size() >= count && scales.size() >= count);
  size_t drawn = 0;
  for (size_t l = 0; l < count; ++l) {
    const Operand out = operand_of(values[l + 1], panels[l], set, widths[l + 1]);
    Span<int64_t> words{nullptr, 0};
    if (thresholds[l]) {
      require(passes >= 1 && streams.size() >= drawn + passes, "a layer with dropout has a stream for each pass");
      words = {streams.data() + drawn, static_cast<size_t>(passes)};
      drawn += passes;
    }
    const MaskCounter masks{words,
                            out.rows / std::max<int64_t>(1, passes),
                            static_cast<uint32_t>(thresholds[l]),
                            static_cast<uint32_t>(step),
                            static_cast<uint32_t>(first_row),
                            static_cast<uint64_t>(seed),
                            scales[l]};
    set.linear({values_of(values[l], set, out.rows, widths[l]), out, pack_of(packs[l], set, widths[l], widths[l + 1]),
                widths[l], floats_of(biases[l], widths[l + 1], "bias"), static_cast<float>(negative_slopes[l]), masks});
  }
}

// x [rows, inputs] times a packed weight; activation: 0 identity, 1 tanh, 2 sigmoid.
inline void packed_output_(const Tensor& x, const Tensor& pack, const OptionalTensor& bias, int64_t number, int64_t inputs,
                           int64_t activation, const Tensor& out) {
  const Kernels& set = kernels_of(number);
  const int64_t rows = rows_of(x, set);
  require(holds<float>(out) && out.is_contiguous() && out.dim() == 2 && out.size(0) == rows,
          "out must be fp32 [rows, columns]");
  require(activation >= 0 && activation <= packed::kSigmoid, "unknown activation number ", activation);
  const int64_t columns = out.size(1);
  set.output({values_of(x, set, rows, inputs), rows, inputs, columns, pack_of(pack, set, inputs, columns),
              floats_of(bias, columns, "bias"), static_cast<packed::Activation>(activation), target<float>(out)});
}

// values: U_l, U_{l-1}, ..; panels, activations (values of A): of U_{l-1}, .. . widths: of U_l, U_{l-1}, ..
inline void packed_adjoint_(const Tensors& values, const Tensors& panels, const Tensors& packs, const Tensors& activations,
                            int64_t number, const Numbers& widths, const Floats& negative_slopes, const Floats& scales) {
  const Kernels& set = kernels_of(number);
  const size_t count = packs.size();
  check_lengths(values.size() > count && panels.size() >= count && activations.size() >= count && widths.size() > count &&
                negative_slopes.size() >= count && scales.size() >= count);
  for (size_t l = 0; l < count; ++l) {
    const Operand out = operand_of(values[l + 1], panels[l], set, widths[l + 1]);
    set.adjoint({values_of(values[l], set, out.rows, widths[l]), out, pack_of(packs[l], set, widths[l], widths[l + 1]),
                 widths[l], values_of(activations[l], set, out.rows, widths[l + 1]), static_cast<float>(negative_slopes[l]),
                 static_cast<float>(scales[l])});
  }
}

// tangents: T_0, T_1, ..; panels: of A_1, .., which become c A_1 + T_1, ..; activations: values of A_1, .. . Where an operand's
// values are no panels, tangents take the place of activations.
inline void packed_tangent_(const Tensors& tangents, const Tensors& panels, const Tensors& packs, const Tensors& activations,
                            const Tensor& coefficient, int64_t number, const Numbers& widths, const Floats& negative_slopes,
                            const Floats& scales) {
  const Kernels& set = kernels_of(number);
  const size_t count = packs.size();
  check_lengths(tangents.size() > count && panels.size() >= count && activations.size() >= count && widths.size() > count &&
                negative_slopes.size() >= count && scales.size() >= count);
  for (size_t l = 0; l < count; ++l) {
    const Operand out = operand_of(tangents[l + 1], panels[l], set, widths[l + 1]);
    set.tangent({values_of(tangents[l], set, out.rows, widths[l]), out, pack_of(packs[l], set, widths[l], widths[l + 1]),
                 widths[l], values_of(activations[l], set, out.rows, widths[l + 1]),
                 floats_of(coefficient, out.rows, "the coefficient"), static_cast<float>(negative_slopes[l]),
                 static_cast<float>(scales[l])});
  }
}

inline packed::Load load_of(const Tensor& first, const Tensor& values, const Tensor& panels, const Kernels& set) {
  require(holds<float>(first) && first.dim() == 2 && first.is_contiguous(), "rows must be contiguous fp32 [rows, columns]");
  const Operand out = operand_of(values, panels, set, first.size(1));
  require(first.size(0) <= out.rows, "more rows than the operand has");
  return {source<float>(first), nullptr, nullptr, first.size(0), packed::kIdentity, out};
}

inline void packed_load_(const Tensor& rows, int64_t number, const Tensor& values, const Tensor& panels) {
  const Kernels& set = kernels_of(number);
  set.load(load_of(rows, values, panels, set));
}

inline void packed_load_tangent_(const Tensor& tangent, const Tensor& rows, const Tensor& coefficient, int64_t number,
                                 const Tensor& values, const Tensor& panels) {
  const Kernels& set = kernels_of(number);
  packed::Load load = load_of(tangent, values, panels, set);
  load.second = floats_of(rows, tangent.numel(), "rows");
  load.coefficient = floats_of(coefficient, coefficient.numel(), "the coefficient");
  require(coefficient.numel() >= load.rows, "the coefficient must have a number for each row");
  set.load_tangent(load);
}

inline void packed_load_output_(const Tensor& gradient, const Tensor& output, int64_t number, int64_t activation,
                                const Tensor& values, const Tensor& panels) {
  const Kernels& set = kernels_of(number);
  packed::Load load = load_of(gradient, values, panels, set);
  load.second = floats_of(output, gradient.numel(), "output");
  require(activation >= 0 && activation <= packed::kSigmoid, "unknown activation number ", activation);
  load.activation = static_cast<packed::Activation>(activation);
  set.load_output(load);
}

// A layer's weight [out, in], bias and packs.
inline packed::Layer layer_of(const Tensor& weight, const OptionalTensor& bias, const Kernels& set) {
  require(holds<float>(weight) && weight.is_contiguous() && weight.dim() == 2, "weights must be contiguous fp32 [out, in]");
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  return {{}, {}, 0, outputs, inputs, target<float>(weight), floats_of(bias, outputs, "bias"), nullptr, nullptr};
}

inline void set_packs(packed::Layer& layer, const Tensor& forward, const Tensor& adjoint, const Kernels& set) {
  layer.forward = pack_of(forward, set, layer.inputs, layer.outputs);
  layer.adjoint = pack_of(adjoint, set, layer.outputs, layer.inputs);
}

inline void set_panels(packed::Layer& layer, const Tensor& upstream, const Tensor& x, const Kernels& set) {
  layer.rows = rows_of(x, set);
  layer.upstream = panels_of(upstream, set, layer.rows, layer.outputs);
  layer.x = panels_of(x, set, layer.rows, layer.inputs);
}

inline void packed_pack_(const Tensor& weight, int64_t number, const Tensor& forward, const Tensor& adjoint) {
  const Kernels& set = kernels_of(number);
  packed::Layer layer = layer_of(weight, std::nullopt, set);
  set_packs(layer, forward, adjoint, set);
  set.pack(layer);
}

inline void packed_gradient_(const Tensor& upstream, const Tensor& x, const Tensor& coefficient, int64_t number,
                             const Tensor& weight, const OptionalTensor& bias) {
  const Kernels& set = kernels_of(number);
  packed::Layer layer = layer_of(weight, bias, set);
  set_panels(layer, upstream, x, set);
  set.gradient(layer, floats_of(coefficient, layer.rows, "the coefficient"));
}

// update_ of csrc/bindings/update.h with the gradients of a chain of layers made on the way: upstream and x are panels, weights
// and biases the layers' parts of weight; their packs follow.
inline Tensor packed_update_(const Tensor& weight, const Tensors& state, const Tensor& lr, const Tensor& count,
                             const Tensor& withhold, const std::string& rule, const Floats& options, double clip,
                             const OptionalTensor& ema, double ema_decay, int64_t number, const Tensors& weights,
                             const OptionalTensors& biases, const Tensors& upstream, const Tensors& x,
                             const Tensor& coefficient, const Tensors& forward, const Tensors& adjoint) {
  const Kernels& set = kernels_of(number);
  const StepTensors tensors{weight, state, lr, count, withhold, ema};
  check(tensors);
  require(holds<float>(weight), "weight must be fp32");
  const size_t size = weights.size();
  check_lengths(biases.size() == size && upstream.size() == size && x.size() == size && forward.size() == size &&
                adjoint.size() == size);
  std::vector<packed::Layer> layers;
  for (size_t l = 0; l < size; ++l) {
    layers.push_back(layer_of(weights[l], biases[l], set));
    const auto is_part = [&](const Tensor& part) {
      const float *const first = source<float>(weight), *const at = source<float>(part);
      return at >= first && at + part.numel() <= first + weight.numel();
    };
    require(is_part(weights[l]) && (!biases[l] || is_part(*biases[l])), "weights and biases must be parts of weight");
    set_panels(layers.back(), upstream[l], x[l], set);
    set_packs(layers.back(), forward[l], adjoint[l], set);
  }
  const float* const c = floats_of(coefficient, layers.empty() ? 0 : layers[0].rows, "the coefficient");
  return with_step<float>(tensors, nullptr, rule, options, clip, ema_decay,
                          [&](const Step<float>& step) { return set.update(layers, c, step); });
}

inline void define_packed(Library& m) {
  m.def("instruction_sets() -> str");
  m.def(
      "packed_linear_(Tensor(a!)[] values, Tensor(b!)[] panels, Tensor[] packs, Tensor?[] biases, int set, int[] widths, "
      "float[] negative_slopes, int[] thresholds, float[] scales, int[] streams, int passes, int seed, int step, int first_row) "
      "-> ()");
  m.def("packed_output_(Tensor x, Tensor pack, Tensor? bias, int set, int inputs, int activation, Tensor(a!) out) -> ()");
  m.def(
      "packed_adjoint_(Tensor(a!)[] values, Tensor(b!)[] panels, Tensor[] packs, Tensor[] activations, int set, int[] widths, "
      "float[] negative_slopes, float[] scales) -> ()");
  m.def(
      "packed_tangent_(Tensor(a!)[] tangents, Tensor(b!)[] panels, Tensor[] packs, Tensor[] activations, Tensor coefficient, "
      "int set, int[] widths, float[] negative_slopes, float[] scales) -> ()");
  m.def("packed_load_(Tensor rows, int set, Tensor(a!) values, Tensor(b!) panels) -> ()");
  m.def(
      "packed_load_tangent_(Tensor tangent, Tensor rows, Tensor coefficient, int set, Tensor(a!) values, Tensor(b!) panels) "
      "-> ()");
  m.def(
      "packed_load_output_(Tensor gradient, Tensor output, int set, int activation, Tensor(a!) values, Tensor(b!) panels) -> ()");
  m.def("packed_pack_(Tensor weight, int set, Tensor(a!) forward, Tensor(b!) adjoint) -> ()");
  m.def("packed_gradient_(Tensor upstream, Tensor x, Tensor coefficient, int set, Tensor(a!) weight, Tensor(b!)? bias) -> ()");
  m.def("packed_update_(Tensor(a!) weight, Tensor(b!)[] state, " FASTGAN_RULE
        ", *, int set, Tensor[] weights, Tensor?[] biases, Tensor[] upstream, Tensor[] x, Tensor coefficient, "
        "Tensor(e!)[] forward, Tensor(f!)[] adjoint) -> Tensor");
}

inline void implement_packed(Library& m) {
  m.impl("packed_linear_", TORCH_BOX(&packed_linear_));
  m.impl("packed_output_", TORCH_BOX(&packed_output_));
  m.impl("packed_adjoint_", TORCH_BOX(&packed_adjoint_));
  m.impl("packed_tangent_", TORCH_BOX(&packed_tangent_));
  m.impl("packed_load_", TORCH_BOX(&packed_load_));
  m.impl("packed_load_tangent_", TORCH_BOX(&packed_load_tangent_));
  m.impl("packed_load_output_", TORCH_BOX(&packed_load_output_));
  m.impl("packed_pack_", TORCH_BOX(&packed_pack_));
  m.impl("packed_gradient_", TORCH_BOX(&packed_gradient_));
  m.impl("packed_update_", TORCH_BOX(&packed_update_));
}

}  // namespace fastgan::bindings
