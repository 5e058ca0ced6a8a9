// How matrices of bf16 are stored for dot products of pairs (AVX512-BF16), and the register tiles that multiply them.
//
//   values   [rows, stride]                 row-major: a product reads pairs of neighbouring columns of a row, broadcast
//   panels   [columns / 64, rows / 2, 64, 2]  pairs of rows: a weight gradient reads them along 64 columns
//   pack     [n / 64, k / 2, 64, 2]           a weight for products that sum over k and have n columns
//
// A pair of bf16 is one 32-bit word. What fills up the last 64 columns, or the second of a pair, is zero.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTGAN_BF16_DOT 1
#include "../intrinsics.h"

#include <cstdint>
#include <cstring>

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")

namespace fastgan {
namespace {

constexpr int64_t kPanel = 64;  // columns
constexpr int kVectors = 4;     // of 16 words, in a panel
constexpr int kRows = 6;        // of a product's tile: with 4 vectors of columns, 24 of the 32 registers are sums

// Sums in fp32, R rows of V vectors of 16 columns: a tile in registers.
template <int R, int V>
struct Sums {
  __m512 at[R][V];
};

// Numbers in fp32 on their way through the first cache.
struct alignas(64) Tile {
  float at[16][kPanel];
};

inline __m512i load(const uint32_t* words) {
  return _mm512_loadu_si512(words);
}
inline __m512 dot(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// The lanes of vector v that hold columns of the matrix, when `width` columns are left.
inline __mmask16 lanes(int64_t width, int v) {
  const int64_t left = width - 16 * v;
  return left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
}

// sums[r][v] += sum over k of x[r x_row + k x_step] . y[64 k + 16 v ..], dot products of pairs.
template <int R, int V>
inline __attribute__((always_inline)) void multiply(Sums<R, V>& sums, const uint32_t* x, int64_t x_row, int64_t x_step,
                                                    const uint32_t* y, int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k) {
    __m512i columns[V];
    for (int v = 0; v < V; ++v) columns[v] = load(y + kPanel * k + 16 * v);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i row = _mm512_set1_epi32(static_cast<int>(x[r * x_row + k * x_step]));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums.at[r][v] = dot(sums.at[r][v], row, columns[v]);
    }
  }
}

inline __m512i narrow_32(__m512 first, __m512 second) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}

// Two rows of 16 columns as pairs.
inline __m512i pairs_of(__m512 even, __m512 odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
                                         4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, narrow_32(even, odd));
}

// Transposes 16 x 16 words.
inline void transpose(__m512i (&row)[16]) {
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

}  // namespace
}  // namespace fastgan

#pragma GCC pop_options
#endif
