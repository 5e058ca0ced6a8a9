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
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 finds both in its own intrinsics (bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")

namespace fastgan {
namespace {

constexpr int64_t kPanel = 64;  // columns
constexpr int kVectors = 4;     // of 16 words, in a panel
constexpr int kRows = 6;        // of a product's tile: with 4 vectors of columns, 24 of the 32 registers are sums

// The sums of a tile, in fp32; columns beyond a matrix's last are zero.
struct alignas(64) Tile {
  float at[16][kPanel];
};

inline __m512i load(const uint32_t* words) {
  return _mm512_loadu_si512(words);
}
inline __m512 dot(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// tile[r][16 v ..] (+)= sum over k of x[r x_row + k x_step] . y[64 k + 16 v ..], dot products of pairs. `between(k)` runs on the
// way.
template <int R, int V, bool adds, class Between>
inline __attribute__((always_inline)) void multiply(const uint32_t* x, int64_t x_row, int64_t x_step, const uint32_t* y,
                                                    int64_t pairs, Tile& tile, int first, const Between& between) {
  __m512 sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = adds ? _mm512_load_ps(&tile.at[first + r][16 * v]) : _mm512_setzero_ps();
  for (int64_t k = 0; k < pairs; ++k) {
    __m512i columns[V];
    for (int v = 0; v < V; ++v) columns[v] = load(y + kPanel * k + 16 * v);
    between(k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i row = _mm512_set1_epi32(static_cast<int>(x[r * x_row + k * x_step]));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = dot(sum[r][v], row, columns[v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) _mm512_store_ps(&tile.at[first + r][16 * v], sum[r][v]);
}

// The same for a number of vectors known at run time; the columns of the others become zero.
template <int R, bool adds, class Between>
inline void multiply(const uint32_t* x, int64_t x_row, int64_t x_step, const uint32_t* y, int64_t pairs, int vectors, Tile& tile,
                     int first, const Between& between) {
  switch (vectors) {
    case 1:
      multiply<R, 1, adds>(x, x_row, x_step, y, pairs, tile, first, between);
      break;
    case 2:
      multiply<R, 2, adds>(x, x_row, x_step, y, pairs, tile, first, between);
      break;
    case 3:
      multiply<R, 3, adds>(x, x_row, x_step, y, pairs, tile, first, between);
      break;
    default:
      return multiply<R, 4, adds>(x, x_row, x_step, y, pairs, tile, first, between);
  }
  for (int r = 0; r < R; ++r) std::memset(&tile.at[first + r][16 * vectors], 0, (kPanel - 16 * vectors) * sizeof(float));
}

// 32 numbers rounded to bf16, in order.
inline __m512i narrow_32(const float* numbers) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_load_ps(numbers + 16), _mm512_load_ps(numbers)));
}

// A row of a tile as values; the first `width` columns.
inline void store_values(const float* numbers, int64_t width, uint16_t* values) {
  const uint64_t mask = width < kPanel ? (uint64_t(1) << width) - 1 : ~uint64_t(0);
  _mm512_mask_storeu_epi16(values, static_cast<__mmask32>(mask), narrow_32(numbers));
  if (mask >> 32) _mm512_mask_storeu_epi16(values + 32, static_cast<__mmask32>(mask >> 32), narrow_32(numbers + 32));
}

// Two rows of a tile as 64 pairs.
inline void store_pairs(const float* even, const float* odd, uint32_t* pairs) {
  for (int v = 0; v < kVectors; ++v) {
    // both rounded together; then a lane's low half comes from even and its high half from odd
    const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_load_ps(odd + 16 * v), _mm512_load_ps(even + 16 * v)));
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
    _mm512_storeu_si512(pairs + 16 * v, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
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
    const __m512i c = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88), d = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
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
