// loss: logits -> an objective's value and its gradient per logit. logit_loss.h says what the forms mean.
//
// A few logits are the work of one block in one launch. More are spread over the device: a launch for each phase, in which
// every block leaves its sums, in an order of its own, for the next launch to add up in the blocks' order. So the result
// is the same from run to run. Nothing waits for the device; upstream gradients are read in the kernel.

#include "loss_pass.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <string_view>
#include <tuple>

namespace {

template <class Visit>
constexpr int kInputs = 1;
template <template <class> class Item>
constexpr int kInputs<Both<Item>> = 2;

template <int wanted, class Visit, class scalar>
__global__ void __launch_bounds__(kThreads, kBlocks<scalar>) run(const __grid_constant__ Task<scalar> task) {
  __shared__ Found found;
  __shared__ BlockSums<kSums<wanted>> sums;
  __shared__ BlockSums<2> earlier;
  find_weight(task, found);
  if (task.logit_sums) find_shift(task, earlier.add_up_left(task.logit_sums, task.earlier_blocks), found);
  if (task.gradient_sums) find_offset(task, earlier.add_up_left(task.gradient_sums, task.earlier_blocks), found);
  Visit::template visit<wanted>(task, found, sums);
  if constexpr (asks(wanted, kValue)) {
    sums.add_up();
    task.partial ? sums.leave(task.partial) : write_value(task, sums);
  }
}

// `average` in one block.
template <int wanted, class scalar>
__global__ void __launch_bounds__(kThreads, kBlocks<scalar>) run_average(const __grid_constant__ Task<scalar> task) {
  __shared__ Found found;
  __shared__ BlockSums<kSums<wanted>> sums;
  __shared__ BlockSums<2> earlier;
  find_weight(task, found);
  Sides<Identity>::visit<kValue>(task, found, earlier);
  find_shift(task, earlier.add_up(), found);
  if constexpr (asks(wanted, kGradient)) {
    Sides<BceGradient>::visit<kValue>(task, found, earlier);
    find_offset(task, earlier.add_up(), found);
  }
  Sides<Bce>::visit<wanted>(task, found, sums);
  if constexpr (asks(wanted, kValue)) write_value(task, sums.add_up());
}

// Adds up what the blocks of a launch left.
template <int n, class scalar>
__global__ void finish(const __grid_constant__ Task<scalar> task) {
  __shared__ BlockSums<n> sums;
  write_value(task, sums.add_up_left(task.partial, task.blocks));
}

template <class scalar>
int64_t groups_of(const Task<scalar>& task, int side) {
  return (task.counts[side] + kGroup<scalar> - 1) / kGroup<scalar>;
}

// One block where a few logits are summed, otherwise as many as the device holds at a time or as there are tiles.
template <int wanted, class Visit, class scalar>
int blocks_for(const Task<scalar>& task) {
  if (asks(wanted, kValue) && task.counts[kReal] + task.counts[kFake] <= kFew) return 1;
  const int64_t tile = kThreads * together(asks(wanted, kGradient), kInputs<Visit>);
  const int64_t fake_tiles = (groups_of(task, kFake) + tile - 1) / tile;
  return grid_for(kInputs<Visit> == 2 ? fake_tiles : fake_tiles + (groups_of(task, kReal) + tile - 1) / tile);
}

template <class scalar>
int threads_for(const Task<scalar>& task) {
  return block_for(task.blocks == 1 ? std::max(groups_of(task, kReal), groups_of(task, kFake)) : kThreads);
}

Tensor empty_sums(int launches, int blocks, int n, const Tensor& like) {
  return at::empty({launches, blocks, n}, like.options().dtype(at::kDouble));
}

template <int wanted, class Visit, class scalar>
void start(const Task<scalar>& task) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  run<wanted, Visit><<<task.blocks, threads_for(task), 0, stream>>>(task);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <int wanted, class Visit, class scalar>
void launch(Task<scalar> task, const Tensor& like) {
  constexpr int n = kSums<wanted>;
  task.blocks = blocks_for<wanted, Visit>(task);
  if (!asks(wanted, kValue) || task.blocks == 1) return start<wanted, Visit>(task);
  const Tensor partial = empty_sums(1, task.blocks, n, like);
  task.partial = partial.mutable_data_ptr<double>();
  start<wanted, Visit>(task);
  finish<n><<<1, block_for(task.blocks), 0, c10::cuda::getCurrentCUDAStream()>>>(task);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <int wanted, class scalar>
void launch_average(Task<scalar> task, const Tensor& like) {
  Task<scalar> earlier = task;
  earlier.blocks = blocks_for<kValue, Sides<Identity>>(task);
  if (earlier.blocks == 1) {
    run_average<wanted><<<1, threads_for(task), 0, c10::cuda::getCurrentCUDAStream()>>>(task);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return;
  }
  const Tensor sums = empty_sums(2, earlier.blocks, 2, like);
  task.earlier_blocks = earlier.earlier_blocks = earlier.blocks;
  earlier.partial = sums.mutable_data_ptr<double>();
  start<kValue, Sides<Identity>>(earlier);
  task.logit_sums = earlier.logit_sums = earlier.partial;
  if constexpr (asks(wanted, kGradient)) {
    earlier.partial += 2 * earlier.blocks;
    start<kValue, Sides<BceGradient>>(earlier);
    task.gradient_sums = earlier.partial;
  }
  launch<wanted, Sides<Bce>>(task, like);
}

template <int wanted, template <class> class LogitLoss, class scalar>
void launch_sides(Form<LogitLoss>, const Task<scalar>& task, const Tensor& like) {
  launch<wanted, Sides<LogitLoss>>(task, like);
}

template <int wanted, class scalar>
void evaluate(const Task<scalar>& task, std::string_view form, const Tensor& like) {
  if (form == kPaired) return launch<wanted, Both<Pairs>>(task, like);
  if (form == kAverage) return launch_average<wanted>(task, like);
  visit_form(form, [&](auto sides) { launch_sides<wanted>(sides, task, like); });
}

template <class scalar>
Task<scalar> task_of(const Tensor& real, const Tensor& fake, const Tensor& real_gradient, const Tensor& fake_gradient) {
  Task<scalar> task;
  const auto place = [&](int side, const Tensor& logits, const Tensor& gradient) {
    if (!logits.defined()) return;
    task.logits[side] = logits.const_data_ptr<scalar>();
    task.counts[side] = logits.numel();
    if (gradient.defined()) task.gradients[side] = gradient.mutable_data_ptr<scalar>();
    task.aligned = task.aligned && is_aligned(task.logits[side]) && is_aligned(task.gradients[side]);
  };
  place(kReal, real, real_gradient);
  place(kFake, fake, fake_gradient);
  return task;
}

template <class scalar>
Task<scalar> task_of(const Tensor& real, const Tensor& fake, const Tensor& real_gradient, const Tensor& fake_gradient,
                     const Objective& objective) {
  auto task = task_of<scalar>(real, fake, real_gradient, fake_gradient);
  for (const int side : {kReal, kFake}) {
    task.target[side] = objective.target[side];
    task.weight[side] = objective.mean ? objective.scale / task.counts[side] : objective.scale;
  }
  if (!task.logits[kReal]) task.weight[kReal] = 0.0;
  return task;
}

Tensor loss(const OptionalTensor& real_logits, const Tensor& fake_logits, std::string_view form, double fake_target,
            double real_target, double scale, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check(objective, real, fake);
  const c10::cuda::CUDAGuard guard(fake.device());
  Tensor value = at::empty({}, fake.options().dtype(wide_type(fake)));
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    auto task = task_of<scalar_t>(real, fake, {}, {}, objective);
    task.value = value.mutable_data_ptr<wide_t<scalar_t>>();
    evaluate<kValue>(task, form, fake);
  });
  return value;
}

