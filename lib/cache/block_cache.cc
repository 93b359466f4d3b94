#include <algorithm>
#include <atomic>
#include <new>
#include <utility>

#include "lib/cache/block_table.h"
#include "lib/cache/eviction.h"
#include "swell/cache.h"

namespace swell::cache {
namespace {

constexpr uint64_t kMaxSlots = uint64_t{1} << 30;

// Written by the thread of the step, read by any.
class Counter {
 public:
  void Add(int64_t by) { value_.fetch_add(by, std::memory_order_relaxed); }
  int64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

Status CheckOptions(const CacheOptions& options) {
  if (options.block_bytes == 0) return InvalidArgument("block_bytes: must be above 0", StatusDetail::kBadSize);
  const uint64_t slots = options.budget_bytes / options.block_bytes;
  if (slots == 0) return InvalidArgument("budget_bytes: holds no block", StatusDetail::kBadSize);
  if (slots > kMaxSlots) return InvalidArgument("budget_bytes: holds more than 2^30 blocks", StatusDetail::kBadSize);
  if (options.reserve_slots < 0 || static_cast<uint64_t>(options.reserve_slots) > slots) {
    return InvalidArgument("reserve_slots: must be 0 .. slots", StatusDetail::kBadSize);
  }
  if (options.policy < PolicyKind::kLru || options.policy > PolicyKind::kFrequency) {
    return InvalidArgument("policy: unknown");
  }
  if (options.policy == PolicyKind::kFrequency && !(options.decay > 0 && options.decay < 1)) {
    return InvalidArgument("decay: must be in (0, 1)");
  }
  return OkStatus();
}

}  // namespace

struct BlockCache::Books {
  Books(const CacheOptions& given, int64_t slots)
      : options(given),
        table(slots),
        policy(MakeEvictionPolicy(given.policy, slots, given.decay)),
        reserve(given.reserve_slots != 0 ? given.reserve_slots : std::max<int64_t>(slots / 16, 1)),
        owners(slots),
        admitted_in(slots, 0),
        leases(slots) {
    free.reserve(slots);
    forgotten.reserve(slots);
    for (int64_t slot = slots; slot-- > 0;) free.push_back(static_cast<Slot>(slot));
  }

  bool Leased(Slot slot) const { return leases[slot].load(std::memory_order_acquire) != 0; }
  // In the step of its admission a block is being written.
  bool Readable(Slot slot) const { return slot != kNoSlot && !(in_step && admitted_in[slot] == step); }

