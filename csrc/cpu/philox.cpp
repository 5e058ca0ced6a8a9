// Tiles of Philox blocks.

#include "philox.h"

#include "intrinsics.h"

#include <algorithm>

namespace fastgan {
namespace {

#define FASTGAN_TILE_ARGUMENTS \
  const uint32_t *block, const uint32_t *row, uint32_t step, const uint32_t *stream, uint64_t key, uint32_t *words

// Of functions so marked, the one of the widest vectors that the processor has runs.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTGAN_ANY_PROCESSOR __attribute__((target("default")))
#define FASTGAN_AVX2 __attribute__((target("arch=x86-64-v3")))
#define FASTGAN_AVX512 __attribute__((target("arch=x86-64-v4")))
#else
#define FASTGAN_ANY_PROCESSOR
#endif

FASTGAN_ANY_PROCESSOR void tile(FASTGAN_TILE_ARGUMENTS) {
  for (int i = 0; i < kPhiloxTile; ++i) {
    const auto four = philox({block[i], row[i], step, stream[i]}, key);
    std::copy(four.begin(), four.end(), words + 4 * i);
  }
}

#ifdef FASTGAN_AVX2
FASTGAN_AVX2 inline __m256i load_4(const uint32_t* words) {
  return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
}

// Four counters at a time, as eight are below.
FASTGAN_AVX2 void tile(FASTGAN_TILE_ARGUMENTS) {
  const __m256i m0 = _mm256_set1_epi64x(kPhiloxMultiplier[0]), m1 = _mm256_set1_epi64x(kPhiloxMultiplier[1]);
  for (int i = 0; i < kPhiloxTile; i += 4) {
    __m256i c0 = load_4(block + i), c1 = load_4(row + i), c2 = _mm256_set1_epi64x(step), c3 = load_4(stream + i);
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), _mm256_set1_epi64x(k0));
      c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(k1));
      c1 = p1, c3 = p0;
      k0 += kPhiloxWeyl[0];
      k1 += kPhiloxWeyl[1];
    }
    // a counter's words 0 and 1 in one lane, 2 and 3 in another; then counter by counter
    const __m256i a = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
    const __m256i b = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa);
    const __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);
    auto* const out = reinterpret_cast<__m256i*>(words + 4 * i);
    _mm256_storeu_si256(out, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(even, odd, 0x31));
  }
}
#endif

#ifdef FASTGAN_AVX512
FASTGAN_AVX512 inline __m512i load_8(const uint32_t* words) {
  return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
}

// Eight counters at a time, each word in the low half of a 64-bit lane, where products of 32-bit words read it; what the upper
// half holds does not matter until the end.
FASTGAN_AVX512 void tile(FASTGAN_TILE_ARGUMENTS) {
  const __m512i m0 = _mm512_set1_epi64(kPhiloxMultiplier[0]), m1 = _mm512_set1_epi64(kPhiloxMultiplier[1]);
  const __m512i even = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), odd = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
  constexpr int kXor = 0x96;  // of three
  for (int i = 0; i < kPhiloxTile; i += 8) {
    __m512i c0 = load_8(block + i), c1 = load_8(row + i), c2 = _mm512_set1_epi64(step), c3 = load_8(stream + i);
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const __m512i p0 = _mm512_mul_epu32(c0, m0), p1 = _mm512_mul_epu32(c2, m1);
      c0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c1, _mm512_set1_epi64(k0), kXor);
      c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3, _mm512_set1_epi64(k1), kXor);
      c1 = p1, c3 = p0;
      k0 += kPhiloxWeyl[0];
      k1 += kPhiloxWeyl[1];
    }
    // a counter's words 0 and 1 in one lane, 2 and 3 in another; then counter by counter
    const __mmask16 upper = 0xaaaa;
    const __m512i a = _mm512_mask_shuffle_epi32(c0, upper, c1, _MM_PERM_CCAA);
    const __m512i b = _mm512_mask_shuffle_epi32(c2, upper, c3, _MM_PERM_CCAA);
    _mm512_storeu_si512(words + 4 * i, _mm512_permutex2var_epi64(a, even, b));
    _mm512_storeu_si512(words + 4 * i + 16, _mm512_permutex2var_epi64(a, odd, b));
  }
}
#endif

}  // namespace

void philox_tile(FASTGAN_TILE_ARGUMENTS) {
  tile(block, row, step, stream, key, words);
}

}  // namespace fastgan
