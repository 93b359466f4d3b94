// What only the graph promises: connected, bounded, repeatable, drawn from queries.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/index/key_world.h"
#include "tests/support/each_target.h"

namespace swell {
namespace {

constexpr uint32_t kSeed = 4711;
constexpr int32_t kHeadDim = 64;

std::unique_ptr<KeyIndex> Build(const GraphOptions& options, const KeyTable& keys, const std::vector<float>& queries) {
  auto index = BuildGraphIndex(options, keys, Sample(queries, keys.head_dim));
  EXPECT_TRUE(index.ok()) << index.status().message();
  return index.ok() ? std::move(index).value() : nullptr;
}

// A search that may look at everything looks at everything.
void ExpectConnected(const KeyIndex& index, const KeyTable& keys) {
  const std::vector<float> query = RandomQueries(1, keys.head_dim, kSeed);
  std::vector<FoundKey> found(index.tokens());
  ASSERT_TRUE(
      index.Search(keys, query.data(), 1, index.tokens(), {index.tokens(), index.tokens()}, found.data(), nullptr)
          .ok());
  for (const FoundKey& key : found) ASSERT_NE(key.token, -1);
}

TEST(GraphIndexTest, EveryKeyIsReached) {
  for (const int64_t queries : {0, 1, 30, 400}) {
    for (const int64_t tokens : {1, 2, 5, 33, 500}) {
      SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", tokens " << tokens << ", queries " << queries);
      const KeyWorld world(DType::kFloat16, kHeadDim, RandomRows(tokens, kHeadDim, 9, kSeed), 6, true, kSeed);
      const auto index = Build({}, world.Prefix((tokens + 1) / 2), RandomQueries(queries, kHeadDim, kSeed));
      ASSERT_NE(index, nullptr);
      ExpectConnected(*index, world.table);
      ASSERT_TRUE(index->Extend(world.table).ok());
      ExpectConnected(*index, world.table);
    }
  }
}

// No key is nearer than another, and few slots: every edge that leads to a new key is one of the reserved ones.
TEST(GraphIndexTest, IdenticalKeysAreReached) {
  for (const float value : {0.0F, 2.0F}) {
    const KeyWorld world(DType::kFloat16, kHeadDim, std::vector<float>(900 * kHeadDim, value));
    const auto index = Build({.degree = 8}, world.Prefix(400), RandomQueries(50, kHeadDim, kSeed));
    ASSERT_NE(index, nullptr);
    ASSERT_TRUE(index->Extend(world.table).ok());
    ExpectConnected(*index, world.table);
  }
}

TEST(GraphIndexTest, OrderOfInsertionHardlyMatters) {
  std::vector<float> rows = RandomRows(1000, kHeadDim, 30, kSeed);
  const std::vector<float> queries = RandomQueries(200, kHeadDim, kSeed);
  for (const bool reversed : {false, true}) {
    if (reversed) {
      for (int64_t i = 0; i < 500; ++i) {
        std::swap_ranges(&rows[i * kHeadDim], &rows[(i + 1) * kHeadDim], &rows[(999 - i) * kHeadDim]);
      }
    }
    const KeyWorld world(DType::kFloat32, kHeadDim, rows);
    const auto index = Build({}, world.Prefix(100), queries);
    ASSERT_NE(index, nullptr);
    ASSERT_TRUE(index->Extend(world.table).ok());
    EXPECT_GE(Recall(*index, world, RandomQueries(30, kHeadDim, kSeed + 1), 20, {.pool = 200}), 0.95);
  }
}

TEST(GraphIndexTest, EqualInputsGiveEqualAnswers) {
  const KeyWorld world(DType::kFloat16, kHeadDim, RandomRows(600, kHeadDim, 30, kSeed));
  const std::vector<float> queries = RandomQueries(100, kHeadDim, kSeed);
  std::vector<FoundKey> found[2];
  int64_t scanned[2] = {};
  for (int i = 0; i < 2; ++i) {
    const auto index = Build({}, world.Prefix(500), queries);
    ASSERT_NE(index, nullptr);
    ASSERT_TRUE(index->Extend(world.table).ok());
    found[i].resize(100 * 10);
    ASSERT_TRUE(index->Search(world.table, queries.data(), 100, 10, {.pool = 30}, found[i].data(), &scanned[i]).ok());
  }
  EXPECT_EQ(scanned[0], scanned[1]);
  for (size_t i = 0; i < found[0].size(); ++i) EXPECT_EQ(found[0][i].token, found[1][i].token);
}

TEST(GraphIndexTest, VisitsAndBytesAreBounded) {
  const KeyWorld world(DType::kFloat16, kHeadDim, RandomRows(2000, kHeadDim, 30, kSeed));
  const std::vector<float> queries = RandomQueries(200, kHeadDim, kSeed);
  const GraphOptions options{.degree = 16, .entry_queries = 10};
  const auto index = Build(options, world.table, queries);
  ASSERT_NE(index, nullptr);
  std::vector<FoundKey> found(10);
  for (const int64_t visits : {1, 37, 200}) {
    int64_t scanned = 0;
    ASSERT_TRUE(
        index->Search(world.table, queries.data(), 1, 10, {.pool = 500, .visits = visits}, found.data(), &scanned)
            .ok());
    EXPECT_LE(scanned, visits + options.entry_queries);
  }
  EXPECT_LE(index->bytes(), 2000U * (16 * 4 + 4) + 100000);
}

// The graph that knows the queries finds what one that knows only keys does not, with the same pool.
TEST(GraphIndexTest, QueriesOfItsKindAreServedBetter) {
  std::vector<float> rows = RandomRows(2000, kHeadDim, 0, kSeed);
  const KeyWorld world(DType::kFloat32, kHeadDim, rows);
  const auto plain = Build({}, world.table, {});
  const auto aware = Build({}, world.table, RandomQueries(1000, kHeadDim, kSeed));
  ASSERT_TRUE(plain != nullptr && aware != nullptr);
  const std::vector<float> queries = RandomQueries(40, kHeadDim, kSeed + 1);
  const SearchEffort effort{.pool = 60};
  EXPECT_GE(Recall(*aware, world, queries, 50, effort), Recall(*plain, world, queries, 50, effort) + 0.1);
}

// Few steps from the right tokens find them; few steps from the wrong ones, or without any, do not.
TEST(GraphIndexTest, SearchesBeginWhereTheyAreTold) {
  const KeyWorld world(DType::kFloat32, kHeadDim, RandomRows(3000, kHeadDim, 0, kSeed));
  const auto index = Build({}, world.table, RandomQueries(1000, kHeadDim, kSeed));
  ASSERT_NE(index, nullptr);
  const std::vector<float> queries = RandomQueries(20, kHeadDim, kSeed + 1);
  std::vector<std::vector<uint32_t>> best(20), worst(20);
  for (int64_t q = 0; q < 20; ++q) {
    const std::vector<int64_t> order = world.Best(&queries[q * kHeadDim], 3000, 3000);
    best[q].assign(order.begin(), order.begin() + 40);
    worst[q].assign(order.end() - 40, order.end());
  }
  const auto recall = [&](const std::vector<std::vector<uint32_t>>& lists) {
    const std::vector<std::span<const uint32_t>> entries(lists.begin(), lists.end());
    return Recall(*index, world, queries, 40, {.pool = 1, .visits = 200, .entries = entries});
  };
  EXPECT_EQ(recall(best), 1.0) << "seed " << kSeed;
  EXPECT_LT(recall(worst), 0.5);
  EXPECT_LT(recall({}), 0.9);
}

TEST(GraphIndexTest, AnEighthOfTheKeysIsTheQueriesUsed) {
  EXPECT_EQ(QueriesUsed({}, 16000, 1 << 20), 2000);
  EXPECT_EQ(QueriesUsed({}, 10, 1 << 20), 1024);
  EXPECT_EQ(QueriesUsed({}, int64_t{1} << 40, 1 << 20), 16384);
  EXPECT_EQ(QueriesUsed({}, 16000, 7), 7);
  EXPECT_EQ(QueriesUsed({.max_queries = 50}, 16000, 100), 50);
}

// The sample is of all heads of a group, which come in turn, whatever their number has to do with that of the queries.
TEST(GraphIndexTest, SamplesDoNotSkipHeads) {
  const KeyWorld world(DType::kFloat32, kHeadDim, RandomRows(2000, kHeadDim, 0, kSeed));
  const std::vector<float> good = RandomQueries(1200, kHeadDim, kSeed);
  for (const int64_t head : {0, 1}) {
    std::vector<float> queries(good.size());
    for (int64_t q = head; q < 1200; q += 2) {
      std::copy_n(good.begin() + q * kHeadDim, kHeadDim, queries.begin() + q * kHeadDim);  // the others are zeros
    }
    const auto index = Build({.max_queries = 600}, world.table, queries);
    ASSERT_NE(index, nullptr);
    const auto plain = Build({}, world.table, {});
    const std::vector<float> asked = RandomQueries(40, kHeadDim, kSeed + 1);
    EXPECT_GE(Recall(*index, world, asked, 50, {.pool = 60}), Recall(*plain, world, asked, 50, {.pool = 60}) + 0.1)
        << "head " << head << ", seed " << kSeed;
  }
}

// Queries see the keys before them only.
TEST(GraphIndexTest, VisibleKeysMayDiffer) {
  const KeyWorld world(DType::kFloat32, kHeadDim, RandomRows(1200, kHeadDim, 20, kSeed));
  const std::vector<float> queries = RandomQueries(300, kHeadDim, kSeed);
  std::vector<int64_t> visible(300);
  for (int64_t i = 0; i < 300; ++i) visible[i] = i * 4 - 5;  // below 1 and beyond the keys is clipped
  visible[299] = 1 << 30;
  auto index = BuildGraphIndex({}, world.table, {queries.data(), visible.data(), 300});
  ASSERT_TRUE(index.ok()) << index.status().message();
  ExpectConnected(**index, world.table);
  EXPECT_GE(Recall(**index, world, RandomQueries(30, kHeadDim, kSeed + 1), 50, {.pool = 300}), 0.95);
}

TEST(GraphIndexTest, BadOptionsAndNumbersAreRefused) {
  const KeyWorld world(DType::kFloat32, kHeadDim, RandomRows(50, kHeadDim, 3, kSeed));
  std::vector<float> queries = RandomQueries(5, kHeadDim, kSeed);
  for (const GraphOptions& options :
       {GraphOptions{.degree = 7}, GraphOptions{.degree = 257}, GraphOptions{.list_keys = 3}, GraphOptions{.reach = 0},
        GraphOptions{.entry_queries = 0}, GraphOptions{.max_queries = -1}}) {
    EXPECT_EQ(BuildGraphIndex(options, world.table, {}).status().code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(BuildGraphIndex({}, world.table, {nullptr, nullptr, 3}).status().detail(), StatusDetail::kNullPointer);
  EXPECT_EQ(BuildGraphIndex({}, world.table, {nullptr, nullptr, -1}).status().detail(), StatusDetail::kBadSize);
  queries[70] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(BuildGraphIndex({}, world.table, Sample(queries, kHeadDim)).status().detail(), StatusDetail::kNonFinite);
  std::vector<uint32_t> keys(50 * kHeadDim);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(&keys[90], &nan, sizeof(nan));
  const KeyChunk chunk{keys.data(), nullptr, nullptr};
  EXPECT_EQ(BuildGraphIndex({}, {DType::kFloat32, kHeadDim, 50, 30, {&chunk, 1}}, {}).status().detail(),
            StatusDetail::kNonFinite);
}

TEST(GraphIndexTest, EverySimdTargetFindsTheSame) {
  const KeyWorld world(DType::kFloat16, 16, RandomRows(400, 16, 10, kSeed));
  const std::vector<float> queries = RandomQueries(100, 16, kSeed);
  ForEachTarget([&](int64_t) {
    const auto index = Build({}, world.table, queries);
    ASSERT_NE(index, nullptr);
    EXPECT_GE(Recall(*index, world, RandomQueries(20, 16, kSeed + 1), 20, {.pool = 150}), 0.97);
  });
}

}  // namespace
}  // namespace swell
