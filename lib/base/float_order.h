// Floats as integers of the same order: what sorts and histograms of scores compare.
#ifndef SWELL_LIB_BASE_FLOAT_ORDER_H_
#define SWELL_LIB_BASE_FLOAT_ORDER_H_

#include <bit>
#include <cstdint>

namespace swell {

// Rises with `number`, which is not NaN; the same for both zeros.
constexpr uint32_t OrderedBits(float number) {
  const auto bits = std::bit_cast<uint32_t>(number + 0.0F);  // -0 becomes 0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The number whose OrderedBits these are.
constexpr float FloatOfOrderedBits(uint32_t bits) {
  return std::bit_cast<float>((bits & 0x80000000U) != 0 ? bits & 0x7FFFFFFFU : ~bits);
}

}  // namespace swell

#endif  // SWELL_LIB_BASE_FLOAT_ORDER_H_
