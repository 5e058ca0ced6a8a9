// sample against the words that Philox's authors publish, and against plain loops.
#include "cpu/sample.h"
#include "check.h"
#include "cpu/philox.h"
#include "cpu/threads.h"

#include <algorithm>

namespace {

using namespace fastgan;

struct Known {
  std::array<uint32_t, 4> counter;
  uint64_t key;
  std::array<uint32_t, 4> words;
};

// Random123's kat_vectors for philox4x32-10
constexpr Known kKnown[] = {
    {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{~0u, ~0u, ~0u, ~0u}, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

void check_words() {
  for (const Known& known : kKnown) {
    CHECK(philox(known.counter, known.key) == known.words);
    uint32_t block[kPhiloxTile], row[kPhiloxTile], stream[kPhiloxTile], words[4 * kPhiloxTile];
    std::fill_n(block, kPhiloxTile, known.counter[0]);
    std::fill_n(row, kPhiloxTile, known.counter[1]);
    std::fill_n(stream, kPhiloxTile, known.counter[3]);
    philox_tile(block, row, known.counter[2], stream, known.key, words);
    for (int i = 0; i < 4 * kPhiloxTile; ++i) CHECK(words[i] == known.words[i % 4]);
  }
}

// Every number by its own counter, whatever the shape.
void check_numbers(int64_t rows, int64_t columns) {
  const Counter counter{0x123456789abcdef, 7, 3, 5};
  std::vector<float> uniform(rows * columns), normal(rows * columns), scale(rows * columns);
  uniforms(uniform.data(), rows, columns, counter);
  normals(normal.data(), rows, columns, counter);
  dropout_scale(scale.data(), rows, columns, 16384, 1.25f, counter);
  const auto words = [&](int64_t row, int64_t block) {
    return philox({static_cast<uint32_t>(block), static_cast<uint32_t>(counter.first_row + row), counter.step, counter.stream},
                  counter.seed);
  };
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const auto four = words(row, column / 4);
      const auto unit = [&](int i) { return (four[i] >> 8) / double(1 << 24); };
      CHECK(uniform[row * columns + column] == static_cast<float>(unit(column % 4)));
      const int pair = column % 4 / 2 * 2;
      const float u = (static_cast<float>(four[pair] >> 8) + 0.5f) / (1 << 24);  // rounded, as the definition has it
      const double radius = std::sqrt(-2 * std::log(double(u))), angle = 2 * M_PI * unit(pair + 1);
      CHECK(close(normal[row * columns + column], radius * (column % 2 ? std::sin(angle) : std::cos(angle)), 1e-6));
      const uint32_t eighth = words(row, column / 8)[column % 8 / 2] >> (column % 2 ? 16 : 0);
      CHECK(scale[row * columns + column] == ((eighth & 0xffff) >= 16384 ? 1.25f : 0.0f));
    }
  }
}

void check_data() {
  constexpr int64_t kSize = 37, kWidth = 5;
  std::vector<int64_t> indices(2 * kSize);
  batch_indices(indices.data(), 2 * kSize, kSize, 0, 1, 2);
  for (const int64_t epoch : {0, 1}) {
    std::vector<int64_t> seen(indices.begin() + epoch * kSize, indices.begin() + (epoch + 1) * kSize);
    std::sort(seen.begin(), seen.end());
    for (int64_t i = 0; i < kSize; ++i) CHECK(seen[i] == i);
  }
  std::vector<uint8_t> pixels(kSize * kWidth);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(37 * i);
  std::vector<float> batch(indices.size() * kWidth);
  gather_rows(batch.data(), pixels.data(), kSize, kWidth, {indices.data(), indices.size()});
  for (size_t i = 0; i < batch.size(); ++i) {
    CHECK(close(batch[i], pixels[indices[i / kWidth] * kWidth + i % kWidth] / 127.5 - 1, 1e-6));
  }
  indices[3] = kSize;
  bool refused = false;
  try {
    gather_rows(batch.data(), pixels.data(), kSize, kWidth, {indices.data(), indices.size()});
  } catch (const std::out_of_range& error) {
    refused = std::string_view(error.what()) == "index 37 is out of range for 37 samples";
  }
  CHECK(refused);
}

}  // namespace

int main() {
  check_words();
  check_data();
  for (const int64_t threads : {1, 3}) {
    static int64_t count;
    count = threads;
    count_threads_by([] { return count; });
    for (const int64_t columns : {1, 8, 33, 64}) check_numbers(65, columns);
  }
}
