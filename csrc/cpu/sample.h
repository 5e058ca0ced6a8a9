// sample: (seed, step) -> random numbers, the order of the data, batches.
#pragma once

#include "base.h"

namespace fastgan {

// Where the numbers of a tensor [rows, columns] stand: each is a function of the key, the step, the stream, its row and its
// column.
struct Counter {
  uint64_t seed;
  uint32_t step, stream;
  int64_t first_row;  // of the tensor's
};

// Numbers [rows, columns] in [0, 1), and normal ones.
void uniforms(float* out, int64_t rows, int64_t columns, const Counter& counter);
void normals(float* out, int64_t rows, int64_t columns, const Counter& counter);

// `scale` where a 16-bit number is `threshold` or more, 0 elsewhere.
void dropout_scale(float* out, int64_t rows, int64_t columns, uint32_t threshold, float scale, const Counter& counter);

// The samples from `position` on of a data set that is shuffled anew for each epoch. ValueError unless size >= 1, position >=
// 0.
void batch_indices(int64_t* out, int64_t count, int64_t size, int64_t position, uint64_t seed, uint32_t stream);

// Rows of 8-bit pixels [count, width] as numbers in [-1, 1]: out [indices, width]. IndexError for an index beyond them.
void gather_rows(float* out, const uint8_t* pixels, int64_t count, int64_t width, Span<int64_t> indices);

// out = real + alpha (fake - real), [rows, width], with an alpha for each row.
void interpolate(float* out, const float* real, const float* fake, const float* alpha, int64_t rows, int64_t width);

}  // namespace fastgan
