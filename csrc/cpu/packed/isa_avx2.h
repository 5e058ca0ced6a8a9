// AVX2 and FMA, in fp32: 16 registers of 8 numbers.
#pragma once

#include "../intrinsics.h"

#include <cstdint>

namespace fastgan::packed {
namespace {

struct Avx2 {
  static constexpr int kWidth = 8, kGroup = 1, kVectors = 2, kRows = 6, kOutputs = 4, kRegisters = 16;
  using Word = uint32_t;
  using Vector = __m256;
  using Words = __m256i;
  using Lanes = __m256i;  // all bits of those that count

  static Lanes lanes(int64_t left) {
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(left < 8 ? left : 8)), numbers);
  }
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector set(float x) { return _mm256_set1_ps(x); }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static Vector load(const float* from, Lanes lanes) { return _mm256_maskload_ps(from, lanes); }
  static void store(float* to, Vector x) { _mm256_storeu_ps(to, x); }
  static void store(float* to, Lanes lanes, Vector x) { _mm256_maskstore_ps(to, lanes, x); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static float sum(Vector x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
  }

  static Vector abs(Vector x) { return _mm256_andnot_ps(set(-0.0f), x); }
  static Vector negative(Vector x) { return _mm256_or_ps(set(-0.0f), x); }
  static Vector if_positive(Vector x, Vector yes, Vector no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, zero(), _CMP_GT_OQ));
  }
  static Vector if_signed(Vector x, Vector yes, Vector no) { return _mm256_blendv_ps(no, yes, x); }
  static Vector unless_zero_bits(Vector x, Vector yes) {
    const __m256i is_zero = _mm256_cmpeq_epi32(_mm256_castps_si256(x), _mm256_setzero_si256());
    return _mm256_andnot_ps(_mm256_castsi256_ps(is_zero), yes);
  }
  static Vector if_at_least(const uint16_t* numbers, uint32_t threshold, Vector yes) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(numbers)));
    const __m256i kept = _mm256_cmpgt_epi32(wide, _mm256_set1_epi32(static_cast<int>(threshold) - 1));
    return _mm256_and_ps(_mm256_castsi256_ps(kept), yes);
  }

  static Words load_words(const Word* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static Words broadcast(const Word& word) {
    return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(&word)));
  }
  static Vector dot(Vector sum, Words a, Words b) {
    return _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum);
  }
  static void stream(Word* to, Words words) { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), words); }
  static void fence() { _mm_sfence(); }
  static void transpose(Words (&row)[8]) {
    __m256i t[8];
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_epi32(row[i], row[i + 1]);
      t[i + 1] = _mm256_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      row[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
      row[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
      row[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
      row[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm256_permute2x128_si256(row[i], row[i + 4], 0x20);
      t[i + 4] = _mm256_permute2x128_si256(row[i], row[i + 4], 0x31);
    }
    for (int i = 0; i < 8; ++i) row[i] = t[i];
  }
};

}  // namespace
}  // namespace fastgan::packed
