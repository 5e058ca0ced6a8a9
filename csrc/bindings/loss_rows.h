// loss without a reduction: values and upstream gradients are like the logits, but wide. Not for `average`.
#pragma once

#include "loss.h"

namespace fastgan::bindings {

inline void check_rows(const Objective& objective, const OptionalTensor& real, const Tensor& fake) {
  require(!is_average(objective), "a row of this form depends on the others");
  require(!real || same_sizes(*real, fake), "real and fake differ in shape");
}

template <class T>
struct Upstreams {
  Tensor kept;
  Upstream<T> upstream;

  Upstreams(const Tensor& given, const Tensor& logits) : kept(given), upstream{nullptr, T(0)} {
    require(same_sizes(given, logits) && holds<T>(given), "the upstream gradient is not like the values");
    const auto strides = given.strides();
    const bool same = std::all_of(strides.begin(), strides.end(), [](int64_t stride) { return stride == 0; });
    if (same && given.numel() > 0) {
      upstream.one = *source<T>(given);
    } else {
      kept = dense(given);
      upstream.each = source<T>(kept);
    }
  }
};

inline Tensor loss_rows(const OptionalTensor& real, const Tensor& fake, FASTGAN_FORM_ARGUMENTS) {
  const Objective objective{form, {real_target, fake_target}, scale, false};
  const Sides sides(real, fake, objective);
  check_rows(objective, sides.real, sides.fake);
  Tensor values;
  visit_logits(fake, [&](auto scalar) {
    using S = decltype(scalar);
    values = empty_like<wide_t<S>>(fake);
    fastgan::loss_rows(sides.batch<S>(), objective, target<wide_t<S>>(values));
  });
  return values;
}

inline std::tuple<Tensor, Tensor> loss_rows_backward(const Tensor& upstream, const OptionalTensor& real, const Tensor& fake,
                                                     bool want_real, FASTGAN_FORM_ARGUMENTS) {
  const Objective objective{form, {real_target, fake_target}, scale, false};
  const Sides sides(real, fake, objective);
  check_rows(objective, sides.real, sides.fake);
  Tensor real_gradient, fake_gradient;
  visit_logits(fake, [&](auto scalar) {
    using S = decltype(scalar);
    const Upstreams<wide_t<S>> above(upstream, fake);
    if (want_real && sides.real) real_gradient = empty_like<S>(*sides.real);
    fake_gradient = empty_like<S>(sides.fake);
    const OptionalTensor real_place = want_real && sides.real ? OptionalTensor(real_gradient) : std::nullopt;
    fastgan::loss_rows_backward(sides.batch<S>(real_place, fake_gradient), objective, above.upstream);
  });
  return {real_gradient, fake_gradient};
}

inline Tensor bce_rows(const Tensor& x, const Tensor& labels) {
  check_labels(x, labels);
  const Tensor logits = dense(x), targets = dense(labels);
  Tensor values;
  visit_logits(logits, [&](auto scalar) {
    using S = decltype(scalar);
    values = empty_like<wide_t<S>>(logits);
    fastgan::bce_rows(source<S>(logits), source<S>(targets), logits.numel(), target<wide_t<S>>(values));
  });
  return values;
}

inline Tensor bce_rows_backward(const Tensor& upstream, const Tensor& x, const Tensor& labels) {
  check_labels(x, labels);
  const Tensor logits = dense(x), targets = dense(labels);
  Tensor gradient;
  visit_logits(logits, [&](auto scalar) {
    using S = decltype(scalar);
    const Upstreams<wide_t<S>> above(upstream, x);
    gradient = empty_like<S>(logits);
    fastgan::bce_rows_backward(above.upstream, source<S>(logits), source<S>(targets), target<S>(gradient), logits.numel());
  });
  return gradient;
}

inline void define_loss_rows(Library& m) {
  m.def("loss_rows(Tensor? real, Tensor fake, " FASTGAN_FORM ") -> Tensor");
  m.def("loss_rows_backward(Tensor upstream, Tensor? real, Tensor fake, bool want_real, " FASTGAN_FORM
        ") -> (Tensor real_gradient, Tensor fake_gradient)");
  m.def("bce_rows(Tensor x, Tensor labels) -> Tensor");
  m.def("bce_rows_backward(Tensor upstream, Tensor x, Tensor labels) -> Tensor");
}

inline void implement_loss_rows(Library& m) {
  m.impl("loss_rows", TORCH_BOX(&loss_rows));
  m.impl("loss_rows_backward", TORCH_BOX(&loss_rows_backward));
  m.impl("bce_rows", TORCH_BOX(&bce_rows));
  m.impl("bce_rows_backward", TORCH_BOX(&bce_rows_backward));
}

}  // namespace fastgan::bindings
