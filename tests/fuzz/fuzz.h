// What the fuzz targets share: reading typed values from an input's bytes, and saying that something does not hold.
#ifndef SWELL_TESTS_FUZZ_FUZZ_H_
#define SWELL_TESTS_FUZZ_FUZZ_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Ends the program when `condition` does not hold, so that libFuzzer keeps the input and a test fails.
#define SWELL_FUZZ_CHECK(condition)                                                       \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                       \
    }                                                                                     \
  } while (false)

namespace swell_fuzz {

// An input, read from its beginning. Beyond its end everything is zero.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  bool empty() const { return left_ == 0; }

  template <typename T>
  T Take() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    const size_t bytes = std::min(left_, sizeof(T));
    if (bytes == 0) return value;  // an empty input may have no address
    std::memcpy(&value, data_, bytes);
    data_ += bytes;
    left_ -= bytes;
    return value;
  }

  // One of 0 .. count - 1, from one byte.
  int Choose(int count) { return Take<uint8_t>() % count; }

  // Up to `most` bytes; the first byte says how many.
  std::string Text(size_t most = 255) { return Rest(std::min<size_t>(Take<uint8_t>(), most)); }

  std::string Rest(size_t most) {
    const size_t bytes = std::min(left_, most);
    std::string text(reinterpret_cast<const char*>(data_), bytes);
    data_ += bytes;
    left_ -= bytes;
    return text;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

}  // namespace swell_fuzz

#endif  // SWELL_TESTS_FUZZ_FUZZ_H_
