// What is included before a file turns to its instruction set: these headers' code must run on any processor.
#pragma once

#include "kernels.h"

#include "../intrinsics.h"
#include "../threads.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

// Whether the compiler has the intrinsics, and a pragma that turns to their instruction sets.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTGAN_INTRINSICS 1
#endif