std::tuple<Tensor, Tensor> loss_backward(const Tensor& upstream, const OptionalTensor& real_logits, const Tensor& fake_logits,
                                         bool want_real, std::string_view form, double fake_target, double real_target,
                                         double scale, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check(objective, real, fake);
  const c10::cuda::CUDAGuard guard(fake.device());
  check_upstream(upstream, fake);
  const Tensor real_gradient = want_real && real.defined() ? at::empty_like(real) : Tensor();
  const Tensor fake_gradient = at::empty_like(fake);
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    auto task = task_of<scalar_t>(real, fake, real_gradient, fake_gradient, objective);
    task.upstream = upstream.const_data_ptr<wide_t<scalar_t>>();
    evaluate<kGradient>(task, form, fake);
  });
  return {real_gradient, fake_gradient};
}

std::tuple<Tensor, Tensor> loss_statistics(const OptionalTensor& real_logits, const Tensor& fake_logits, std::string_view form,
                                           double fake_target, double real_target, double scale, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check(objective, real, fake);
  const c10::cuda::CUDAGuard guard(fake.device());
  const auto scalars = fake.options().dtype(wide_type(fake));
  Tensor value = at::empty({}, scalars), statistics = at::empty({4}, scalars);
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    auto task = task_of<scalar_t>(real, fake, {}, {}, objective);
    task.value = value.mutable_data_ptr<wide_t<scalar_t>>();
    task.statistics = statistics.mutable_data_ptr<wide_t<scalar_t>>();
    evaluate<kValue | kStatistics>(task, form, fake);
  });
  return {value, statistics};
}

