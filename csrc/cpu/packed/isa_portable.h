// Vectors as any compiler makes them of plain C++: for processors without a layer of their own, and for tests of the others' code.
#pragma once

#include <cstdint>
#include <cstring>

namespace fastgan::packed {
namespace {

// Vectors of so many numbers. One by one: gcc takes a vector whose size depends on a template's argument for a scalar.
template <int width>
struct Vectors;
#define FASTGAN_VECTORS(width)                                        \
  template <>                                                         \
  struct Vectors<width> {                                             \
    typedef float Vector __attribute__((vector_size(4 * width)));     \
    typedef uint32_t Words __attribute__((vector_size(4 * width)));   \
    typedef int32_t Integers __attribute__((vector_size(4 * width))); \
  };
FASTGAN_VECTORS(4)
FASTGAN_VECTORS(8)
FASTGAN_VECTORS(16)
#undef FASTGAN_VECTORS

// width: numbers in a vector, a power of two; group: of a word, see kernels.h. rows: of a product's tile.
template <int width, int group, int vectors, int rows>
struct Portable {
  static constexpr int kWidth = width, kGroup = group, kVectors = vectors, kRows = rows, kOutputs = 4;
  static constexpr int kRegisters = 32;
  using Word = uint32_t;
  using Vector = typename Vectors<width>::Vector;
  using Words = typename Vectors<width>::Words;
  using Integers = typename Vectors<width>::Integers;
  using Lanes = int;  // how many of a vector

  static Lanes lanes(int64_t left) { return left >= width ? width : left <= 0 ? 0 : static_cast<int>(left); }
  static Vector zero() { return Vector{}; }
  static Vector set(float x) { return x - Vector{}; }
  static Vector load(const float* from) {
    Vector x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
  static Vector load(const float* from, Lanes count) {
    if (count == width) return load(from);
    Vector x{};
    for (int i = 0; i < count; ++i) x[i] = from[i];
    return x;
  }
  static void store(float* to, Vector x) { std::memcpy(to, &x, sizeof(x)); }
  static void store(float* to, Lanes count, Vector x) {
    if (count == width) return store(to, x);
    for (int i = 0; i < count; ++i) to[i] = x[i];
  }
  static Vector add(Vector a, Vector b) { return a + b; }
  static Vector subtract(Vector a, Vector b) { return a - b; }
  static Vector multiply(Vector a, Vector b) { return a * b; }
  static Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
  static float sum(Vector x) {
    float total = 0;
    for (int i = 0; i < width; ++i) total += x[i];
    return total;
  }

  static Words bits(Vector x) { return reinterpret_cast<Words>(x); }
  static Vector choose(Integers mask, Vector yes, Vector no) {
    const Words m = reinterpret_cast<Words>(mask);
    return reinterpret_cast<Vector>((bits(yes) & m) | (bits(no) & ~m));
  }
  static Vector abs(Vector x) { return reinterpret_cast<Vector>(bits(x) & 0x7fffffffu); }
  static Vector negative(Vector x) { return reinterpret_cast<Vector>(bits(x) | 0x80000000u); }
  static Vector if_positive(Vector x, Vector yes, Vector no) { return choose(x > Vector{}, yes, no); }
  static Vector if_signed(Vector x, Vector yes, Vector no) {
    return choose(reinterpret_cast<Integers>(x) < Integers{}, yes, no);
  }
  static Vector unless_zero_bits(Vector x, Vector yes) {
    return choose(reinterpret_cast<Integers>(x) != Integers{}, yes, zero());
  }
  static Vector if_at_least(const uint16_t* numbers, uint32_t threshold, Vector yes) {
    Words wide{};
    for (int i = 0; i < width; ++i) wide[i] = numbers[i];
    return choose(wide >= threshold, yes, zero());
  }

  static Words load_words(const Word* from) {
    Words x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
  static Words broadcast(Word word) { return word - Words{}; }
  static void store_words(Word* to, Words words) { std::memcpy(to, &words, sizeof(words)); }
  static void stream(Word* to, Words words) { std::memcpy(to, &words, sizeof(words)); }
  static void fence() {}
  static void transpose(Words (&row)[width]) {
    Words columns[width];
    for (int i = 0; i < width; ++i)
      for (int j = 0; j < width; ++j) columns[i][j] = row[j][i];
    for (int i = 0; i < width; ++i) row[i] = columns[i];
  }

  static Vector low(Words words) { return reinterpret_cast<Vector>(words << 16); }
  static Vector high(Words words) { return reinterpret_cast<Vector>(words & 0xffff0000u); }
  static Vector dot(Vector sum, Words a, Words b) {
    if constexpr (group == 1) return fma(reinterpret_cast<Vector>(a), reinterpret_cast<Vector>(b), sum);
    return fma(high(a), high(b), fma(low(a), low(b), sum));
  }
  // fp32 to the nearest bf16, ties to even, in the low half of each word.
  static Words narrow(Vector x) {
    const Words b = bits(x), nan = reinterpret_cast<Words>(x != x), rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
    return (rounded & ~nan) | (0x7fc0u & nan);
  }
  static Words pair(Vector even, Vector odd) { return narrow(even) | narrow(odd) << 16; }
  // 2 * width numbers of a row as pairs of neighbours.
  static Words pair_neighbours(Vector first, Vector second) {
    const Words a = narrow(first), b = narrow(second);
    Words pairs{};
    for (int i = 0; i < width / 2; ++i) {
      pairs[i] = a[2 * i] | a[2 * i + 1] << 16;
      pairs[width / 2 + i] = b[2 * i] | b[2 * i + 1] << 16;
    }
    return pairs;
  }
  static Vector load_bf16(const uint16_t* from, Lanes count) {
    Words wide{};
    for (int i = 0; i < count; ++i) wide[i] = static_cast<uint32_t>(from[i]) << 16;
    return reinterpret_cast<Vector>(wide);
  }
  // The first `left` of 2 * width numbers.
  static void store_bf16(uint16_t* to, int64_t left, Vector first, Vector second) {
    const Words numbers[2] = {narrow(first), narrow(second)};
    for (int64_t i = 0; i < left && i < 2 * width; ++i) to[i] = static_cast<uint16_t>(numbers[i / width][i % width]);
  }
};

}  // namespace
}  // namespace fastgan::packed
