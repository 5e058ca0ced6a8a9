// What every kernel is written with: the C++17 standard library and this, so that kernels compile, and run, without torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

// Small functions that vector code calls. Always inlined: what a file compiles for one instruction set is then no copy that the
// linker could take for another file's.
#if defined(__GNUC__)
#define FASTGAN_INLINE inline __attribute__((always_inline))
#else
#define FASTGAN_INLINE inline
#endif

namespace fastgan {

// The bits of a value as another type of the same size (C++20 has it).
template <class To, class From>
FASTGAN_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From) && std::is_trivially_copyable_v<To> && std::is_trivially_copyable_v<From>);
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// Neighbouring values that somebody else keeps.
template <class T>
struct Span {
  const T* data;
  size_t count;

  FASTGAN_INLINE const T& operator[](size_t i) const { return data[i]; }
  FASTGAN_INLINE const T* begin() const { return data; }
  FASTGAN_INLINE const T* end() const { return data + count; }
  FASTGAN_INLINE size_t size() const { return count; }
  FASTGAN_INLINE bool empty() const { return count == 0; }
  FASTGAN_INLINE const T& back() const { return data[count - 1]; }
};

inline std::string text_of(std::string_view part) {
  return std::string(part);
}
template <class Integer, class = std::enable_if_t<std::is_integral_v<Integer>>>
std::string text_of(Integer part) {
  return std::to_string(part);
}

template <class Error, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error((std::string() + ... + text_of(parts)));
}

// Throws an error of these parts, strings and integers, unless the condition holds. Python sees std::invalid_argument as
// ValueError, std::out_of_range as IndexError, and the others as RuntimeError.
template <class Error = std::runtime_error, class... Parts>
FASTGAN_INLINE void require(bool condition, const Parts&... parts) {
  if (!condition) fail<Error>(parts...);
}

}  // namespace fastgan
