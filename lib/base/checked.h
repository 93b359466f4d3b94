// Overflow-checked size arithmetic.
#ifndef SWELL_LIB_BASE_CHECKED_H_
#define SWELL_LIB_BASE_CHECKED_H_

#include <cstdint>
#include <initializer_list>

namespace swell {

// *product = the product of `factors`; false when one is negative or the product does not fit int64.
inline bool CheckedProduct(std::initializer_list<int64_t> factors, int64_t* product) {
  int64_t result = 1;
  for (int64_t factor : factors) {
    if (factor < 0 || __builtin_mul_overflow(result, factor, &result)) return false;
  }
  *product = result;
  return true;
}

}  // namespace swell

#endif  // SWELL_LIB_BASE_CHECKED_H_
