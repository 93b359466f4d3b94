// Every allocation of a build may fail: the build then says so, or does without it; it throws nothing and leaks
// nothing.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/index/key_world.h"
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

// The same for the graph over all keys: building, adding, searching.
TEST(GraphNoMemory, EveryRefusalIsAStatus) {
  const KeyWorld world(DType::kFloat16, 32, RandomRows(60, 32, 5, 1));
  const std::vector<float> queries = RandomQueries(20, 32, 1);
  int failed = 0;
  for (int allowed = 0;; ++allowed) {
    ASSERT_LT(allowed, 5000);
    const testing::LiveMemory live = testing::Live();
    Status status;
    {
      const testing::Refusals refusals({.first = allowed});
      auto index = BuildGraphIndex({}, world.Prefix(50), Sample(queries, 32));
      status = index.status();
      if (status.ok()) status = (*index)->Extend(world.table);
      FoundKey found[5];
      if (status.ok()) status = (*index)->Search(world.table, queries.data(), 1, 5, {}, found, nullptr);
    }
    EXPECT_EQ(testing::Live().blocks, live.blocks);
    if (testing::AllocationsRefused() == 0) {
      EXPECT_TRUE(status.ok()) << status.message();
      break;
    }
    ++failed;
    EXPECT_EQ(status.detail(), StatusDetail::kNoMemory);
  }
  EXPECT_GT(failed, 20);
}

INSTANTIATE_TEST_SUITE_P(All, IndexNoMemory, ::testing::Values(IndexKind::kFlat, IndexKind::kWave));

}  // namespace
}  // namespace swell
