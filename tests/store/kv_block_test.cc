// Goal: rows lie apart, claims go to one writer, and memory is charged exactly while a block lives.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "swell/store.h"

namespace swell {
namespace {

HeadShape Shape(DType storage) { return {32, 2, 1.0F, storage}; }

TEST(KvBlock, ChargesTheBudgetWhileItLives) {
  auto budget = std::make_shared<ByteBudget>(0);
  {
    auto block = KvBlock::Allocate(budget, 3, Shape(DType::kInt8), 10);
    ASSERT_TRUE(block.ok());
    EXPECT_EQ(budget->used(), (*block)->bytes());
    EXPECT_GE((*block)->bytes(), 2U * 3U * 10U * (32U + 4U));
  }
  EXPECT_EQ(budget->used(), 0U);
}

TEST(KvBlock, RefusedByTheBudgetChargesNothing) {
  auto budget = std::make_shared<ByteBudget>(100);
  const auto block = KvBlock::Allocate(budget, 3, Shape(DType::kFloat16), 10);
  EXPECT_EQ(block.status().detail(), StatusDetail::kOverBudget);
  EXPECT_EQ(budget->used(), 0U);
}

TEST(KvBlock, RefusesSizesThatOverflow) {
  auto budget = std::make_shared<ByteBudget>(0);
  const auto block = KvBlock::Allocate(budget, 1024, Shape(DType::kFloat32), INT64_MAX / 64);
  EXPECT_EQ(block.status().detail(), StatusDetail::kBadSize);
}

TEST(KvBlock, RefusedByTheAllocatorGivesTheBudgetBack) {
  auto budget = std::make_shared<ByteBudget>(0);
  const auto block = KvBlock::Allocate(budget, 1, Shape(DType::kFloat32), int64_t{1} << 50);
  EXPECT_EQ(block.status().detail(), StatusDetail::kNoMemory);
  EXPECT_EQ(budget->used(), 0U);
}

TEST(KvBlock, RowsOfHeadsAndTensorsDoNotOverlap) {
  for (const DType storage : {DType::kFloat32, DType::kFloat16, DType::kInt8}) {
    auto block = KvBlock::Allocate(std::make_shared<ByteBudget>(0), 3, Shape(storage), 7);
    ASSERT_TRUE(block.ok());
    const size_t row_bytes = 32 * DTypeSize(storage);
    int mark = 1;
    for (int32_t head = 0; head < 3; ++head) {
      for (int64_t row = 0; row < 7; ++row, ++mark) {
        std::memset((*block)->keys(head, row), mark, row_bytes);
        std::memset((*block)->values(head, row), mark + 100, row_bytes);
        if (storage != DType::kInt8) continue;
        *(*block)->key_scales(head, row) = static_cast<float>(mark);
        *(*block)->value_scales(head, row) = static_cast<float>(-mark);
      }
    }
    mark = 1;
    for (int32_t head = 0; head < 3; ++head) {
      for (int64_t row = 0; row < 7; ++row, ++mark) {
        const KvRun run = (*block)->Run(head, row, 1);
        for (size_t b = 0; b < row_bytes; ++b) {
          ASSERT_EQ(static_cast<const uint8_t*>(run.keys)[b], mark);
          ASSERT_EQ(static_cast<const uint8_t*>(run.values)[b], mark + 100);
        }
        ASSERT_EQ(run.key_scales != nullptr, storage == DType::kInt8);
        if (storage != DType::kInt8) continue;
        ASSERT_EQ(run.key_scales[0], static_cast<float>(mark));
        ASSERT_EQ(run.value_scales[0], static_cast<float>(-mark));
      }
    }
  }
}

TEST(KvBlock, OnlyTheWriterAtTheEndGetsAClaim) {
  auto block = std::move(KvBlock::Allocate(std::make_shared<ByteBudget>(0), 1, Shape(DType::kFloat16), 8)).value();
  EXPECT_TRUE(block->TryClaim(0, 3));
  EXPECT_FALSE(block->TryClaim(2, 1));
  EXPECT_FALSE(block->TryClaim(4, 1));
  EXPECT_FALSE(block->TryClaim(3, 6));
  EXPECT_TRUE(block->TryClaim(3, 5));
  block->DropClaim(3, 5);
  EXPECT_TRUE(block->TryClaim(3, 1));
}

TEST(KvBlock, RacingClaimsHaveOneWinner) {
  auto block = std::move(KvBlock::Allocate(std::make_shared<ByteBudget>(0), 1, Shape(DType::kFloat16), 1000)).value();
  for (int64_t row = 0; row < 1000; ++row) {
    std::atomic<int> winners{0};
    std::thread other([&] { winners += block->TryClaim(row, 1) ? 1 : 0; });
    winners += block->TryClaim(row, 1) ? 1 : 0;
    other.join();
    ASSERT_EQ(winners.load(), 1);
  }
}

}  // namespace
}  // namespace swell
