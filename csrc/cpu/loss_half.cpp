// loss of fp16 logits, by way of fp32 copies: on a CPU they are too rare for passes of their own.

#include "loss.h"

#include "threads.h"

#include <vector>

namespace fastgan {
namespace {

constexpr int64_t kGrain = 1 << 16;  // logits that are worth a thread

// Memory of the calling thread, which it keeps: new pages would cost more than the pass. One for each of both sides' logits and
// gradients.
float* scratch(int place, int64_t count) {
  thread_local std::vector<float> kept[4];
  if (static_cast<int64_t>(kept[place].size()) < count) kept[place].resize(count);
  return kept[place].data();
}

FASTGAN_VARIANTS void widen(const half* from, float* to, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) to[i] = float(from[i]);
}

FASTGAN_VARIANTS void narrow_all(const float* from, half* to, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) to[i] = half(from[i]);
}

const float* copy_of(const half* logits, int place, int64_t count) {
  if (!logits) return nullptr;
  float* const copy = scratch(place, count);
  parallel(count, kGrain, [&](int64_t begin, int64_t end) { widen(logits, copy, begin, end); });
  return copy;
}

void write_back(const float* copy, half* gradient, int64_t count) {
  if (!gradient) return;
  parallel(count, kGrain, [&](int64_t begin, int64_t end) { narrow_all(copy, gradient, begin, end); });
}

// Both sides' copies; what run(batch) writes as gradients is written back.
template <class Run>
float with_copies(const Batch<half>& given, const Run& run) {
  Batch<float> batch{{}, {}, given.counts};
  for (const int side : {kReal, kFake}) {
    batch.logits[side] = copy_of(given.logits[side], side, given.counts[side]);
    if (given.gradients[side]) batch.gradients[side] = scratch(2 + side, given.counts[side]);
  }
  const float value = run(batch);
  for (const int side : {kReal, kFake}) write_back(batch.gradients[side], given.gradients[side], given.counts[side]);
  return value;
}

// The same of logits with labels, whose gradients are in fake's place; run(logits, labels, gradient).
template <class Run>
float with_labels(const half* logits, const half* labels, half* gradient, int64_t count, const Run& run) {
  return with_copies({{labels, logits}, {nullptr, gradient}, {count, count}}, [&](const Batch<float>& batch) {  //
    return run(batch.logits[kFake], batch.logits[kReal], batch.gradients[kFake]);
  });
}

}  // namespace

template <>
float loss(const Batch<half>& given, const Objective& objective) {
  return with_copies(given, [&](const Batch<float>& batch) { return loss(batch, objective); });
}

template <>
void loss_backward(const Batch<half>& given, const Objective& objective, float upstream) {
  with_copies(given, [&](const Batch<float>& batch) { return loss_backward(batch, objective, upstream), 0.0f; });
}

template <>
float loss_statistics(const Batch<half>& given, const Objective& objective, float* statistics) {
  return with_copies(given, [&](const Batch<float>& batch) { return loss_statistics(batch, objective, statistics); });
}

template <>
float loss_gradients(const Batch<half>& given, const Objective& objective, float* statistics) {
  return with_copies(given, [&](const Batch<float>& batch) { return loss_gradients(batch, objective, statistics); });
}

template <>
float bce(const half* logits, const half* labels, int64_t count, bool mean) {
  return with_labels(logits, labels, nullptr, count, [&](auto* x, auto* y, float*) { return bce(x, y, count, mean); });
}

template <>
void bce_backward(float upstream, const half* logits, const half* labels, half* gradient, int64_t count, bool mean) {
  with_labels(logits, labels, gradient, count, [&](auto* x, auto* y, float* out) {  //
    return bce_backward(upstream, x, y, out, count, mean), 0.0f;
  });
}

template <>
void loss_rows(const Batch<half>& given, const Objective& objective, float* values) {
  with_copies(given, [&](const Batch<float>& batch) { return loss_rows(batch, objective, values), 0.0f; });
}

template <>
void loss_rows_backward(const Batch<half>& given, const Objective& objective, Upstream<float> upstream) {
  with_copies(given, [&](const Batch<float>& batch) { return loss_rows_backward(batch, objective, upstream), 0.0f; });
}

template <>
void bce_rows(const half* logits, const half* labels, int64_t count, float* values) {
  with_labels(logits, labels, nullptr, count, [&](auto* x, auto* y, float*) { return bce_rows(x, y, count, values), 0.0f; });
}

template <>
void bce_rows_backward(Upstream<float> upstream, const half* logits, const half* labels, half* gradient, int64_t count) {
  with_labels(logits, labels, gradient, count, [&](auto* x, auto* y, float* out) {  //
    return bce_rows_backward(upstream, x, y, out, count), 0.0f;
  });
}

}  // namespace fastgan
