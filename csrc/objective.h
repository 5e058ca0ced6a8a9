// What every operator of loss is told, on any device.
#pragma once

#include <array>
#include <string_view>

namespace fastgan {

using Two = std::array<double, 2>;  // one number for each side

constexpr int kReal = 0, kFake = 1;  // the sides

struct Objective {
  std::string_view form;
  Two target;
  double scale;
  bool mean;
};

// The forms that compare real with fake logits: row by row, or with the other side's mean.
constexpr std::string_view kPaired = "paired", kAverage = "average";

inline bool is_paired(const Objective& objective) {
  return objective.form == kPaired;
}
inline bool is_average(const Objective& objective) {
  return objective.form == kAverage;
}
inline bool compares(const Objective& objective) {
  return is_paired(objective) || is_average(objective);
}

}  // namespace fastgan
