// Dropout masks of one layer in stacked passes of equally many rows.
#pragma once

#include "philox.h"

#include <algorithm>

namespace fastgan {

// Eight columns of a row to a Philox block, read as 16-bit numbers: a unit is dropped where its number is below the threshold.
struct MaskCounter {
  static constexpr int kBlockColumns = 8, kTileColumns = kBlockColumns * kPhiloxTile;

  Span<int64_t> streams;  // a word for each pass; none without dropout
  int64_t rows;           // of a pass
  uint32_t threshold, step, first_row;
  uint64_t seed;
  double scale;

  // The numbers of `lines` rows from `row` on, kTileColumns / lines columns each from `column` on. Rows beyond the last pass have
  // numbers that are of no use.
  FASTGAN_INLINE void draw(int64_t row, int lines, int64_t column, uint16_t (&numbers)[kTileColumns]) const {
    uint32_t block[kPhiloxTile], line[kPhiloxTile], stream[kPhiloxTile];
    const int blocks = kPhiloxTile / lines;
    for (int i = 0; i < kPhiloxTile; ++i) {
      block[i] = static_cast<uint32_t>(column / kBlockColumns + i % blocks);
      const int64_t of_all = row + i / blocks, pass = of_all / rows;
      line[i] = first_row + static_cast<uint32_t>(of_all - pass * rows);
      stream[i] = static_cast<uint32_t>(streams[std::min<size_t>(pass, streams.size() - 1)]);
    }
    uint32_t words[4 * kPhiloxTile];
    philox_tile(block, line, step, stream, seed, words);
    for (int i = 0; i < 4 * kPhiloxTile; ++i) {
      numbers[2 * i] = static_cast<uint16_t>(words[i]);
      numbers[2 * i + 1] = static_cast<uint16_t>(words[i] >> 16);
    }
  }
};

}  // namespace fastgan
