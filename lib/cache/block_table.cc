#include "lib/cache/block_table.h"

#include <bit>

namespace swell::cache {

BlockTable::BlockTable(int64_t blocks) : places_(std::bit_ceil(2 * static_cast<size_t>(blocks))) {
  mask_ = places_.size() - 1;
}

// Keys are spread again (finaliser of splitmix64): callers may number their blocks.
size_t BlockTable::Home(BlockKey key) const {
  auto x = static_cast<uint64_t>(key);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return (x ^ (x >> 31)) & mask_;
}

size_t BlockTable::Locate(BlockKey key) const {
  size_t at = Home(key);
  while (places_[at].slot != kNoSlot && places_[at].key != key) at = (at + 1) & mask_;
  return at;
}

Slot BlockTable::Find(BlockKey key) const { return places_[Locate(key)].slot; }

void BlockTable::Insert(BlockKey key, Slot slot) {
  places_[Locate(key)] = {key, slot};
  ++size_;
}

Slot BlockTable::Erase(BlockKey key) {
  size_t hole = Locate(key);
  const Slot slot = places_[hole].slot;
  if (slot == kNoSlot) return kNoSlot;
  --size_;
  // Later keys of the run move up where the hole lies between their home and their place.
  for (size_t at = (hole + 1) & mask_; places_[at].slot != kNoSlot; at = (at + 1) & mask_) {
    if (((at - Home(places_[at].key)) & mask_) < ((at - hole) & mask_)) continue;
    places_[hole] = places_[at];
    hole = at;
  }
  places_[hole] = Place{};
  return slot;
}

}  // namespace swell::cache
