// What every index must hold, whatever its kind and the storage dtype.
#include <gtest/gtest.h>

#include <limits>
#include <thread>
#include <tuple>

#include "tests/index/head_rows.h"
#include "tests/support/each_target.h"

namespace swell {
namespace {

constexpr uint32_t kSeed = 20240611;

class IndexContract : public testing::TestWithParam<std::tuple<IndexKind, DType>> {
 protected:
  void SetUp() override { RecordProperty("seed", static_cast<int>(kSeed)); }
  static IndexOptions Options() { return {.kind = std::get<0>(GetParam())}; }
  static DType Storage() { return std::get<1>(GetParam()); }
};

// Order, clusters and bytes fit together.
void ExpectSound(const IndexOptions& options, const HeadShape& shape, int64_t tokens, const SegmentIndex& index) {
  EXPECT_LE(index.bytes(), MakeBuilder(options)->MaxBytes(shape, tokens));
  const ClusterView& view = index.clusters();
  const ClusterView& supers = index.super_clusters();
  ASSERT_EQ(supers.clusters, (view.clusters + kClusterTile - 1) / kClusterTile);
  for (int64_t s = 0; s < supers.clusters; ++s) EXPECT_EQ(supers.first_rows[s], view.first_rows[s * kClusterTile]);
  std::vector<bool> seen(tokens);
  if (!index.order().empty()) {
    ASSERT_EQ(static_cast<int64_t>(index.order().size()), tokens);
  }
  for (const uint16_t token : index.order()) {
    ASSERT_LT(token, tokens);
    EXPECT_FALSE(seen[token]) << "token " << token << " twice";
    seen[token] = true;
  }
  if (view.clusters == 0) return;
  ASSERT_FALSE(index.order().empty());
  EXPECT_EQ(view.first_rows[0], 0U);
  EXPECT_EQ(view.first_rows[view.clusters], static_cast<uint32_t>(tokens));
  EXPECT_EQ(supers.first_rows[supers.clusters], static_cast<uint32_t>(tokens));
  for (int64_t cluster = 0; cluster < view.clusters; ++cluster) {
    ASSERT_LT(view.first_rows[cluster], view.first_rows[cluster + 1]) << "empty cluster " << cluster;
    for (uint32_t row = view.first_rows[cluster] + 1; row < view.first_rows[cluster + 1]; ++row) {
      EXPECT_LT(index.order()[row - 1], index.order()[row]);
    }
  }
}

TEST_P(IndexContract, EveryLengthIsSound) {
  for (const int64_t tokens : {1, 2, 3, 7, 8, 11, 12, 13, 127, 500, 1031}) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", tokens " << tokens);
    const HeadRows head = RandomHead(Storage(), 64, tokens, kSeed);
    const auto index = BuildIndex(Options(), head.shape, head.Whole());
    ExpectSound(Options(), head.shape, tokens, *index);
  }
}

TEST_P(IndexContract, EveryOptionIsSound) {
  const HeadRows head = RandomHead(Storage(), 32, 200, kSeed);
  for (const int32_t cluster_tokens : {1, 2, 16, 300, 4096}) {
    for (const int32_t iterations : {1, 100}) {
      SCOPED_TRACE(testing::Message() << cluster_tokens << " a cluster, " << iterations << " iterations");
      const IndexOptions options{Options().kind, cluster_tokens, iterations};
      ExpectSound(options, head.shape, head.tokens, *BuildIndex(options, head.shape, head.Whole()));
    }
  }
}

TEST_P(IndexContract, RunsMaySplitTokensAnywhere) {
  std::mt19937 random(kSeed);
  const HeadRows head = RandomHead(Storage(), 48, 333, kSeed);
  const std::string whole = Contents(*BuildIndex(Options(), head.shape, head.Whole()), 48);
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<KvRun> runs = {KvRun{}};  // an empty run holds nothing, not even pointers
    for (int64_t first = 0; first < head.tokens; first += runs.back().tokens) {
      runs.push_back(head.Run(first, std::min<int64_t>(1 + random() % 100, head.tokens - first)));
    }
    EXPECT_EQ(Contents(*BuildIndex(Options(), head.shape, runs), 48), whole) << "seed " << kSeed;
  }
}

TEST_P(IndexContract, ConcurrentBuildsAgree) {
  const auto builder = MakeBuilder(Options());
  std::vector<HeadRows> heads;
  for (uint32_t i = 0; i < 4; ++i) heads.push_back(RandomHead(Storage(), 64, 300 + 7 * i, kSeed + i));
  std::vector<std::string> alone(heads.size());
  std::vector<std::string> together(heads.size());
  const auto build = [&](size_t i, std::string* contents) {
    const auto runs = heads[i].Whole();
    auto index = builder->Build(heads[i].shape, runs);
    if (index.ok()) *contents = Contents(**index, 64) + "built";
  };
  for (size_t i = 0; i < heads.size(); ++i) build(i, &alone[i]);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < heads.size(); ++i) threads.emplace_back(build, i, &together[i]);
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < heads.size(); ++i) {
    EXPECT_FALSE(alone[i].empty());
    EXPECT_EQ(alone[i], together[i]) << "seed " << kSeed << ", head " << i;
  }
}

