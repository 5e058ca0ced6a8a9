// sample: (seed, step) -> random numbers, the order of the data, batches.
//
// Every number is a function of a Philox counter (block, row, step, stream), where a block makes four words. A tile of blocks
// is made at a time, and its words then turned into numbers, so both loops are vector code whatever the number of columns.

#include "intrinsics.h"
#include "philox.h"
#include "threads.h"
#include "vector_math.h"

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace fastgan {
namespace {

#define FASTGAN_TILE_ARGUMENTS \
  const uint32_t *block, const uint32_t *row, uint32_t step, const uint32_t *stream, uint64_t key, uint32_t *words

// Of two functions so marked, the second runs where the processor has AVX-512.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTGAN_ANY_PROCESSOR __attribute__((target("default")))
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

namespace {

using at::Tensor;
using fastgan::philox;

constexpr int kTile = fastgan::kPhiloxTile;
constexpr int kWords = 4 * kTile;         // of a tile
constexpr int64_t kTileGrain = 64;        // tiles worth a thread
constexpr int64_t kPixelGrain = 1 << 14;  // pixels worth a thread
constexpr int64_t kIndexUnit = 1024;      // indices worth a thread
constexpr int kFeistelRounds = 6;
constexpr float kUnit = 1.0f / (1 << 24);

struct Stream {
  uint64_t seed;
  uint32_t step, stream;
  int64_t first_row, blocks;  // blocks to a row
};

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
  const int32_t bits = c10::bit_cast<int32_t>(u);
  const int32_t exponent = (bits - kSqrtHalf) >> 23;
  const float f = c10::bit_cast<float>(bits - exponent * (1 << 23)) - 1.0f;
  const float s = f / (2.0f + f), e = static_cast<float>(exponent), twice = s + s;
  return -2.0f * (e * kLn2High + (twice + (twice * (s * s * fastgan::atanh_tail(s * s)) + e * kLn2Low)));
}

// (cos, sin) of 2 pi w / 2^24. The angle's quarter turn is taken off exactly, so small results keep all their digits; the
// remainder, up to an eighth of a turn, has minimax polynomials whose error is below 7 % of fp32's rounding.
inline void cos_sin(int32_t w, float& cosine, float& sine) {
  const int32_t quarter = (w + (1 << 21)) >> 22;
  const float x = static_cast<float>(w - quarter * (1 << 22)) * 3.7450702829e-7f, u = x * x;
  const float s = x + x * u * fastgan::polynomial(u, -0.1666665460591f, 0.008332160526753f, -0.0001951525063818f);
  const float c = 1.0f + u * (-0.5f + u * fastgan::polynomial(u, 0.04166664567657f, -0.001388731593559f, 2.443311988776e-5f));
  const bool swapped = quarter & 1;
  const uint32_t cosine_sign = static_cast<uint32_t>((quarter + 1) & 2) << 30;
  const uint32_t sine_sign = static_cast<uint32_t>(quarter & 2) << 30;
  cosine = c10::bit_cast<float>(c10::bit_cast<uint32_t>(swapped ? s : c) ^ cosine_sign);
  sine = c10::bit_cast<float>(c10::bit_cast<uint32_t>(swapped ? c : s) ^ sine_sign);
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

// Tile number `tile` of a tensor of numbers [rows, columns]; a row's last block may be cut.
template <class Map>
void fill_tile(const Stream& stream, const Map& map, int64_t tile, int64_t rows, int64_t columns, float* out) {
  constexpr int kPerBlock = Map::kNumbers / kTile;
  const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, rows * stream.blocks - first);
  alignas(64) uint32_t block[kTile], row[kTile], word[kTile];
  std::fill_n(word, kTile, stream.stream);
  int64_t r = first / stream.blocks, b = first % stream.blocks;
  for (int i = 0; i < kTile; ++i) {
    block[i] = static_cast<uint32_t>(b);
    row[i] = static_cast<uint32_t>(stream.first_row + r);
    if (++b == stream.blocks) ++r, b = 0;
  }
  alignas(64) uint32_t words[kWords];
  fastgan::philox_tile(block, row, stream.step, word, stream.seed, words);
  if (count == kTile && columns == stream.blocks * kPerBlock) return apply(map, words, out + first * kPerBlock);
  alignas(64) float numbers[Map::kNumbers];
  apply(map, words, numbers);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = (first + i) / stream.blocks, column = (first + i) % stream.blocks * kPerBlock;
    std::copy_n(numbers + i * kPerBlock, std::min<int64_t>(kPerBlock, columns - column), out + r * columns + column);
  }
}

template <class Map>
void fill(Tensor& out, int64_t seed, int64_t step, int64_t stream_word, int64_t first_row, const Map& map) {
  TORCH_CHECK(out.dim() == 2 && out.is_contiguous() && out.scalar_type() == at::kFloat, "out must be a contiguous fp32 matrix");
  constexpr int kPerBlock = Map::kNumbers / kTile;
  const int64_t rows = out.size(0), columns = out.size(1), blocks = (columns + kPerBlock - 1) / kPerBlock;
  const Stream stream{static_cast<uint64_t>(seed), static_cast<uint32_t>(step), static_cast<uint32_t>(stream_word), first_row,
                      blocks};
  float* numbers = out.mutable_data_ptr<float>();
  fastgan::share((rows * blocks + kTile - 1) / kTile, kTileGrain,
                 [&](int64_t tile) { fill_tile(stream, map, tile, rows, columns, numbers); });
}

void uniforms_(Tensor& out, int64_t seed, int64_t step, int64_t stream, int64_t first_row) {
  fill(out, seed, step, stream, first_row, Uniform{});
}

void normals_(Tensor& out, int64_t seed, int64_t step, int64_t stream, int64_t first_row) {
  fill(out, seed, step, stream, first_row, Normal{});
}

void dropout_scale_(Tensor& out, int64_t threshold, double scale, int64_t seed, int64_t step, int64_t stream,
                    int64_t first_row) {
  fill(out, seed, step, stream, first_row, Dropout{static_cast<uint32_t>(threshold), static_cast<float>(scale)});
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

void batch_indices_(Tensor& out, int64_t size, int64_t position, int64_t seed, int64_t stream) {
  TORCH_CHECK(out.is_contiguous() && out.scalar_type() == at::kLong, "out must be contiguous int64");
  TORCH_CHECK_VALUE(size >= 1 && position >= 0, "a data set has at least one sample, and a position is not negative");
  int64_t* indices = out.mutable_data_ptr<int64_t>();
  const int64_t count = out.numel();
  fastgan::share((count + kIndexUnit - 1) / kIndexUnit, 1, [&](int64_t unit) {
    Permutation permutation(size, static_cast<uint64_t>(seed), static_cast<uint32_t>(stream));
    for (int64_t i = unit * kIndexUnit; i < std::min(count, (unit + 1) * kIndexUnit); ++i)
      indices[i] = permutation(position + i);
  });
}

// x (2 / 255) - 1 as the reference rounds it, after the product too. In one loop the compiler would fuse the two, which differs
// in the last bit; the second loop finds the row in the cache.
FASTGAN_VARIANTS void scale_pixels(const uint8_t* pixels, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(pixels[i]) * static_cast<float>(2.0 / 255.0);
  for (int64_t i = 0; i < count; ++i) out[i] -= 1.0f;
}

void gather_rows_(Tensor& out, const Tensor& images, const Tensor& indices) {
  const int64_t features = images.size(0) ? images.numel() / images.size(0) : 0, count = images.size(0);
  TORCH_CHECK(images.is_contiguous() && images.scalar_type() == at::kByte, "images must be contiguous uint8");
  TORCH_CHECK(indices.is_contiguous() && indices.scalar_type() == at::kLong, "indices must be contiguous int64");
  TORCH_CHECK(out.is_contiguous() && out.scalar_type() == at::kFloat && out.numel() == indices.numel() * features,
              "out must be contiguous fp32 of one row to an index");
  const uint8_t* pixels = images.const_data_ptr<uint8_t>();
  const int64_t* rows = indices.const_data_ptr<int64_t>();
  float* batch = out.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, kPixelGrain / std::max<int64_t>(1, features));
  for (int64_t i = 0; i < indices.numel(); ++i)
    TORCH_CHECK_INDEX(rows[i] >= 0 && rows[i] < count, "index ", rows[i], " is out of range for ", count, " samples");
  fastgan::share(indices.numel(), grain,
                 [&](int64_t i) { scale_pixels(pixels + rows[i] * features, batch + i * features, features); });
}

FASTGAN_VARIANTS void mix(float* out, const float* real, const float* fake, float alpha, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = real[i] + alpha * (fake[i] - real[i]);
}

void interpolate_(Tensor& out, const Tensor& real, const Tensor& fake, const Tensor& alpha) {
  const int64_t rows = alpha.numel(), width = rows ? real.numel() / rows : 0;
  for (const Tensor& tensor : {out, real, fake})
    TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == at::kFloat && tensor.numel() == rows * width,
                "real, fake and out must be contiguous fp32 of one size, with a row for each alpha");
  TORCH_CHECK(alpha.is_contiguous() && alpha.scalar_type() == at::kFloat, "alpha must be contiguous fp32");
  const float *a = alpha.const_data_ptr<float>(), *r = real.const_data_ptr<float>(), *f = fake.const_data_ptr<float>();
  float* mixed = out.mutable_data_ptr<float>();
  // a helper spins for a while after its work, on a core that the matrix product after it could use
  const int64_t grain = std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(1, width));
  fastgan::share(rows, grain, [&](int64_t i) { mix(mixed + i * width, r + i * width, f + i * width, a[i], width); });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("uniforms_", &uniforms_);
  m.impl("normals_", &normals_);
  m.impl("dropout_scale_", &dropout_scale_);
  m.impl("batch_indices_", &batch_indices_);
  m.impl("gather_rows_", &gather_rows_);
  m.impl("interpolate_", &interpolate_);
}

// Nothing is returned: fake tensors only need to know that there is something to call.
TORCH_LIBRARY_IMPL(fastgan, Meta, m) {
  m.impl("uniforms_", [](Tensor&, int64_t, int64_t, int64_t, int64_t) {});
  m.impl("normals_", [](Tensor&, int64_t, int64_t, int64_t, int64_t) {});
  m.impl("dropout_scale_", [](Tensor&, int64_t, double, int64_t, int64_t, int64_t, int64_t) {});
  m.impl("batch_indices_", [](Tensor&, int64_t, int64_t, int64_t, int64_t) {});
  m.impl("gather_rows_", [](Tensor&, const Tensor&, const Tensor&) {});
}
