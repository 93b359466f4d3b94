// Map of block key -> slot with a fixed number of places: open addressing, linear probing, no allocation after Create.
// Not synchronised.
#ifndef SWELL_LIB_CACHE_BLOCK_TABLE_H_
#define SWELL_LIB_CACHE_BLOCK_TABLE_H_

#include <cstddef>
#include <vector>

#include "swell/cache.h"

namespace swell::cache {

class BlockTable {
 public:
  // Room for `blocks` keys at a load of at most one half. Throws std::bad_alloc.
  explicit BlockTable(int64_t blocks);

  Slot Find(BlockKey key) const;
  // `key` must not be in the table, and there must be room.
  void Insert(BlockKey key, Slot slot);
  // The slot that `key` had, or kNoSlot.
  Slot Erase(BlockKey key);
  int64_t size() const { return size_; }

 private:
  struct Place {
    BlockKey key{};
    Slot slot = kNoSlot;  // kNoSlot: the place is empty
  };
  size_t Home(BlockKey key) const;
  // The place of `key`, or the empty one where it would go.
  size_t Locate(BlockKey key) const;

  std::vector<Place> places_;
  size_t mask_ = 0;
  int64_t size_ = 0;
};

}  // namespace swell::cache

#endif  // SWELL_LIB_CACHE_BLOCK_TABLE_H_
