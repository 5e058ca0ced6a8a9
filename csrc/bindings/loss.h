// loss: csrc/logit_loss.h names the forms. Values and statistics are fp32, or fp64 for fp64 logits; gradients are like the
// logits. No autograd here. `real` is None where the objective looks at fake logits alone; its gradient is then undefined
// (None), its statistics 0. statistics [4]: the mean logits of real and of fake, and the mean of the signs of both.
#pragma once

#include "../cpu/loss.h"
#include "tensors.h"

namespace fastgan::bindings {

// Contiguous logits, whose dtype a visitor is called with.
struct Sides {
  OptionalTensor real;
  Tensor fake;

  Sides(const OptionalTensor& real_logits, const Tensor& fake_logits, const Objective& objective) : fake(dense(fake_logits)) {
    if (real_logits && real_logits->defined()) real = dense(*real_logits);
    require(real || !compares(objective), "this form compares fake with real logits");
    require(!real || dtype_of(*real) == dtype_of(fake), "real and fake differ in dtype");
    require(!is_paired(objective) || real->numel() == fake.numel(), "real and fake differ in number");
  }

  template <class scalar>
  Batch<scalar> batch(const OptionalTensor& real_gradient = {}, const OptionalTensor& fake_gradient = {}) const {
    return {{source<scalar>(real), source<scalar>(fake)},
            {target<scalar>(real_gradient), target<scalar>(fake_gradient)},
            {real ? real->numel() : 0, fake.numel()}};
  }
};

template <class Visit>
void visit_logits(const Tensor& logits, const Visit& visit) {
  visit_dtype<float, bf16, double, half>(logits, "fastgan::loss has no kernel for this dtype", visit);
}

template <class scalar>
Tensor empty_scalar() {
  return empty<wide_t<scalar>>(nullptr, 0);
}

template <class scalar>
wide_t<scalar> upstream_of(const Tensor& upstream) {
  require(upstream.dim() == 0 && holds<wide_t<scalar>>(upstream), "the upstream gradient is not like the value");
  return *source<wide_t<scalar>>(upstream);
}

inline void check_labels(const Tensor& x, const Tensor& labels) {
  require(same_sizes(x, labels) && dtype_of(x) == dtype_of(labels), "labels must be like the logits");
}

#define FASTGAN_FORM_ARGUMENTS const std::string &form, double fake_target, double real_target, double scale

inline Tensor loss(const OptionalTensor& real, const Tensor& fake, FASTGAN_FORM_ARGUMENTS, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Sides sides(real, fake, objective);
  Tensor value;
  visit_logits(fake, [&](auto scalar) {
    using S = decltype(scalar);
    value = empty_scalar<S>();
    *target<wide_t<S>>(value) = fastgan::loss(sides.batch<S>(), objective);
  });
  return value;
}

inline std::tuple<Tensor, Tensor> loss_backward(const Tensor& upstream, const OptionalTensor& real, const Tensor& fake,
                                                bool want_real, FASTGAN_FORM_ARGUMENTS, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Sides sides(real, fake, objective);
  Tensor real_gradient, fake_gradient;
  visit_logits(fake, [&](auto scalar) {
    using S = decltype(scalar);
    const auto above = upstream_of<S>(upstream);
    if (want_real && sides.real) real_gradient = empty_like<S>(*sides.real);
    fake_gradient = empty_like<S>(sides.fake);
    const OptionalTensor real_place = want_real && sides.real ? OptionalTensor(real_gradient) : std::nullopt;
    fastgan::loss_backward(sides.batch<S>(real_place, fake_gradient), objective, above);
  });
  return {real_gradient, fake_gradient};
}

// run(batch, statistics) writes statistics and returns the value.
template <class Run>
std::tuple<Tensor, Tensor> with_statistics(const Sides& sides, const OptionalTensor& real_gradient,
                                           const OptionalTensor& fake_gradient, const Run& run) {
  Tensor value, statistics;
  visit_logits(sides.fake, [&](auto scalar) {
    using S = decltype(scalar);
    using T = wide_t<S>;
    const int64_t four = 4;
    value = empty_scalar<S>(), statistics = empty<T>(&four, 1);
    *target<T>(value) = run(sides.batch<S>(real_gradient, fake_gradient), target<T>(statistics));
  });
  return {value, statistics};
}

inline std::tuple<Tensor, Tensor> loss_statistics(const OptionalTensor& real, const Tensor& fake, FASTGAN_FORM_ARGUMENTS,
                                                  bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  return with_statistics({real, fake, objective}, {}, {}, [&](const auto& batch, auto* statistics) {
    return fastgan::loss_statistics(batch, objective, statistics);
  });
}

inline std::tuple<Tensor, Tensor> loss_gradients_(const OptionalTensor& real, const Tensor& fake,
                                                  const OptionalTensor& real_gradient, const Tensor& fake_gradient,
                                                  FASTGAN_FORM_ARGUMENTS, bool mean) {
  const Objective objective{form, {real_target, fake_target}, scale, mean};
  const Sides sides(real, fake, objective);
  const auto fits = [](const Tensor& gradient, const Tensor& logits) {
    return gradient.is_contiguous() && dtype_of(gradient) == dtype_of(logits) && gradient.numel() == logits.numel();
  };
  require(fits(fake_gradient, sides.fake) && (!sides.real || (real_gradient && fits(*real_gradient, *sides.real))),
          "gradients must be contiguous, and as many as the logits");
  const OptionalTensor real_place = sides.real ? real_gradient : std::nullopt;
  return with_statistics(sides, real_place, fake_gradient, [&](const auto& batch, auto* statistics) {
    return fastgan::loss_gradients(batch, objective, statistics);
  });
}

inline Tensor bce(const Tensor& x, const Tensor& labels, bool mean) {
  check_labels(x, labels);
  const Tensor logits = dense(x), targets = dense(labels);
  Tensor value;
  visit_logits(logits, [&](auto scalar) {
    using S = decltype(scalar);
    value = empty_scalar<S>();
    *target<wide_t<S>>(value) = fastgan::bce(source<S>(logits), source<S>(targets), logits.numel(), mean);
  });
  return value;
}

inline Tensor bce_backward(const Tensor& upstream, const Tensor& x, const Tensor& labels, bool mean) {
  check_labels(x, labels);
  const Tensor logits = dense(x), targets = dense(labels);
  Tensor gradient;
  visit_logits(logits, [&](auto scalar) {
    using S = decltype(scalar);
    const auto above = upstream_of<S>(upstream);
    gradient = empty_like<S>(logits);
    fastgan::bce_backward(above, source<S>(logits), source<S>(targets), target<S>(gradient), logits.numel(), mean);
  });
  return gradient;
}

// An argument costs a caller 0.2 us, so the defaults are those of a discriminator's mean.
#define FASTGAN_FORM "str form, float fake_target=0.0, float real_target=1.0, float scale=1.0"
#define FASTGAN_OBJECTIVE FASTGAN_FORM ", bool mean=True"

inline void define_loss(Library& m) {
  m.def("loss(Tensor? real, Tensor fake, " FASTGAN_OBJECTIVE ") -> Tensor");
  m.def("loss_backward(Tensor upstream, Tensor? real, Tensor fake, bool want_real, " FASTGAN_OBJECTIVE
        ") -> (Tensor real_gradient, Tensor fake_gradient)");
  m.def("loss_gradients_(Tensor? real, Tensor fake, Tensor(a!)? real_gradient, Tensor(b!) fake_gradient, " FASTGAN_OBJECTIVE
        ") -> (Tensor value, Tensor statistics)");
  m.def("loss_statistics(Tensor? real, Tensor fake, " FASTGAN_OBJECTIVE ") -> (Tensor value, Tensor statistics)");
  m.def("bce(Tensor x, Tensor labels, bool mean) -> Tensor");
  m.def("bce_backward(Tensor upstream, Tensor x, Tensor labels, bool mean) -> Tensor");
}

inline void implement_loss(Library& m) {
  m.impl("loss", TORCH_BOX(&loss));
  m.impl("loss_backward", TORCH_BOX(&loss_backward));
  m.impl("loss_gradients_", TORCH_BOX(&loss_gradients_));
  m.impl("loss_statistics", TORCH_BOX(&loss_statistics));
  m.impl("bce", TORCH_BOX(&bce));
  m.impl("bce_backward", TORCH_BOX(&bce_backward));
}

}  // namespace fastgan::bindings
