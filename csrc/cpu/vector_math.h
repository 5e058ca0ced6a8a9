// Elementary functions as plain arithmetic that compilers vectorise, and loops compiled for several processors.
#pragma once

#include "half.h"

// A function so marked is compiled once per instruction set; which copy runs is decided when the library is loaded.
// What it calls must be inlined into it, or runs as compiled for any processor. Defined empty, it is compiled once.
#if defined(FASTGAN_VARIANTS)
#elif defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTGAN_VARIANTS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FASTGAN_VARIANTS
#endif

// A function so marked has everything it calls inlined.
#if defined(__GNUC__)
#define FASTGAN_FLATTEN __attribute__((flatten))
#else
#define FASTGAN_FLATTEN
#endif

namespace fastgan {

// The type that values of a logit's type are computed in.
template <class scalar>
using wide_t = std::conditional_t<std::is_same_v<scalar, double>, double, float>;

// A computed value in the logits' type.
template <class scalar>
FASTGAN_INLINE scalar narrow(wide_t<scalar> value) {
  return static_cast<scalar>(value);
}

// The polynomial with these coefficients, lowest power first, by Horner's rule.
template <class T>
FASTGAN_INLINE T polynomial(T, T constant) {
  return constant;
}
template <class T, class... Rest>
FASTGAN_INLINE T polynomial(T x, T constant, T next, Rest... rest) {
  return constant + x * polynomial(x, next, rest...);
}

// (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: minimax polynomials whose error is below 5 % of the type's rounding.
FASTGAN_INLINE float exp_tail(float r) {
  return polynomial(r, 0.49999993452f, 0.16666520693f, 0.041668387274f, 0.0083687096707f, 0.0013814616074f);
}
FASTGAN_INLINE double exp_tail(double r) {
  return polynomial(r, 0.5000000000000010615, 0.1666666666666641277, 0.04166666666653027679, 0.008333333333494345285,
                    0.001388888894359503624, 0.0001984126950673651104, 2.480149313879256527e-5, 2.755758631779066518e-6,
                    2.763023303815597302e-7, 2.500005256347639092e-8);
}

// (atanh(sqrt(u)) / sqrt(u) - 1) / u for 0 <= u <= 1/9.
FASTGAN_INLINE float atanh_tail(float u) {
  return polynomial(u, 0.33333208152f, 0.200107632806f, 0.140009064463f, 0.140059799263f);
}
FASTGAN_INLINE double atanh_tail(double u) {
  return polynomial(u, 0.33333333333333154922, 0.20000000000077539025, 0.14285714274061016337, 0.11111111976711081527,
                    0.090908722432121103187, 0.076932741219043374785, 0.066505616313177473772, 0.060524652108722720605,
                    0.041725166819999157538, 0.085048220378214700631);
}

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  using Bits = int32_t;
  static constexpr float largest = 87.0f;        // e^-87 is still a normal number
  static constexpr float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int bias = 127, mantissa_bits = 23;
};
template <>
struct ExpConstants<double> {
  using Bits = int64_t;
  static constexpr double largest = 708.0;
  static constexpr double shifter = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 0.693147180369123816490, ln2_low = 1.90821492927058770002e-10;
  static constexpr int bias = 1023, mantissa_bits = 52;
};

// e^-a for a >= 0, to about one unit in the last place; 0 beyond 87 (708 in double), and nan for nan.
// e^-a = 2^n e^r with n = round(-a / ln 2), r = -a - n ln 2.
template <class T>
FASTGAN_INLINE T exp_negative(T a) {
  using C = ExpConstants<T>;
  using Bits = typename C::Bits;
  const T shifted = a * T(-1.4426950408889634074) + C::shifter;
  const T n = shifted - C::shifter;
  const T r = (-a - n * C::ln2_high) - n * C::ln2_low;
  const Bits exponent = bit_cast<Bits>(shifted) + C::bias;
  const T power = bit_cast<T>(static_cast<Bits>(static_cast<std::make_unsigned_t<Bits>>(exponent) << C::mantissa_bits));
  return a > C::largest ? T(0) : power * (T(1) + (r + r * r * exp_tail(r)));
}

// log(1 + e) for 0 <= e <= 1 as 2 atanh(e / (2 + e)), to about one unit in the last place.
template <class T>
FASTGAN_INLINE T log1p_unit(T e) {
  const T s = e / (T(2) + e);
  const T twice = s + s;
  return twice + twice * (s * s * atanh_tail(s * s));
}

}  // namespace fastgan