// Lanes sum in one order, so that targets with a fused multiply-add build the same index.
TEST_P(IndexContract, FusedTargetsAgree) {
  const HeadRows head = RandomHead(Storage(), 80, 400, kSeed);
  std::vector<std::string> contents;
  ForEachTarget([&](int64_t target) {
    const auto index = BuildIndex(Options(), head.shape, head.Whole());
    ExpectSound(Options(), head.shape, head.tokens, *index);
    const bool fused = (target & (HWY_AVX2 | HWY_AVX3 | HWY_AVX3_DL | HWY_NEON)) != 0;
    if (fused) contents.push_back(Contents(*index, 80));
  });
  for (const std::string& other : contents) EXPECT_EQ(other, contents.front()) << "seed " << kSeed;
}

TEST_P(IndexContract, BadArgumentsAreNamed) {
  const HeadRows head = RandomHead(Storage(), 64, 20, kSeed);
  const auto builder = MakeBuilder(Options());
  const auto expect = [&](const HeadShape& shape, const std::vector<KvRun>& runs, const char* name,
                          StatusDetail detail) {
    const Status status = builder->Build(shape, runs).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(status.detail(), detail) << name;
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  };
  for (const int32_t head_dim : {0, -16, 8, 65, 272}) {
    HeadShape shape = head.shape;
    shape.head_dim = head_dim;
    expect(shape, head.Whole(), "shape.head_dim", StatusDetail::kNone);
  }
  for (const int32_t group : {0, -1, 17}) {
    HeadShape shape = head.shape;
    shape.group = group;
    expect(shape, head.Whole(), "shape.group", StatusDetail::kNone);
  }
  HeadShape unknown = head.shape;
  unknown.storage = static_cast<DType>(17);
  expect(unknown, head.Whole(), "shape.storage", StatusDetail::kUnknownDType);
  expect(head.shape, {}, "tokens", StatusDetail::kBadSize);
  expect(head.shape, {KvRun{}}, "tokens", StatusDetail::kBadSize);
  for (const int64_t tokens : {int64_t{-1}, kMaxSegmentTokens + 1, std::numeric_limits<int64_t>::max()}) {
    KvRun run = head.Run(0, 20);
    run.tokens = tokens;
    expect(head.shape, {head.Run(0, 20), run}, "tokens[1].tokens", StatusDetail::kBadSize);
  }
  KvRun many = head.Run(0, 20);
  many.tokens = kMaxSegmentTokens;
  expect(head.shape, {head.Run(0, 1), many}, "tokens", StatusDetail::kBadSize);

  const uint16_t offsets[20] = {};
  KvRun run = head.Run(0, 20);
  run.offsets = offsets;
  expect(head.shape, {run}, "tokens[0].offsets", StatusDetail::kNone);
  run = head.Run(0, 20);
  run.keys = nullptr;
  expect(head.shape, {run}, "tokens[0].keys", StatusDetail::kNullPointer);
  run = head.Run(0, 20);
  run.values = nullptr;
  expect(head.shape, {run}, "tokens[0].values", StatusDetail::kNullPointer);
  if (Storage() == DType::kInt8) {
    run = head.Run(0, 20);
    run.key_scales = nullptr;
    expect(head.shape, {run}, "tokens[0].key_scales", StatusDetail::kNullPointer);
    run = head.Run(0, 20);
    run.value_scales = nullptr;
    expect(head.shape, {run}, "tokens[0].value_scales", StatusDetail::kNullPointer);
  } else {
    run = head.Run(0, 19);
    run.values = static_cast<const std::byte*>(run.values) + 1;
    expect(head.shape, {run}, "tokens[0].values", StatusDetail::kMisaligned);
  }
}

INSTANTIATE_TEST_SUITE_P(All, IndexContract,
                         testing::Combine(testing::Values(IndexKind::kFlat, IndexKind::kWave),
                                          testing::Values(DType::kFloat32, DType::kFloat16, DType::kBFloat16,
                                                          DType::kInt8)));

TEST(IndexOptionsTest, OutOfRangeIsNamed) {
  const auto message = [](const IndexOptions& options) {
    const Status status = MakeIndexBuilder(options).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return status.message();
  };
  EXPECT_NE(message({.kind = static_cast<IndexKind>(9)}).find("kind"), std::string::npos);
  EXPECT_NE(message({.cluster_tokens = 0}).find("cluster_tokens"), std::string::npos);
  EXPECT_NE(message({.cluster_tokens = 4097}).find("cluster_tokens"), std::string::npos);
  EXPECT_NE(message({.iterations = 0}).find("iterations"), std::string::npos);
  EXPECT_NE(message({.iterations = 101}).find("iterations"), std::string::npos);
}

TEST(FlatIndexTest, HasNoClusters) {
  const HeadRows head = RandomHead(DType::kFloat16, 64, 100, kSeed);
  const auto index = BuildIndex({.kind = IndexKind::kFlat}, head.shape, head.Whole());
  EXPECT_TRUE(index->order().empty());
  EXPECT_EQ(index->clusters().clusters, 0);
}

}  // namespace
}  // namespace swell
