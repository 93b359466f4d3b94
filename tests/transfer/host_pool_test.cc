// Goal: memory is exact in size, inside the budget, and comes back whatever fails. Method: an allocator that keeps
// books and refuses at the n-th chunk.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <vector>

#include "swell/transfer.h"

namespace swell::transfer {
namespace {

class BookKeeper final : public HostAllocator {
 public:
  void* Allocate(size_t bytes) override {
    if (refuse_after-- == 0) return nullptr;
    void* memory = DefaultHostAllocator()->Allocate(bytes);
    held[memory] = bytes;
    return memory;
  }
  void Free(void* memory, size_t bytes) override {
    EXPECT_EQ(held[memory], bytes);
    held.erase(memory);
    DefaultHostAllocator()->Free(memory, bytes);
  }
  size_t held_bytes() const {
    size_t sum = 0;
    for (const auto& [memory, bytes] : held) sum += bytes;
    return sum;
  }
  std::map<void*, size_t> held;
  int refuse_after = -1;
};

TEST(HostPool, TakesExactlyWhatIsAskedInChunks) {
  BookKeeper keeper;
  auto pool = std::move(HostPool::Create(1 << 20, &keeper, 10000)).value();
  auto blocks = std::move(pool->Allocate(3000, 8)).value();  // 3 a chunk: 3 + 3 + 2
  EXPECT_EQ(blocks->blocks_per_chunk(), 3);
  EXPECT_EQ(keeper.held.size(), 3U);
  EXPECT_EQ(keeper.held_bytes(), 24000U);
  EXPECT_EQ(pool->used_bytes(), 24000U);
  for (int64_t i = 0; i < 8; ++i) std::memset(blocks->block(i), static_cast<int>(i), 3000);
  for (int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(blocks->block(i)[0], std::byte(i));
    EXPECT_EQ(blocks->block(i)[2999], std::byte(i));
    if (i % 3 == 0) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(blocks->block(i)) % kHostAlignment, 0U);
    } else {
      EXPECT_EQ(blocks->block(i), blocks->block(i - 1) + 3000);
    }
  }
  HostPool* alive = pool.get();
  pool.reset();  // the blocks keep it
  EXPECT_EQ(alive->used_bytes(), 24000U);
  blocks.reset();
  EXPECT_TRUE(keeper.held.empty());
}

TEST(HostPool, KeepsItsBudget) {
  BookKeeper keeper;
  const auto pool = std::move(HostPool::Create(1000, &keeper)).value();
  auto first = std::move(pool->Allocate(100, 6)).value();
  EXPECT_EQ(pool->Allocate(100, 5).status().detail(), StatusDetail::kOverBudget);
  EXPECT_EQ(pool->used_bytes(), 600U);
  auto second = pool->Allocate(100, 4);
  EXPECT_TRUE(second.ok());
  EXPECT_EQ(pool->used_bytes(), 1000U);
  first.reset();
  EXPECT_EQ(pool->used_bytes(), 400U);
}

TEST(HostPool, ARefusedChunkGivesAllBack) {
  for (int n = 0; n < 4; ++n) {
    BookKeeper keeper;
    keeper.refuse_after = n;
    const auto pool = std::move(HostPool::Create(0, &keeper, 4096)).value();
    EXPECT_EQ(pool->Allocate(1024, 16).status().detail(), StatusDetail::kNoMemory);
    EXPECT_TRUE(keeper.held.empty());
    EXPECT_EQ(pool->used_bytes(), 0U);
    EXPECT_TRUE(pool->Allocate(1024, 16).ok());
  }
}

TEST(HostPool, RefusesBadSizes) {
  EXPECT_EQ(HostPool::Create(0, nullptr).status().detail(), StatusDetail::kNullPointer);
  EXPECT_EQ(HostPool::Create(0, DefaultHostAllocator(), 0).status().detail(), StatusDetail::kBadSize);
  EXPECT_EQ(HostPool::Create(0, DefaultHostAllocator(), kMaxChunkBytes + 1).status().detail(), StatusDetail::kBadSize);
  const auto pool = std::move(HostPool::Create(0, DefaultHostAllocator())).value();
  EXPECT_EQ(pool->Allocate(0, 1).status().detail(), StatusDetail::kBadSize);
  EXPECT_EQ(pool->Allocate(kMaxChunkBytes + 1, 1).status().detail(), StatusDetail::kBadSize);
  EXPECT_EQ(pool->Allocate(1, 0).status().detail(), StatusDetail::kBadSize);
  EXPECT_EQ(pool->Allocate(1, -1).status().detail(), StatusDetail::kBadSize);
  EXPECT_EQ(pool->Allocate(1 << 20, INT64_MAX / 2).status().detail(), StatusDetail::kBadSize);
  EXPECT_EQ(pool->used_bytes(), 0U);
}

}  // namespace
}  // namespace swell::transfer
