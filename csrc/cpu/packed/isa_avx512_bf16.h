// AVX512-BF16: dot products of pairs.
#pragma once

#include "isa_avx512.h"

namespace fastgan::packed {
namespace {

struct Avx512Bf16 : Avx512 {
  static constexpr int kGroup = 2;

  static Vector dot(Vector sum, Words a, Words b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  static void store_words(Word* to, Words words) { _mm512_storeu_si512(to, words); }
  static Words pair_neighbours(Vector first, Vector second) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  }
  static Words pair(Vector even, Vector odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, pair_neighbours(even, odd));
  }
  static Vector load_bf16(const uint16_t* from, Lanes lanes) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from)), 16));
  }
  // The first `left` of 32 numbers.
  static void store_bf16(uint16_t* to, int64_t left, Vector first, Vector second) {
    const __mmask32 mask = lanes(left) | static_cast<__mmask32>(lanes(left - 16)) << 16;
    _mm512_mask_storeu_epi16(to, mask, pair_neighbours(first, second));
  }
};

}  // namespace
}  // namespace fastgan::packed
