// Every allocation of a build may fail: the build then says so, or does without it; it throws nothing and leaks
// nothing.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/index/head_rows.h"
#include "tests/support/allocations.h"

namespace swell {
namespace {

class IndexNoMemory : public ::testing::TestWithParam<IndexKind> {};

TEST_P(IndexNoMemory, EveryRefusalIsAStatus) {
  const HeadRows head = RandomHead(DType::kFloat16, 64, 200, 1);
  const std::vector<KvRun> runs = head.Whole();
  const auto builder = MakeBuilder({.kind = GetParam()});
  const auto undisturbed = builder->Build(head.shape, runs);
  ASSERT_TRUE(undisturbed.ok());
  int failed = 0;
  for (int allowed = 0;; ++allowed) {
    ASSERT_LT(allowed, 100);
    const testing::LiveMemory live = testing::Live();
    const auto index = [&] {
      const testing::Refusals refusals({.first = allowed});
      return builder->Build(head.shape, runs);
    }();
    const bool refused = testing::AllocationsRefused() > 0;
    if (index.ok()) {
      EXPECT_TRUE(std::ranges::equal((*index)->order(), (*undisturbed)->order()));
      if (!refused) break;
      continue;
    }
    ++failed;
    EXPECT_TRUE(refused);
    EXPECT_EQ(index.status().code(), StatusCode::kResourceExhausted);
    EXPECT_EQ(index.status().detail(), StatusDetail::kNoMemory);
    EXPECT_EQ(testing::Live().blocks, live.blocks);
  }
  EXPECT_GT(failed, 0);
}

INSTANTIATE_TEST_SUITE_P(All, IndexNoMemory, ::testing::Values(IndexKind::kFlat, IndexKind::kWave));

}  // namespace
}  // namespace swell
