// Transfer: copies of blocks between tiers, queued, ordered by need, and reported on; and the memory of the host tier.
//
// A Scheduler knows neither devices nor what a block means: it hands ranges of bytes to a CopyEngine, which the owner
// of the device supplies (MakeMemcpyEngine for host to host).
#ifndef SWELL_TRANSFER_H_
#define SWELL_TRANSFER_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "swell/status.h"

namespace swell::transfer {

using Nanoseconds = std::chrono::nanoseconds;

struct CopyRange {
  const void* source = nullptr;
  void* target = nullptr;
  size_t bytes = 0;
};

// Number of a copy, chosen by whoever starts it.
using CopyId = uint64_t;

struct CopyDone {
  CopyId id = 0;
  Status status;
};

// What can copy asynchronously. Every method from any thread. The destructor returns once no copy touches memory any
// more.
class CopyEngine {
 public:
  virtual ~CopyEngine() = default;
  // Starts one copy of all `ranges` (read during the call only) and returns. Copies may complete in any order.
  // kResourceExhausted when it can take no more until one completes; after any error nothing was started.
  virtual Status Start(CopyId id, std::span<const CopyRange> ranges) = 0;
  // Appends what has completed since the last call; the bytes of those copies are visible to the caller.
  virtual void Poll(std::vector<CopyDone>* done) = 0;
  // Blocks until Poll has something to report, nothing is being copied, or `limit` has passed on the clock of Now.
  virtual void Wait(Nanoseconds limit) = 0;
  // Monotonic.
  virtual Nanoseconds Now() const = 0;
};

// Copies with memcpy on a thread of its own, in the order of the starts. kResourceExhausted when no thread can be had.
Result<std::unique_ptr<CopyEngine>> MakeMemcpyEngine();

enum class Priority : int32_t {
  kDemand = 0,    // somebody waits for it: goes before every prefetch
  kPrefetch = 1,  // never takes the last place in flight, where there is more than one
};

struct SchedulerOptions {
  int64_t max_queued = 1024;  // requests that wait to be started, 1 ..
  int64_t max_in_flight = 4;  // requests that the engine has at a time, 1 ..
};

struct SchedulerStats {
  int64_t queued = 0;     // now
  int64_t in_flight = 0;  // now
  int64_t submitted = 0;
  int64_t completed = 0;  // with success
  int64_t failed = 0;
  int64_t cancelled = 0;
  int64_t refused = 0;  // the queue was full
  int64_t ranges_requested = 0;
  int64_t ranges_copied = 0;  // after coalescing
  uint64_t bytes_copied = 0;  // of completed requests
};

// Names one request; copies name the same one. Keeps its outcome as long as somebody holds it, also when the scheduler
// has gone. Any thread.
class Ticket {
 public:
  Ticket() = default;  // names none: never done
  bool done() const;
  // How it ended: ok, the error of the copy, kCancelled, or kAborted when the scheduler went first.
  // kFailedPrecondition while it is not done.
  Status status() const;

 private:
  friend class Scheduler;
  struct Request;
  explicit Ticket(std::shared_ptr<Request> request) : request_(std::move(request)) {}
  std::shared_ptr<Request> request_;
};

// Threads: every method, any thread. Memory named by a request stays the caller's until its ticket is done; sources are
// not written and targets not touched in between. Completions are noticed, and waiting requests started, inside Submit,
// Poll and Wait: the scheduler has no thread.
class Scheduler {
 public:
  // `engine` outlives the scheduler and serves it alone. kInvalidArgument names the option that is out of range.
  static Result<std::unique_ptr<Scheduler>> Create(const SchedulerOptions& options, CopyEngine* engine);
  // Cancels what waits; tickets in flight become kAborted, their memory may be touched until the engine has gone.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Queues one gather and starts it when its turn has come. Neighbours in both source and target become one range.
  // kInvalidArgument: no ranges, a null pointer, no bytes, or targets that overlap; kResourceExhausted: the queue is
  // full (retry after a completion) or memory is refused; nothing was queued then.
  Result<Ticket> Submit(std::span<const CopyRange> ranges, Priority priority);
  // Takes back a request that was not started. kFailedPrecondition when it was, or is not of this scheduler.
  Status Cancel(const Ticket& ticket);
  // Takes note of what has completed and starts what can start.
  void Poll();
  // Waits until `ticket` is done and returns how it ended; kDeadlineExceeded after `limit` on the engine's clock: the
  // request goes on. kInvalidArgument for a ticket that names none.
  Status Wait(const Ticket& ticket, Nanoseconds limit);

