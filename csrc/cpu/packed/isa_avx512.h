// AVX-512: 32 registers of 16 numbers, in fp32 or with dot products of pairs of bf16.
#pragma once

#include "../intrinsics.h"

#include <cstdint>

namespace fastgan::packed {
namespace {

struct Avx512 {
  static constexpr int kWidth = 16, kGroup = 1, kVectors = 4, kRows = 6, kOutputs = 4, kRegisters = 32;
  using Word = uint32_t;
  using Vector = __m512;
  using Words = __m512i;
  using Lanes = __mmask16;

  static Lanes lanes(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1); }
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector set(float x) { return _mm512_set1_ps(x); }
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static Vector load(const float* from, Lanes lanes) { return _mm512_maskz_loadu_ps(lanes, from); }
  static void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
  static void store(float* to, Lanes lanes, Vector x) { _mm512_mask_storeu_ps(to, lanes, x); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(Vector x) { return _mm512_reduce_add_ps(x); }

  static Vector abs(Vector x) { return _mm512_abs_ps(x); }
  static Vector negative(Vector x) { return _mm512_or_ps(x, _mm512_set1_ps(-0.0f)); }
  static Vector if_positive(Vector x, Vector yes, Vector no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(x, zero(), _CMP_GT_OQ), yes);
  }
  static Vector if_signed(Vector x, Vector yes, Vector no) {
    return _mm512_mask_mov_ps(no, _mm512_movepi32_mask(bits(x)), yes);
  }
  static Vector unless_zero_bits(Vector x, Vector yes) {
    return _mm512_maskz_mov_ps(_mm512_test_epi32_mask(bits(x), bits(x)), yes);
  }
  static Vector if_at_least(const uint16_t* numbers, uint32_t threshold, Vector yes) {
    const __m256i sixteen = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers));
    const __mmask16 some = threshold > 0xffff ? 0 : 0xffff;  // a probability next to 1 rounds to one beyond 16 bits
    const __m256i least = _mm256_set1_epi16(static_cast<short>(threshold));
    return _mm512_maskz_mov_ps(_mm256_mask_cmpge_epu16_mask(some, sixteen, least), yes);
  }

  static Words load_words(const Word* from) { return _mm512_loadu_si512(from); }
  static Words broadcast(const Word& word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static Words bits(Vector x) { return _mm512_castps_si512(x); }
  static Vector dot(Vector sum, Words a, Words b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
  static void stream(Word* to, Words words) { _mm512_stream_si512(reinterpret_cast<__m512i*>(to), words); }
  static void fence() { _mm_sfence(); }
  static void transpose(Words (&row)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      row[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      row[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      row[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      row[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      const __m512i a = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88), b = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
      const __m512i c = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88),
                    d = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
      t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
      t[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
      t[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
      t[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; ++i) row[i] = t[i];
  }
};

}  // namespace
}  // namespace fastgan::packed
