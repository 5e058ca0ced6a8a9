// sample: (seed, step) -> random numbers, the order of the data, batches.
//
// Every number is a function of a Philox counter (block, row, step, stream), where a block makes four words. A tile of blocks
// is made at a time, and its words then turned into numbers, so both loops are vector code whatever the number of columns.

#if defined(__GNUC__) && !defined(__clang__)
// loops of a tile are unrolled whole: that decides which products and sums fuse, and so the last bit of normal numbers
#pragma GCC optimize("O3")
#endif

#include "sample.h"

#include "philox.h"
#include "threads.h"
#include "vector_math.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace fastgan {
namespace {

constexpr int kTile = kPhiloxTile;
constexpr int kWords = 4 * kTile;         // of a tile
constexpr int64_t kTileGrain = 64;        // tiles worth a thread
constexpr int64_t kPixelGrain = 1 << 14;  // pixels worth a thread
constexpr int64_t kIndexUnit = 1024;      // indices worth a thread
constexpr int kFeistelRounds = 6;
constexpr float kUnit = 1.0f / (1 << 24);

// From a tile's words to its numbers; `kNumbers` of them.
struct Uniform {
  static constexpr int kNumbers = kWords;
  void operator()(const uint32_t* words, float* numbers) const {
    for (int i = 0; i < kWords; ++i) numbers[i] = static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * kUnit;
  }
};

// Eight little-endian 16-bit numbers to a block.
struct Dropout {
  static constexpr int kNumbers = 2 * kWords;
  uint32_t threshold;
  float scale;
  void operator()(const uint32_t* words, float* numbers) const {
    for (int i = 0; i < kWords; ++i) {
      numbers[2 * i] = (words[i] & 0xFFFF) >= threshold ? scale : 0.0f;
      numbers[2 * i + 1] = (words[i] >> 16) >= threshold ? scale : 0.0f;
    }
  }
};

// -2 ln u for a normal u in (0, 1]: u = m 2^e with m within a factor sqrt(2) of 1, and ln m = 2 atanh((m - 1) / (m + 1)).
inline float minus_two_log(float u) {
  constexpr int32_t kSqrtHalf = 0x3F3504F3;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  const int32_t bits = bit_cast<int32_t>(u);
  const int32_t exponent = (bits - kSqrtHalf) >> 23;
  const float f = bit_cast<float>(bits - exponent * (1 << 23)) - 1.0f;
  const float s = f / (2.0f + f), e = static_cast<float>(exponent), twice = s + s;
  return -2.0f * (e * kLn2High + (twice + (twice * (s * s * atanh_tail(s * s)) + e * kLn2Low)));
}

// (cos, sin) of 2 pi w / 2^24. The angle's quarter turn is taken off exactly, so small results keep all their digits; the
// remainder, up to an eighth of a turn, has minimax polynomials whose error is below 7 % of fp32's rounding.
inline void cos_sin(int32_t w, float& cosine, float& sine) {
  const int32_t quarter = (w + (1 << 21)) >> 22;
  const float x = static_cast<float>(w - quarter * (1 << 22)) * 3.7450702829e-7f, u = x * x;
  const float s = x + x * u * polynomial(u, -0.1666665460591f, 0.008332160526753f, -0.0001951525063818f);
  const float c = 1.0f + u * (-0.5f + u * polynomial(u, 0.04166664567657f, -0.001388731593559f, 2.443311988776e-5f));
  const bool swapped = quarter & 1;
  const uint32_t cosine_sign = static_cast<uint32_t>((quarter + 1) & 2) << 30;
  const uint32_t sine_sign = static_cast<uint32_t>(quarter & 2) << 30;
  cosine = bit_cast<float>(bit_cast<uint32_t>(swapped ? s : c) ^ cosine_sign);
  sine = bit_cast<float>(bit_cast<uint32_t>(swapped ? c : s) ^ sine_sign);
}

// Box and Muller: words (0, 1) and (2, 3) of a block make two normals each.
struct Normal {
  static constexpr int kNumbers = kWords;
  void operator()(const uint32_t* words, float* numbers) const {
    for (int i = 0; i < kWords; i += 2) {
      const float u = (static_cast<float>(static_cast<int32_t>(words[i] >> 8)) + 0.5f) * kUnit;
      const float radius = std::sqrt(minus_two_log(u));
      float cosine, sine;
      cos_sin(static_cast<int32_t>(words[i + 1] >> 8), cosine, sine);
      numbers[i] = radius * cosine;
      numbers[i + 1] = radius * sine;
    }
  }
};

template <class Map>
FASTGAN_VARIANTS void apply(Map map, const uint32_t* words, float* numbers) {
  map(words, numbers);
}

// Tile number `tile` of numbers [rows, columns] whose rows have so many blocks; a row's last block may be cut.
template <class Map>
void fill_tile(const Counter& counter, const Map& map, int64_t tile, int64_t rows, int64_t columns, int64_t blocks,
               float* out) {
  constexpr int kPerBlock = Map::kNumbers / kTile;
  const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, rows * blocks - first);
  alignas(64) uint32_t block[kTile], row[kTile], stream[kTile];
  std::fill_n(stream, kTile, counter.stream);
  int64_t r = first / blocks, b = first % blocks;
  for (int i = 0; i < kTile; ++i) {
    block[i] = static_cast<uint32_t>(b);
    row[i] = static_cast<uint32_t>(counter.first_row + r);
    if (++b == blocks) ++r, b = 0;
  }
  alignas(64) uint32_t words[kWords];
  philox_tile(block, row, counter.step, stream, counter.seed, words);
  if (count == kTile && columns == blocks * kPerBlock) return apply(map, words, out + first * kPerBlock);
  alignas(64) float numbers[Map::kNumbers];
  apply(map, words, numbers);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = (first + i) / blocks, column = (first + i) % blocks * kPerBlock;
    std::copy_n(numbers + i * kPerBlock, std::min<int64_t>(kPerBlock, columns - column), out + r * columns + column);
  }
}

