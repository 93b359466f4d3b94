// Eviction policies: the order in which cached blocks give way. A policy sees slots only. Not synchronised; nothing is
// allocated after MakeEvictionPolicy.
#ifndef SWELL_LIB_CACHE_EVICTION_H_
#define SWELL_LIB_CACHE_EVICTION_H_

#include <functional>
#include <memory>

#include "swell/cache.h"

namespace swell::cache {

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  // A new step began.
  virtual void Step() = 0;
  // A block was admitted to `slot`, which held none.
  virtual void Admit(Slot slot) = 0;
  // The block of `slot` was hit.
  virtual void Touch(Slot slot) = 0;
  // `slot` holds no block any more.
  virtual void Remove(Slot slot) = 0;
  // The admitted slot to give up next among those that `evictable` allows; kNoSlot when it allows none. Does not
  // remove.
  virtual Slot Victim(const std::function<bool(Slot)>& evictable) = 0;
};

// Throws std::bad_alloc.
std::unique_ptr<EvictionPolicy> MakeEvictionPolicy(PolicyKind kind, int64_t slots, double decay);

}  // namespace swell::cache

#endif  // SWELL_LIB_CACHE_EVICTION_H_
