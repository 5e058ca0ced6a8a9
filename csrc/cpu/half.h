// The 16-bit floating-point types as they lie in memory. Conversions have no branches, so that loops over them are vector code;
// they round to the nearest, ties to even, as torch's do, and make the same bits of nan, of subnormal numbers and of overflow.
#pragma once

#include "base.h"

#include <cmath>

namespace fastgan {

struct bf16 {
  uint16_t bits;

  bf16() = default;
  explicit FASTGAN_INLINE bf16(float value) {
    const uint32_t word = bit_cast<uint32_t>(value), nan = -static_cast<uint32_t>(value != value);
    const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    bits = static_cast<uint16_t>((rounded & ~nan) | (0x7fc0u & nan));
  }
  FASTGAN_INLINE operator float() const { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

// IEEE's binary16, by arithmetic in fp32 that rounds as it has to (M. Dukhan's FP16 library).
struct half {
  uint16_t bits;

  half() = default;
  explicit FASTGAN_INLINE half(float value) {
    constexpr float kToInfinity = 0x1p+112f, kBack = 0x1p-110f;
    const uint32_t word = bit_cast<uint32_t>(value), twice = word + word, sign = (word >> 16) & 0x8000u;
    const uint32_t exponent = twice & 0xff000000u, least = 0x71000000u;  // below it numbers are subnormal
    const uint32_t bias = exponent < least ? least : exponent;
    // adding 2^k, by which the sum's last bit is the result's last, rounds
    const float sum = bit_cast<float>((bias >> 1) + 0x07800000u) + std::fabs(value) * kToInfinity * kBack;
    const uint32_t rounded = bit_cast<uint32_t>(sum), number = ((rounded >> 13) & 0x7c00u) + (rounded & 0x0fffu);
    bits = static_cast<uint16_t>(sign | (twice > 0xff000000u ? 0x7e00u : number));
  }
  FASTGAN_INLINE operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits) << 16, sign = word & 0x80000000u, twice = word + word;
    const float normal = bit_cast<float>((twice >> 4) + (0xe0u << 23)) * 0x1p-112f;
    const float subnormal = bit_cast<float>((twice >> 17) | (126u << 23)) - 0.5f;
    return bit_cast<float>(sign | (twice < (1u << 27) ? bit_cast<uint32_t>(subnormal) : bit_cast<uint32_t>(normal)));
  }
};

static_assert(sizeof(bf16) == 2 && sizeof(half) == 2);

}  // namespace fastgan
