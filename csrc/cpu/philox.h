// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include "base.h"

#include <array>

namespace fastgan {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxMultiplier[2] = {0xD2511F53u, 0xCD9E8D57u};
constexpr uint32_t kPhiloxWeyl[2] = {0x9E3779B9u, 0xBB67AE85u};

// Four random words of a counter's four words under a 64-bit key.
FASTGAN_INLINE std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key) {
  auto [c0, c1, c2, c3] = counter;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t(c0) * kPhiloxMultiplier[0], p1 = uint64_t(c2) * kPhiloxMultiplier[1];
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += kPhiloxWeyl[0];
    k1 += kPhiloxWeyl[1];
  }
  return {c0, c1, c2, c3};
}

constexpr int kPhiloxTile = 16;

// The words of kPhiloxTile counters (block[i], row[i], step, stream[i]): words[4 i .. 4 i + 3].
void philox_tile(const uint32_t* block, const uint32_t* row, uint32_t step, const uint32_t* stream, uint64_t key,
                 uint32_t* words);

}  // namespace fastgan
