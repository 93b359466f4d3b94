#include <cstring>
#include <new>
#include <utility>

#include "lib/base/checked.h"
#include "lib/base/pages.h"
#include "swell/store.h"

namespace swell {
namespace {

constexpr int64_t RoundUp(int64_t bytes) { return (bytes + 63) & ~int64_t{63}; }

}  // namespace

Result<std::shared_ptr<KvBlock>> KvBlock::Allocate(std::shared_ptr<ByteBudget> budget, int32_t kv_heads,
                                                   const HeadShape& shape, int64_t capacity) {
  const int64_t row_bytes = shape.head_dim * static_cast<int64_t>(DTypeSize(shape.storage));
  const int64_t scale_bytes = shape.storage == DType::kInt8 ? sizeof(float) : 0;
  int64_t tensor_bytes = 0;
  int64_t all_scale_bytes = 0;
  int64_t total = 0;
  if (!CheckedProduct({kv_heads, capacity, row_bytes}, &tensor_bytes) ||
      !CheckedProduct({2, kv_heads, capacity, scale_bytes}, &all_scale_bytes) || tensor_bytes > INT64_MAX / 4 ||
      __builtin_add_overflow(2 * RoundUp(tensor_bytes), RoundUp(all_scale_bytes), &total)) {
    return InvalidArgument("tokens: the size of the block overflows", StatusDetail::kBadSize);
  }
  if (!budget->TryCharge(static_cast<uint64_t>(total))) {
    return Status(StatusCode::kResourceExhausted, "the byte budget of the engine would be exceeded",
                  StatusDetail::kOverBudget);
  }
  std::shared_ptr<KvBlock> block;
  auto* memory = static_cast<std::byte*>(AllocatePages(static_cast<size_t>(total)));
  try {
    if (memory != nullptr) block = std::shared_ptr<KvBlock>(new KvBlock());
  } catch (const std::bad_alloc&) {
    FreePages(memory, static_cast<size_t>(total));
    memory = nullptr;
  }
  if (block == nullptr) {
    budget->Refund(static_cast<uint64_t>(total));
    return Status(StatusCode::kResourceExhausted, "out of memory for a block of rows", StatusDetail::kNoMemory);
  }
  std::memset(memory, 0, static_cast<size_t>(total));
  block->budget_ = std::move(budget);
  block->keys_ = memory;
  block->values_ = memory + RoundUp(tensor_bytes);
  if (scale_bytes != 0) block->scales_ = reinterpret_cast<float*>(memory + 2 * RoundUp(tensor_bytes));
  block->kv_heads_ = kv_heads;
  block->capacity_ = capacity;
  block->row_bytes_ = row_bytes;
  block->bytes_ = static_cast<uint64_t>(total);
  return block;
}

KvBlock::~KvBlock() {
  FreePages(keys_, bytes_);
  if (budget_ != nullptr) budget_->Refund(bytes_);
}

bool KvBlock::TryClaim(int64_t row, int64_t tokens) {
  if (tokens < 0 || row < 0 || row > capacity_ - tokens) return false;
  return claimed_.compare_exchange_strong(row, row + tokens, std::memory_order_acq_rel);
}

void KvBlock::DropClaim(int64_t row, int64_t tokens) {
  int64_t end = row + tokens;
  claimed_.compare_exchange_strong(end, row, std::memory_order_acq_rel);
}

KvRun KvBlock::Run(int32_t head, int64_t row, int64_t tokens) const {
  KvRun run;
  run.keys = keys(head, row);
  run.values = values(head, row);
  if (scales_ != nullptr) {
    run.key_scales = scales_ + head * capacity_ + row;
    run.value_scales = scales_ + (kv_heads_ + head) * capacity_ + row;
  }
  run.tokens = tokens;
  return run;
}

}  // namespace swell