std::tuple<Tensor, Tensor> loss_gradients_(const OptionalTensor& real_logits, const Tensor& fake_logits,
                                           const OptionalTensor& real_gradients, const Tensor& fake_gradient,
                                           std::string_view form, double fake_target, double real_target, double scale,
                                           bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Tensor real = dense(real_logits), fake = fake_logits.contiguous();
  check(objective, real, fake);
  const c10::cuda::CUDAGuard guard(fake.device());
  const auto scalars = fake.options().dtype(wide_type(fake));
  Tensor value = at::empty({}, scalars), statistics = at::empty({4}, scalars);
  const Tensor real_gradient = real.defined() && real_gradients.has_value() ? *real_gradients : Tensor();
  const auto fits = [](const Tensor& gradient, const Tensor& logits) {
    return gradient.is_contiguous() && gradient.scalar_type() == logits.scalar_type() && gradient.numel() == logits.numel() &&
           gradient.device() == logits.device();
  };
  TORCH_CHECK(fits(fake_gradient, fake) && (!real.defined() || (real_gradient.defined() && fits(real_gradient, real))),
              "gradients must be contiguous, and as many as the logits");
  FASTGAN_LOGITS(fake.scalar_type(), [&] {
    auto task = task_of<scalar_t>(real, fake, real_gradient, fake_gradient, objective);
    task.value = value.mutable_data_ptr<wide_t<scalar_t>>();
    task.statistics = statistics.mutable_data_ptr<wide_t<scalar_t>>();
    evaluate<kValue | kGradient | kStatistics>(task, form, fake);
  });
  return {value, statistics};
}

// A task's labels are in real's place, apart from its count.
template <class scalar>
Task<scalar> labelled(const Tensor& x, const Tensor& labels, const Tensor& gradient, bool mean) {
  auto task = task_of<scalar>(labels, x, {}, gradient);
  task.counts[kReal] = 0;
  task.weight[kFake] = mean ? 1.0 / task.counts[kFake] : 1.0;
  return task;
}

Tensor bce(const Tensor& x, const Tensor& labels, bool mean) {
  check_labels(x, labels);
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor logits = x.contiguous(), targets = labels.contiguous();
  Tensor value = at::empty({}, logits.options().dtype(wide_type(logits)));
  FASTGAN_LOGITS(logits.scalar_type(), [&] {
    auto task = labelled<scalar_t>(logits, targets, {}, mean);
    task.value = value.mutable_data_ptr<wide_t<scalar_t>>();
    launch<kValue, Both<Labelled>>(task, logits);
  });
  return value;
}

Tensor bce_backward(const Tensor& upstream, const Tensor& x, const Tensor& labels, bool mean) {
  check_labels(x, labels);
  const c10::cuda::CUDAGuard guard(x.device());
  check_upstream(upstream, x);
  const Tensor logits = x.contiguous(), targets = labels.contiguous(), gradient = at::empty_like(logits);
  FASTGAN_LOGITS(logits.scalar_type(), [&] {
    auto task = labelled<scalar_t>(logits, targets, gradient, mean);
    task.upstream = upstream.const_data_ptr<wide_t<scalar_t>>();
    launch<kGradient, Both<Labelled>>(task, logits);
  });
  return gradient;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("loss", &loss);
  m.impl("loss_backward", &loss_backward);
  m.impl("loss_gradients_", &loss_gradients_);
  m.impl("loss_statistics", &loss_statistics);
  m.impl("bce", &bce);
  m.impl("bce_backward", &bce_backward);
}
