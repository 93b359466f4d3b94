#include "lib/engine/sequence.h"

#include <atomic>
#include <utility>

namespace swell {
namespace {

uint32_t NextGeneration() {
  static std::atomic<uint32_t> counter{0};
  uint32_t generation = 0;
  while (generation == 0) generation = counter.fetch_add(1, std::memory_order_relaxed) + 1;
  return generation;
}

constexpr uint32_t SlotOf(SequenceId id) { return static_cast<uint32_t>(static_cast<uint64_t>(id)); }
constexpr uint32_t GenerationOf(SequenceId id) { return static_cast<uint32_t>(static_cast<uint64_t>(id) >> 32); }

}  // namespace

SequenceId SequenceTable::Insert(std::shared_ptr<Sequence> sequence) {
  std::unique_lock lock(mutex_);
  if (free_.empty()) {
    free_.reserve(slots_.size() + 1);  // so that Remove never allocates
    slots_.emplace_back();
    free_.push_back(static_cast<uint32_t>(slots_.size() - 1));
  }
  const uint32_t slot = free_.back();
  free_.pop_back();
  slots_[slot] = {NextGeneration(), std::move(sequence)};
  return static_cast<SequenceId>(uint64_t{slots_[slot].generation} << 32 | slot);
}

std::shared_ptr<Sequence> SequenceTable::Find(SequenceId id) const {
  std::shared_lock lock(mutex_);
  const uint32_t slot = SlotOf(id);
  if (slot >= slots_.size() || slots_[slot].generation != GenerationOf(id)) return nullptr;
  return slots_[slot].sequence;
}

std::shared_ptr<Sequence> SequenceTable::Remove(SequenceId id) {
  std::unique_lock lock(mutex_);
  const uint32_t slot = SlotOf(id);
  if (slot >= slots_.size() || slots_[slot].generation != GenerationOf(id) || !slots_[slot].sequence) return nullptr;
  slots_[slot].generation = 0;
  free_.push_back(slot);
  return std::move(slots_[slot].sequence);
}

int64_t SequenceTable::size() const {
  std::shared_lock lock(mutex_);
  return static_cast<int64_t>(slots_.size() - free_.size());
}

}  // namespace swell
