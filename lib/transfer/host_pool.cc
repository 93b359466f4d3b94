#include <algorithm>
#include <new>

#include "lib/base/checked.h"
#include "swell/transfer.h"

namespace swell::transfer {
namespace {

class NewAllocator final : public HostAllocator {
 public:
  void* Allocate(size_t bytes) override {
    return ::operator new (bytes, std::align_val_t{kHostAlignment}, std::nothrow);
  }
  void Free(void* memory, size_t /*bytes*/) override {
    ::operator delete (memory, std::align_val_t{kHostAlignment}, std::nothrow);
  }
};

Status NoMemory() {
  return Status(StatusCode::kResourceExhausted, "out of memory for blocks of the host tier", StatusDetail::kNoMemory);
}

}  // namespace

HostAllocator* DefaultHostAllocator() {
  static NewAllocator allocator;
  return &allocator;
}

Result<std::shared_ptr<HostPool>> HostPool::Create(uint64_t budget_bytes, HostAllocator* allocator,
                                                   uint64_t max_chunk_bytes) {
  if (allocator == nullptr) return InvalidArgument("allocator: null", StatusDetail::kNullPointer);
  if (max_chunk_bytes == 0 || max_chunk_bytes > kMaxChunkBytes) {
    return InvalidArgument("max_chunk_bytes: must be 1 .. 2^30", StatusDetail::kBadSize);
  }
  try {
    return std::shared_ptr<HostPool>(new HostPool(budget_bytes, allocator, max_chunk_bytes));
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
}

bool HostPool::TryCharge(uint64_t bytes) {
  uint64_t used = used_.load(std::memory_order_relaxed);
  uint64_t after = 0;
  do {
    if (__builtin_add_overflow(used, bytes, &after) || (budget_ != 0 && after > budget_)) return false;
  } while (!used_.compare_exchange_weak(used, after, std::memory_order_relaxed));
  return true;
}

Result<std::unique_ptr<HostBlocks>> HostPool::Allocate(uint64_t block_bytes, int64_t count) {
  int64_t total = 0;
  if (block_bytes == 0 || block_bytes > max_chunk_) {
    return InvalidArgument("block_bytes: must be 1 .. the size of a chunk", StatusDetail::kBadSize);
  }
  if (count <= 0 || !CheckedProduct({static_cast<int64_t>(block_bytes), count}, &total)) {
    return InvalidArgument("count: 0, or the size overflows", StatusDetail::kBadSize);
  }
  if (!TryCharge(static_cast<uint64_t>(total))) {
    return Status(StatusCode::kResourceExhausted, "the byte budget of the host tier would be exceeded",
                  StatusDetail::kOverBudget);
  }
  std::unique_ptr<HostBlocks> blocks;
  try {
    blocks = std::unique_ptr<HostBlocks>(new HostBlocks());
  } catch (const std::bad_alloc&) {
    used_.fetch_sub(static_cast<uint64_t>(total), std::memory_order_relaxed);
    return NoMemory();
  }
  // From here on the destructor of `blocks` gives everything back.
  blocks->pool_ = shared_from_this();
  blocks->count_ = count;
  blocks->block_bytes_ = block_bytes;
  blocks->blocks_per_chunk_ = static_cast<int64_t>(max_chunk_ / block_bytes);
  const auto chunks = static_cast<size_t>((count - 1) / blocks->blocks_per_chunk_ + 1);
  try {
    blocks->chunks_.reserve(chunks);
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    void* memory = allocator_->Allocate(blocks->ChunkBytes(chunk));
    if (memory == nullptr) return NoMemory();
    blocks->chunks_.push_back(static_cast<std::byte*>(memory));
  }
  return blocks;
}

uint64_t HostBlocks::ChunkBytes(size_t chunk) const {
  const int64_t before = static_cast<int64_t>(chunk) * blocks_per_chunk_;
  return static_cast<uint64_t>(std::min(blocks_per_chunk_, count_ - before)) * block_bytes_;
}

HostBlocks::~HostBlocks() {
  for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) pool_->allocator_->Free(chunks_[chunk], ChunkBytes(chunk));
  pool_->used_.fetch_sub(static_cast<uint64_t>(count_) * block_bytes_, std::memory_order_relaxed);
}

}  // namespace swell::transfer