  const CacheOptions options;
  BlockTable table;
  std::unique_ptr<EvictionPolicy> policy;
  const int64_t reserve;
  std::vector<BlockKey> owners;              // [slots]: block of the slot
  std::vector<int64_t> admitted_in;          // [slots]: step that filled it
  std::vector<std::atomic<int32_t>> leases;  // [slots]
  std::vector<Slot> free;
  std::vector<Slot> forgotten;  // hold no block, become free at the end of a step
  int64_t step = 0;             // number of the step that is open, or of the last
  bool in_step = false;
  Counter blocks, steps, hits, misses, admitted, evicted;
};

BlockLease::BlockLease(BlockLease&& other) noexcept
    : slot_(std::exchange(other.slot_, kNoSlot)), count_(std::exchange(other.count_, nullptr)) {}

BlockLease& BlockLease::operator=(BlockLease&& other) noexcept {
  BlockLease moved(std::move(other));
  std::swap(slot_, moved.slot_);
  std::swap(count_, moved.count_);
  return *this;
}

BlockLease::~BlockLease() {
  if (count_ != nullptr) count_->fetch_sub(1, std::memory_order_release);
}

Result<std::unique_ptr<BlockCache>> BlockCache::Create(const CacheOptions& options) {
  SWELL_RETURN_IF_ERROR(CheckOptions(options));
  try {
    auto books = std::make_unique<Books>(options, static_cast<int64_t>(options.budget_bytes / options.block_bytes));
    return std::unique_ptr<BlockCache>(new BlockCache(std::move(books)));
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory for the block table", StatusDetail::kNoMemory);
  }
}

BlockCache::BlockCache(std::unique_ptr<Books> books) : books_(std::move(books)) {}
BlockCache::~BlockCache() = default;

Status BlockCache::BeginStep() {
  if (books_->in_step) return Status(StatusCode::kFailedPrecondition, "BeginStep: a step is open");
  books_->in_step = true;
  ++books_->step;
  books_->policy->Step();
  return OkStatus();
}

Status BlockCache::Plan(std::span<const BlockKey> keys, std::span<Placement> placements) {
  Books& books = *books_;
  if (!books.in_step) return Status(StatusCode::kFailedPrecondition, "Plan: no step is open");
  if (placements.size() != keys.size()) {
    return InvalidArgument("placements: must be as many as keys", StatusDetail::kBadSize);
  }
  int64_t hits = 0;
  int64_t admitted = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    const Slot found = books.table.Find(keys[i]);
    if (books.Readable(found)) {
      books.policy->Touch(found);
      placements[i] = {found, true};
      ++hits;
    } else if (found != kNoSlot || books.free.empty()) {
      placements[i] = {};
    } else {
      const Slot slot = books.free.back();
      books.free.pop_back();
      books.table.Insert(keys[i], slot);
      books.owners[slot] = keys[i];
      books.admitted_in[slot] = books.step;
      books.policy->Admit(slot);
      placements[i] = {slot, false};
      ++admitted;
    }
  }
  books.hits.Add(hits);
  books.misses.Add(static_cast<int64_t>(keys.size()) - hits);
  books.admitted.Add(admitted);
  books.blocks.Add(admitted);
  return OkStatus();
}

Status BlockCache::EndStep() {
  Books& books = *books_;
  if (!books.in_step) return Status(StatusCode::kFailedPrecondition, "EndStep: no step is open");
  books.in_step = false;
  std::erase_if(books.forgotten, [&](Slot slot) {
    if (books.Leased(slot)) return false;
    books.free.push_back(slot);
    return true;
  });
  int64_t evicted = 0;
  while (static_cast<int64_t>(books.free.size()) < books.reserve) {
    const Slot victim = books.policy->Victim([&](Slot slot) { return !books.Leased(slot); });
    if (victim == kNoSlot) break;
    books.policy->Remove(victim);
    books.table.Erase(books.owners[victim]);
    books.free.push_back(victim);
    ++evicted;
  }
  books.evicted.Add(evicted);
  books.blocks.Add(-evicted);
  books.steps.Add(1);
  return OkStatus();
}

bool BlockCache::Contains(BlockKey key) const { return books_->Readable(books_->table.Find(key)); }

Result<BlockLease> BlockCache::Lease(BlockKey key) {
  const Slot slot = books_->table.Find(key);
  if (!books_->Readable(slot)) return Status(StatusCode::kNotFound, "key: the block is not cached");
  books_->leases[slot].fetch_add(1, std::memory_order_relaxed);
  return BlockLease(slot, &books_->leases[slot]);
}

bool BlockCache::Forget(BlockKey key) {
  const Slot slot = books_->table.Erase(key);
  if (slot == kNoSlot) return false;
  books_->policy->Remove(slot);
  books_->forgotten.push_back(slot);
  books_->blocks.Add(-1);
  return true;
}

CacheStats BlockCache::Stats() const {
  const Books& books = *books_;
  CacheStats stats;
  stats.slots = static_cast<int64_t>(books.owners.size());
  stats.blocks = books.blocks.get();
  stats.steps = books.steps.get();
  stats.hits = books.hits.get();
  stats.misses = books.misses.get();
  stats.admitted = books.admitted.get();
  stats.evicted = books.evicted.get();
  stats.bytes_hit = static_cast<uint64_t>(stats.hits) * books.options.block_bytes;
  stats.bytes_missed = static_cast<uint64_t>(stats.misses) * books.options.block_bytes;
  return stats;
}

}  // namespace swell::cache
