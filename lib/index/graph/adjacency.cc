#include "lib/index/graph/adjacency.h"

namespace swell::graph {

Adjacency::Block::Block(int64_t keys, int32_t degree)
    : slots(std::make_unique_for_overwrite<Slot[]>(static_cast<size_t>(keys * degree))),
      norms(std::make_unique<float[]>(static_cast<size_t>(keys))) {
  for (int64_t i = 0; i < keys * degree; ++i) slots[i].store(kNoKey, std::memory_order_relaxed);
}

Adjacency::Adjacency(int64_t keys, int32_t degree) : base_keys_(keys), degree_(degree), base_(keys, degree) {}

Adjacency::~Adjacency() {
  for (int64_t i = 0; i < grown_.load(); ++i) delete blocks_[i].load();
}

bool Adjacency::Grow(int64_t keys) {
  if (keys > base_keys_ + kBlocks * kBlockKeys) return false;
  for (int64_t i = grown_.load(); base_keys_ + i * kBlockKeys < keys; ++i) {
    blocks_[i].store(new Block(kBlockKeys, degree_), std::memory_order_release);
    grown_.store(i + 1);
  }
  return true;
}

bool Adjacency::Link(uint32_t key, uint32_t neighbour, bool adopt) {
  Slot* slots = Row(key);
  const int32_t last = adopt ? degree_ : degree_ - kAdoptionSlots;
  for (int32_t i = 0; i < last; ++i) {
    const uint32_t there = slots[i].load(std::memory_order_relaxed);
    if (there == neighbour) return true;
    if (there != kNoKey) continue;
    slots[i].store(neighbour, std::memory_order_release);
    return true;
  }
  return false;
}

size_t Adjacency::bytes() const {
  const int64_t keys = base_keys_ + grown_.load() * kBlockKeys;
  return sizeof(*this) + static_cast<size_t>(keys) * (degree_ * sizeof(Slot) + sizeof(float));
}

}  // namespace swell::graph
