// What programs here check with: the first thing that does not hold is said, and ends the program.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(condition) ((condition) ? void() : (std::printf("%s:%d: not %s\n", __FILE__, __LINE__, #condition), std::exit(1)))

inline bool close(double a, double b, double tolerance) {
  return std::fabs(a - b) <= tolerance * (1.0 + std::fabs(b));
}

// Numbers in [-1, 1), the same in every run.
class Numbers {
 public:
  double operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) / (1ull << 52) - 1.0;
  }
  template <class T>
  std::vector<T> make(size_t count, double scale = 1.0) {
    std::vector<T> numbers;
    for (size_t i = 0; i < count; ++i) numbers.push_back(static_cast<T>(scale * (*this)()));
    return numbers;
  }

 private:
  uint64_t state_ = 1;
};
