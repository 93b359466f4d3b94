// Memory of the host tier: byte budget and blocks of K and V rows.
#ifndef SWELL_STORE_H_
#define SWELL_STORE_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "swell/status.h"
#include "swell/types.h"

namespace swell {

// Counts bytes against a limit. Any thread.
class ByteBudget {
 public:
  explicit ByteBudget(uint64_t limit_bytes) : limit_(limit_bytes) {}
  // False, and nothing is charged, when the limit (0: none) would be passed.
  bool TryCharge(uint64_t bytes);
  void Refund(uint64_t bytes);
  uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  uint64_t peak() const { return peak_.load(std::memory_order_relaxed); }
  uint64_t limit() const { return limit_; }

 private:
  const uint64_t limit_;
  std::atomic<uint64_t> used_{0};
  std::atomic<uint64_t> peak_{0};
};

// Rows of K and V of all KV heads of one layer: [kv_heads, capacity, head_dim] each, 64-byte aligned, zero-filled.
// Readers may read rows below a length that was published to them while the owner of the claim writes rows above it.
class KvBlock {
 public:
  // kResourceExhausted with kOverBudget or kNoMemory. The block keeps the budget alive and refunds it.
  static Result<std::shared_ptr<KvBlock>> Allocate(std::shared_ptr<ByteBudget> budget, int32_t kv_heads,
                                                   const HeadShape& shape, int64_t capacity);
  ~KvBlock();
  KvBlock(const KvBlock&) = delete;
  KvBlock& operator=(const KvBlock&) = delete;

  int64_t capacity() const { return capacity_; }
  uint64_t bytes() const { return bytes_; }

  // Takes rows [row, row + tokens) for writing: true for exactly one caller that continues at the end of what is
  // claimed. A sequence that is refused (another fork wrote there, or it was truncated) copies the block.
  bool TryClaim(int64_t row, int64_t tokens);
  // Gives back the latest claim, whose rows were never published.
  void DropClaim(int64_t row, int64_t tokens);

  // Row addresses in storage dtype; scales are null unless it is int8.
  std::byte* keys(int32_t head, int64_t row) { return keys_ + Offset(head, row); }
  std::byte* values(int32_t head, int64_t row) { return values_ + Offset(head, row); }
  const std::byte* keys(int32_t head, int64_t row) const { return keys_ + Offset(head, row); }
  const std::byte* values(int32_t head, int64_t row) const { return values_ + Offset(head, row); }
  float* key_scales(int32_t head, int64_t row) { return scales_ ? scales_ + head * capacity_ + row : nullptr; }
  float* value_scales(int32_t head, int64_t row) {
    return scales_ ? scales_ + (kv_heads_ + head) * capacity_ + row : nullptr;
  }
  // Rows [row, row + tokens) of one head; `offsets` of the run is null and first_token is 0.
  KvRun Run(int32_t head, int64_t row, int64_t tokens) const;

 private:
  KvBlock() = default;
  int64_t Offset(int32_t head, int64_t row) const { return (head * capacity_ + row) * row_bytes_; }

  std::shared_ptr<ByteBudget> budget_;
  std::byte* keys_ = nullptr;
  std::byte* values_ = nullptr;
  float* scales_ = nullptr;
  int64_t kv_heads_ = 0;
  int64_t capacity_ = 0;
  int64_t row_bytes_ = 0;
  uint64_t bytes_ = 0;
  std::atomic<int64_t> claimed_{0};
};

}  // namespace swell

#endif  // SWELL_STORE_H_