  SchedulerStats Stats() const;

 private:
  struct Impl;
  explicit Scheduler(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// --- memory of the host tier
// ------------------------------------------------------------------------------------------

// Where a HostPool takes its chunks from. Any thread; must not throw.
class HostAllocator {
 public:
  virtual ~HostAllocator() = default;
  // `bytes` aligned to kHostAlignment, or null.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* memory, size_t bytes) = 0;
};

constexpr size_t kHostAlignment = 4096;
constexpr uint64_t kMaxChunkBytes = uint64_t{1} << 30;  // larger pinned allocations take seconds and may fail

// Ordinary memory of the process; static storage.
HostAllocator* DefaultHostAllocator();

class HostPool;

// Equally large blocks. Block i lies in chunk i / blocks_per_chunk; blocks of a chunk are adjacent. Freed, and given
// back to the budget, with this object; the allocator must live until then.
class HostBlocks {
 public:
  ~HostBlocks();
  HostBlocks(const HostBlocks&) = delete;
  HostBlocks& operator=(const HostBlocks&) = delete;

  int64_t count() const { return count_; }
  uint64_t block_bytes() const { return block_bytes_; }
  int64_t blocks_per_chunk() const { return blocks_per_chunk_; }
  // 0 <= i < count.
  std::byte* block(int64_t i) const {
    return chunks_[static_cast<size_t>(i / blocks_per_chunk_)] + (i % blocks_per_chunk_) * block_bytes_;
  }

 private:
  friend class HostPool;
  HostBlocks() = default;
  uint64_t ChunkBytes(size_t chunk) const;
  std::shared_ptr<HostPool> pool_;
  std::vector<std::byte*> chunks_;
  int64_t count_ = 0;
  int64_t blocks_per_chunk_ = 1;
  uint64_t block_bytes_ = 0;
};

// Hands out host memory against a byte budget, exactly as many bytes as asked for, in chunks of at most
// `max_chunk_bytes`. Any thread.
class HostPool : public std::enable_shared_from_this<HostPool> {
 public:
  // `allocator` outlives the pool and its blocks. kInvalidArgument unless 0 < max_chunk_bytes <= kMaxChunkBytes;
  // budget_bytes 0: no limit.
  static Result<std::shared_ptr<HostPool>> Create(uint64_t budget_bytes, HostAllocator* allocator,
                                                  uint64_t max_chunk_bytes = kMaxChunkBytes);
  // Contents are not initialised. kInvalidArgument with kBadSize: nothing asked for, sizes that overflow, or a block
  // larger than a chunk. kResourceExhausted with kOverBudget or kNoMemory. After an error everything is given back.
  Result<std::unique_ptr<HostBlocks>> Allocate(uint64_t block_bytes, int64_t count);

  uint64_t used_bytes() const { return used_.load(std::memory_order_relaxed); }

 private:
  friend class HostBlocks;
  HostPool(uint64_t budget, HostAllocator* allocator, uint64_t max_chunk)
      : budget_(budget), allocator_(allocator), max_chunk_(max_chunk) {}
  bool TryCharge(uint64_t bytes);
  const uint64_t budget_;
  HostAllocator* const allocator_;
  const uint64_t max_chunk_;
  std::atomic<uint64_t> used_{0};
};

}  // namespace swell::transfer

#endif  // SWELL_TRANSFER_H_
