#include "swell/store.h"

namespace swell {

bool ByteBudget::TryCharge(uint64_t bytes) {
  uint64_t used = used_.load(std::memory_order_relaxed);
  uint64_t after = 0;
  do {
    if (__builtin_add_overflow(used, bytes, &after) || (limit_ != 0 && after > limit_)) return false;
  } while (!used_.compare_exchange_weak(used, after, std::memory_order_relaxed));
  uint64_t peak = peak_.load(std::memory_order_relaxed);
  while (peak < after && !peak_.compare_exchange_weak(peak, after, std::memory_order_relaxed)) {
  }
  return true;
}

void ByteBudget::Refund(uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }

}  // namespace swell
