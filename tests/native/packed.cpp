// The packed products of an instruction set, SET, and the templates of AVX-512's on portable vectors of their width, against plain
// loops. Numbers are multiples of 1/16 below 2, which bf16 and all sums of their products hold exactly.
#include "check.h"
#include "cpu/packed/any_processor.h"
#include "cpu/packed/instantiate.h"
#include "cpu/packed/isa_portable.h"

#include <memory>

namespace {

using namespace fastgan;
using namespace fastgan::packed;

constexpr float kSlope = 0.25f, kScale = 2.0f;
constexpr uint32_t kThreshold = 32768;

const Kernels* set;
Numbers numbers;

std::vector<float> some(int64_t count) {
  std::vector<float> made = numbers.make<float>(count, 31.0);
  for (float& number : made) number = std::round(number) / 16;
  return made;
}

// Zeros that begin on a cache line, kept to the program's end.
void* zeros(int64_t bytes) {
  static std::vector<std::unique_ptr<void, decltype(&std::free)>> kept;
  const size_t size = (bytes + 63) / 64 * 64;
  kept.emplace_back(std::memset(std::aligned_alloc(64, size), 0, size), &std::free);
  return kept.back().get();
}

int64_t parts(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

Storage new_panels(int64_t rows, int64_t columns) {
  const int64_t stride = rows / set->group * set->panel;
  return {zeros(parts(columns, set->panel) * stride * 4), stride};
}

Operand new_operand(int64_t rows, int64_t columns) {
  const Storage panels = new_panels(rows, columns);
  if (set->group == 1) return {panels, panels, rows, columns};
  const int64_t stride = columns + columns % 2 + 32;
  return {{zeros(rows * stride * 2), stride}, panels, rows, columns};
}

float read_panel(Storage panels, int64_t row, int64_t column) {
  const auto* word = static_cast<uint32_t*>(panels.at) + column / set->panel * panels.stride + row / set->group * set->panel +
                     column % set->panel;
  return set->group == 1 ? bit_cast<float>(*word) : bit_cast<float>(*word >> 16 * (row % 2) << 16);
}

float read_value(Storage values, int64_t row, int64_t column) {
  if (set->group == 1) return read_panel(values, row, column);
  return bit_cast<float>(static_cast<uint32_t>(static_cast<uint16_t*>(values.at)[row * values.stride + column]) << 16);
}

bool same(float got, double expected) {
  return close(got, expected, set->group == 1 ? 1e-6 : 0x1p-8);
}

Operand loaded(const std::vector<float>& rows, int64_t count, int64_t columns) {
  const Operand out = new_operand(count, columns);
  set->load({rows.data(), nullptr, nullptr, count, kIdentity, out});
  for (int64_t i = 0; i < count * columns; ++i) {
    CHECK(read_value(out.values, i / columns, i % columns) == rows[i]);
    CHECK(read_panel(out.panels, i / columns, i % columns) == rows[i]);
  }
  return out;
}

struct Weights {
  int64_t outputs, inputs;
  std::vector<float> weight, bias;
  Layer layer;

  Weights(int64_t outputs, int64_t inputs)
      : outputs(outputs), inputs(inputs), weight(some(outputs * inputs)), bias(some(outputs)),
        layer{{}, {}, 0, outputs, inputs, weight.data(), bias.data(), nullptr, nullptr} {
    const int64_t line = set->panel * 4;
    layer.forward = zeros(parts(outputs, set->panel) * parts(inputs, set->group) * line);
    layer.adjoint = zeros(parts(inputs, set->panel) * parts(outputs, set->group) * line);
    set->pack(layer);
  }
  double times(const std::vector<float>& x, int64_t row, int64_t output) const {
    double sum = 0;
    for (int64_t k = 0; k < inputs; ++k) sum += double(x[row * inputs + k]) * weight[output * inputs + k];
    return sum;
  }
};

bool is_kept(const MaskCounter& masks, int64_t row, int64_t column) {
  const uint32_t stream = static_cast<uint32_t>(masks.streams[row / masks.rows]);
  const uint32_t line = masks.first_row + static_cast<uint32_t>(row % masks.rows);
  const auto words = philox({static_cast<uint32_t>(column / 8), line, masks.step, stream}, masks.seed);
  return (words[column % 8 / 2] >> 16 * (column % 2) & 0xffff) >= masks.threshold;
}

void check_linear(int64_t rows, int64_t inputs, int64_t outputs, bool drops) {
  const Weights w(outputs, inputs);
  const std::vector<float> x = some(rows * inputs);
  const Operand in = loaded(x, rows, inputs), out = new_operand(rows, outputs);
  const int64_t streams[] = {5, 9};
  const MaskCounter masks{{streams, drops ? 2u : 0u}, rows / 2, kThreshold, 3, 11, 77, kScale};
  set->linear({in.values, out, w.layer.forward, inputs, w.bias.data(), kSlope, masks});
  std::vector<float> result(rows * outputs), input_gradient(rows * inputs);
  set->output({in.values, rows, inputs, outputs, w.layer.forward, w.bias.data(), kTanh, result.data()});
  for (int64_t i = 0; i < rows * outputs; ++i) {
    const int64_t row = i / outputs, column = i % outputs;
    const double pre = w.times(x, row, column) + w.bias[column], leaky = pre > 0 ? pre : kSlope * pre;
    const float got = read_value(out.values, row, column);
    const bool kept = !drops || is_kept(masks, row, column);
    CHECK(kept ? same(got, (drops ? kScale : 1.0) * leaky) && std::signbit(got) == !(pre > 0) : got == 0 && !std::signbit(got));
    CHECK(read_panel(out.panels, row, column) == got);
    CHECK(close(result[i], std::tanh(pre), 1e-6));
  }
}

// U = m * (upstream W), and T = m * (x V^T) with c A + T, by the slopes of activations between two layers.
void check_adjoint_and_tangent(int64_t rows, int64_t inputs, int64_t width, int64_t outputs) {
  const Weights above(outputs, width), below(width, inputs);
  std::vector<float> a = some(rows * width), u = some(rows * outputs), x = some(rows * inputs), c = some(rows);
  for (size_t i = 0; i < a.size(); i += 5) a[i] = i % 2 ? 0.0f : -0.0f;
  const Operand made = loaded(a, rows, width), upstream = loaded(u, rows, outputs), in = loaded(x, rows, inputs);
  const Operand adjoint = new_operand(rows, width);
  set->adjoint({upstream.values, adjoint, above.layer.adjoint, outputs, made.values, kSlope, kScale});
  Operand tangent{made.values, made.panels, rows, width};
  if (set->group == 1) tangent.values = new_panels(rows, width);
  set->tangent({in.values, tangent, below.layer.forward, inputs, made.values, c.data(), kSlope, kScale});
  for (int64_t i = 0; i < rows * width; ++i) {
    const int64_t row = i / width, column = i % width;
    const double m = std::signbit(a[i]) ? kSlope * kScale : a[i] == 0 ? 0.0 : kScale;
    double down = 0;
    for (int64_t k = 0; k < outputs; ++k) down += double(u[row * outputs + k]) * above.weight[k * width + column];
    CHECK(same(read_value(adjoint.values, row, column), m * down) && same(read_panel(adjoint.panels, row, column), m * down));
    const double t = m * below.times(x, row, column);
    CHECK(same(read_value(tangent.values, row, column), t));
    CHECK(same(read_panel(tangent.panels, row, column), c[row] * a[i] + t));
  }
}

// Gradients are exact here, so a step on the way is the step that `update` makes of them, to some last bits.
void check_update(int64_t rows, int64_t inputs, int64_t outputs) {
  std::vector<float> x = some(rows * inputs), u = some(rows * outputs), c = some(rows), flat, mean, square;
  const Operand in = loaded(x, rows, inputs), upstream = loaded(u, rows, outputs);
  Weights w(outputs, inputs);
  flat = w.weight;
  flat.insert(flat.end(), w.bias.begin(), w.bias.end());
  mean = some(flat.size()), square.assign(flat.size(), 0.5f);
  std::vector<float> gradient(flat.size()), plain = flat, plain_mean = mean, plain_square = square;
  Layer layer{upstream.panels, in.panels,      rows, outputs, inputs, gradient.data(), gradient.data() + outputs * inputs,
              w.layer.forward, w.layer.adjoint};
  set->gradient(layer, c.data());
  for (int64_t o = 0; o < outputs; ++o) {
    double bias = 0;
    for (int64_t row = 0; row < rows; ++row) bias += double(u[row * outputs + o]) * c[row];
    CHECK(gradient[outputs * inputs + o] == bias);
    for (int64_t i = 0; i < inputs; ++i) {
      double sum = 0;
      for (int64_t row = 0; row < rows; ++row) sum += double(u[row * outputs + o]) * x[row * inputs + i];
      CHECK(gradient[o * inputs + i] == sum);
    }
  }
  const double options[] = {0.5, 0.99, 1e-8, 0.1};
  const auto step_of = [&](std::vector<float>& weights, float* const(&state)[2]) {
    return Step<float>{weights.data(),
                       gradient.data(),
                       static_cast<int64_t>(weights.size()),
                       {state, 2},
                       nullptr,
                       "adam",
                       {options, 4},
                       0.01,
                       3.0,
                       0.0,
                       0.0,
                       false};
  };
  float *const state[] = {mean.data(), square.data()}, *const plain_state[] = {plain_mean.data(), plain_square.data()};
  layer.weight = flat.data(), layer.bias = flat.data() + outputs * inputs;
  const StepResult result = set->update({layer}, c.data(), step_of(flat, state));
  const StepResult expected = update(step_of(plain, plain_state));
  CHECK(close(result.squares / expected.squares, 1, 1e-5) && result.not_finite == 0 && expected.not_finite == 0);
  for (size_t i = 0; i < flat.size(); ++i)
    CHECK(close(flat[i], plain[i], 1e-5) && close(mean[i], plain_mean[i], 1e-5) && close(square[i], plain_square[i], 1e-5));
  std::copy_n(flat.begin(), w.weight.size(), w.weight.begin());
  Weights fresh = w;
  fresh.layer.weight = fresh.weight.data();
  const int64_t line = set->panel * 4, forward = parts(outputs, set->panel) * parts(inputs, set->group) * line;
  const int64_t adjoint = parts(inputs, set->panel) * parts(outputs, set->group) * line;
  fresh.layer.forward = zeros(forward), fresh.layer.adjoint = zeros(adjoint);
  set->pack(fresh.layer);
  CHECK(!std::memcmp(fresh.layer.forward, layer.forward, forward) && !std::memcmp(fresh.layer.adjoint, layer.adjoint, adjoint));
}

constexpr Kernels kAsAvx512 = kernels_of<Portable<16, 1, 4, 6>>("portable, as avx512");
constexpr Kernels kAsBf16 = kernels_of<Portable<16, 2, 4, 6>>("portable, as avx512-bf16");

}  // namespace

int main() {
  for (const Kernels* each : {SET(), &kAsAvx512, &kAsBf16}) {
    if (!each) continue;
    set = each;
    std::printf("%s\n", set->name);
    for (const int64_t rows : {2, 14, 52}) {
      check_linear(rows, 37, 83, false);
      check_linear(rows, 5, 16, true);
      check_adjoint_and_tangent(rows, 19, 70, 3);
      check_update(rows, 70, 33);
    }
    check_update(300, 16, 1);
  }
}
