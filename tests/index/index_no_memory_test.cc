// Every allocation of a build may fail: the build then says so, throws nothing and leaks nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/index/head_rows.h"

namespace {

// Allocations until one is refused; negative: none is.
std::atomic<int> allocations_left{-1};

void* Allocate(size_t bytes, size_t alignment) {
  if (allocations_left.load() >= 0 && allocations_left.fetch_sub(1) == 0) return nullptr;
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment + (bytes == 0 ? alignment : 0));
}

void* AllocateOrThrow(size_t bytes, size_t alignment) {
  void* memory = Allocate(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return AllocateOrThrow(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return Allocate(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return AllocateOrThrow(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace swell {
namespace {

class IndexNoMemory : public testing::TestWithParam<IndexKind> {};

TEST_P(IndexNoMemory, EveryRefusalIsAStatus) {
  const HeadRows head = RandomHead(DType::kFloat16, 64, 200, 1);
  const std::vector<KvRun> runs = head.Whole();
  const auto builder = MakeBuilder({.kind = GetParam()});
  for (int allowed = 0;; ++allowed) {
    ASSERT_LT(allowed, 100);
    allocations_left = allowed;
    auto index = builder->Build(head.shape, runs);
    const bool refused = allocations_left.exchange(-1) < 0;
    if (index.ok()) {
      EXPECT_FALSE(refused);
      EXPECT_GT(allowed, 0);
      break;
    }
    EXPECT_TRUE(refused);
    EXPECT_EQ(index.status().code(), StatusCode::kResourceExhausted);
    EXPECT_EQ(index.status().detail(), StatusDetail::kNoMemory);
  }
}

INSTANTIATE_TEST_SUITE_P(All, IndexNoMemory, testing::Values(IndexKind::kFlat, IndexKind::kWave));

}  // namespace
}  // namespace swell