template <class Map>
void fill(float* out, int64_t rows, int64_t columns, const Counter& counter, const Map& map) {
  constexpr int kPerBlock = Map::kNumbers / kTile;
  const int64_t blocks = (columns + kPerBlock - 1) / kPerBlock;
  share((rows * blocks + kTile - 1) / kTile, kTileGrain,
        [&](int64_t tile) { fill_tile(counter, map, tile, rows, columns, blocks, out); });
}

// A keyed permutation of [0, size), one for each epoch: see reference.permute for the construction.
class Permutation {
 public:
  Permutation(int64_t size, uint64_t seed, uint32_t stream) : size_(size), seed_(seed), stream_(stream) {
    while (bits_ < 63 && size > int64_t(1) << bits_) ++bits_;
  }

  int64_t operator()(int64_t place) {
    if (place / size_ != epoch_) set_epoch(place / size_);
    uint64_t value = place % size_;
    do value = shuffle(value);
    while (value >= static_cast<uint64_t>(size_));
    return value;
  }

 private:
  void set_epoch(int64_t epoch) {
    epoch_ = epoch;
    for (uint32_t block = 0; block < 2; ++block) {
      const auto words = philox({block, static_cast<uint32_t>(epoch), static_cast<uint32_t>(epoch >> 32), stream_}, seed_);
      std::copy(words.begin(), words.end(), keys_ + 4 * block);
    }
  }

  static uint32_t mix(uint32_t value) {
    value = (value ^ (value >> 16)) * 0x85EBCA6Bu;
    value = (value ^ (value >> 13)) * 0xC2B2AE35u;
    return value ^ (value >> 16);
  }

  uint64_t shuffle(uint64_t value) const {
    int high_bits = bits_ - bits_ / 2, low_bits = bits_ / 2;
    uint64_t high = value >> low_bits, low = value & ((uint64_t(1) << low_bits) - 1);
    for (int round = 0; round < kFeistelRounds; ++round) {
      const uint64_t mixed = mix(static_cast<uint32_t>(low) ^ keys_[round]);
      const uint64_t next = (high ^ mixed) & ((uint64_t(1) << high_bits) - 1);
      high = low;
      low = next;
      std::swap(high_bits, low_bits);
    }
    return high << (bits_ / 2) | low;
  }

  int64_t size_, epoch_ = -1;
  uint64_t seed_;
  uint32_t stream_, keys_[8];
  int bits_ = 6;  // as the reference has it: tiny sets would be shuffled with a bias
};

// x (2 / 255) - 1 as the reference rounds it, after the product too. In one loop the compiler would fuse the two, which differs
// in the last bit; the second loop finds the row in the cache.
FASTGAN_VARIANTS void scale_pixels(const uint8_t* pixels, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(pixels[i]) * static_cast<float>(2.0 / 255.0);
  for (int64_t i = 0; i < count; ++i) out[i] -= 1.0f;
}

FASTGAN_VARIANTS void mix(float* out, const float* real, const float* fake, float alpha, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = real[i] + alpha * (fake[i] - real[i]);
}

}  // namespace

void uniforms(float* out, int64_t rows, int64_t columns, const Counter& counter) {
  fill(out, rows, columns, counter, Uniform{});
}

void normals(float* out, int64_t rows, int64_t columns, const Counter& counter) {
  fill(out, rows, columns, counter, Normal{});
}

void dropout_scale(float* out, int64_t rows, int64_t columns, uint32_t threshold, float scale, const Counter& counter) {
  fill(out, rows, columns, counter, Dropout{threshold, scale});
}

void batch_indices(int64_t* out, int64_t count, int64_t size, int64_t position, uint64_t seed, uint32_t stream) {
  require<std::invalid_argument>(size >= 1 && position >= 0,
                                 "a data set has at least one sample, and a position is not negative");
  share((count + kIndexUnit - 1) / kIndexUnit, 1, [&](int64_t unit) {
    Permutation permutation(size, seed, stream);
    for (int64_t i = unit * kIndexUnit; i < std::min(count, (unit + 1) * kIndexUnit); ++i) out[i] = permutation(position + i);
  });
}

void gather_rows(float* out, const uint8_t* pixels, int64_t count, int64_t width, Span<int64_t> indices) {
  for (const int64_t index : indices)
    require<std::out_of_range>(index >= 0 && index < count, "index ", index, " is out of range for ", count, " samples");
  const int64_t grain = std::max<int64_t>(1, kPixelGrain / std::max<int64_t>(1, width));
  share(indices.size(), grain, [&](int64_t i) { scale_pixels(pixels + indices[i] * width, out + i * width, width); });
}

void interpolate(float* out, const float* real, const float* fake, const float* alpha, int64_t rows, int64_t width) {
  // a helper spins for a while after its work, on a core that the matrix product after it could use
  const int64_t grain = std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(1, width));
  share(rows, grain, [&](int64_t i) { mix(out + i * width, real + i * width, fake + i * width, alpha[i], width); });
}

}  // namespace fastgan
