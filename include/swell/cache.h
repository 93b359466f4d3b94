// Block cache: which block lies in which slot of a fast tier, and which block gives way.
//
// The cache keeps the books; it owns no block memory and moves no bytes. A slot is a number: its bytes lie wherever the
// caller keeps the tier, at slot * block_bytes.
//
// Work goes in steps, plan first, then execute:
//   BeginStep   opens a step
//   Plan        says for each block where to read it and, for a miss, which slot it is to be written to on the way
//   ...         the caller reads hits from their slots, and misses from their home, filling the slots handed out
//   EndStep     every read and write of the step has finished: blocks are evicted until enough slots are free again
// Slots are handed out only from those that were free before the step began, so nobody reads a slot that is being
// written, and eviction is off the path of the plan. A reader that outlives its step takes a lease: a leased slot is
// neither evicted nor handed out.
//
// Threads: one step at a time per cache; BeginStep, Plan, EndStep, Lease, Forget and Contains need outside order among
// each other. A BlockLease may be dropped, and Stats called, from any thread at any time.
#ifndef SWELL_CACHE_H_
#define SWELL_CACHE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "swell/status.h"

namespace swell::cache {

// Stamp of a block: tells blocks apart, means nothing to the cache. Every value is allowed.
enum class BlockKey : uint64_t {};

using Slot = int32_t;
constexpr Slot kNoSlot = -1;

enum class PolicyKind : int32_t {
  kLru = 0,        // least recently used
  kClock = 1,      // second chance: one reference bit a slot, cheap where slots are touched by many
  kFrequency = 2,  // least sum over its uses of decay ^ (steps since)
};

struct CacheOptions {
  uint64_t block_bytes = 0;   // > 0
  uint64_t budget_bytes = 0;  // of the blocks; slots = budget_bytes / block_bytes, 1 .. 2^30
  // Free slots that EndStep keeps for the misses of the next step, at most slots; 0: a sixteenth of them, at least one.
  int64_t reserve_slots = 0;
  PolicyKind policy = PolicyKind::kClock;
  double decay = 0.9;  // only for kFrequency, (0, 1)
};

// Where a block of a plan is. hit: read it from `slot`. Otherwise read it from its home, and write it to `slot` on the
// way unless that is kNoSlot: then no slot was free, or the block is already being written in this step.
struct Placement {
  Slot slot = kNoSlot;
  bool hit = false;
};

struct CacheStats {
  int64_t slots = 0;
  int64_t blocks = 0;  // cached now
  int64_t steps = 0;   // ended
  int64_t hits = 0;
  int64_t misses = 0;
  int64_t admitted = 0;  // misses that were given a slot
  int64_t evicted = 0;
  uint64_t bytes_hit = 0;
  uint64_t bytes_missed = 0;
};

// Holds one slot against eviction until it is dropped. Must not outlive the cache.
class BlockLease {
 public:
  BlockLease() = default;
  BlockLease(BlockLease&& other) noexcept;
  BlockLease& operator=(BlockLease&& other) noexcept;
  ~BlockLease();
  Slot slot() const { return slot_; }  // kNoSlot once moved from

 private:
  friend class BlockCache;
  BlockLease(Slot slot, std::atomic<int32_t>* count) : slot_(slot), count_(count) {}
  Slot slot_ = kNoSlot;
  std::atomic<int32_t>* count_ = nullptr;
};

class BlockCache {
 public:
  // kInvalidArgument names the option that is out of range; kResourceExhausted when memory for the books is refused.
  // Nothing is allocated afterwards.
  static Result<std::unique_ptr<BlockCache>> Create(const CacheOptions& options);
  ~BlockCache();
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  // kFailedPrecondition while a step is open.
  Status BeginStep();
  // placements[i] belongs to keys[i]; a step may be planned in several calls. kFailedPrecondition outside a step,
  // kInvalidArgument when the sizes differ; then nothing is planned.
  Status Plan(std::span<const BlockKey> keys, std::span<Placement> placements);
  // kFailedPrecondition outside a step.
  Status EndStep();

  // Whether `key` can be read from a slot now; neither counts nor changes anything (for cache-aware selection).
  bool Contains(BlockKey key) const;
  // kNotFound when `key` is not cached, or is still being written in the step that is open.
  Result<BlockLease> Lease(BlockKey key);
  // Drops a block: its owner is gone, or writing it to its slot failed. The slot is free after the next EndStep at
  // which nobody leases it. False when the block was not cached.
  bool Forget(BlockKey key);

  CacheStats Stats() const;

 private:
  struct Books;
  explicit BlockCache(std::unique_ptr<Books> books);
  std::unique_ptr<Books> books_;
};

// --- trace simulation
// -------------------------------------------------------------------------------------------------

// The blocks that each step reads; a block that stands twice in a step counts once.
using Trace = std::vector<std::vector<BlockKey>>;

struct TraceResult {
  int64_t hits = 0;
  int64_t misses = 0;
  double hit_ratio() const { return hits + misses == 0 ? 0 : static_cast<double>(hits) / (hits + misses); }
};

// Runs `trace` through a BlockCache with `options`; the first `warm_steps` steps are not counted.
Result<TraceResult> SimulateTrace(const CacheOptions& options, const Trace& trace, int64_t warm_steps = 0);

// What no policy can beat (Belady, 1966): after each step the `slots` blocks with the nearest next use stay, among
// those cached before and those just read. kInvalidArgument unless slots > 0.
Result<TraceResult> SimulateOptimum(int64_t slots, const Trace& trace, int64_t warm_steps = 0);

}  // namespace swell::cache

#endif  // SWELL_CACHE_H_
