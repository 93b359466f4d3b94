// Goal: a search of the graph begins at the tokens of the clusters that its query head scores best, whichever segment
// they are in and wherever their rows lie.
#include <algorithm>
#include <utility>

#include "lib/engine/find_tokens.h"
#include "swell/index.h"
#include "tests/engine/fixture.h"

namespace swell {
namespace {

constexpr int32_t kHeadDim = 16;
constexpr int32_t kGroup = 3;

TEST(EntryTokensTest, AreThoseOfTheBestClusters) {
  std::mt19937_64 random(testing::Seed());
  const HeadShape shape{kHeadDim, kGroup, 1, DType::kFloat32};
  auto builder = MakeIndexBuilder({.cluster_tokens = 2});
  ASSERT_TRUE(builder.ok());
  constexpr int64_t kSinks = 4;
  int64_t first_token = kSinks;
  std::vector<std::vector<float>> keys;
  std::vector<std::unique_ptr<const SegmentIndex>> indexes;
  HeadStep step;
  for (const int64_t tokens : {203, 77, 130}) {
    keys.push_back(testing::RandomRows(random, tokens * kHeadDim));
    KvRun rows;
    rows.keys = rows.values = keys.back().data();
    rows.first_token = first_token;
    rows.tokens = tokens;
    auto index = (*builder)->Build(shape, {&rows, 1});
    ASSERT_TRUE(index.ok());
    indexes.push_back(std::move(index).value());
    rows.offsets = indexes.back()->order().data();
    const ClusterView& view = indexes.back()->clusters();
    step.clusters.Add({&view, 0, view.clusters}, static_cast<int32_t>(step.segments.size()));
    step.segments.push_back({indexes.back().get(), rows, nullptr});
    first_token += tokens;
  }
  RankedLevel& level = step.clusters;
  ASSERT_GT(level.clusters, kEntryClusters);
  level.Allocate(kGroup);
  std::fill_n(level.logits.get(), kGroup * level.entries, -std::numeric_limits<float>::infinity());
  std::vector<std::vector<uint32_t>> expected;
  for (int64_t g = 0; g < kGroup; ++g) {
    std::vector<std::pair<float, std::vector<uint32_t>>> clusters;  // of a score, their tokens
    int64_t first_entry = 0;
    for (size_t s = 0; s < indexes.size(); ++s) {
      const ClusterView& view = indexes[s]->clusters();
      for (int64_t j = 0; j < view.clusters; ++j) {
        const float score = testing::RandomRows(random, 1)[0];
        level.logits[g * level.entries + first_entry + j] = score;
        clusters.push_back({score, {}});
        for (uint32_t row = view.first_rows[j]; row < view.first_rows[j + 1]; ++row) {
          const int64_t token = step.segments[s].rows.first_token + indexes[s]->order()[row] - kSinks;
          clusters.back().second.push_back(static_cast<uint32_t>(token));
        }
      }
      first_entry += attention::TileEntries(view.clusters);
    }
    std::sort(clusters.rbegin(), clusters.rend());
    std::vector<uint32_t>& tokens = expected.emplace_back();
    for (int64_t i = 0; i < kEntryClusters; ++i) {
      tokens.insert(tokens.end(), clusters[i].second.begin(), clusters[i].second.end());
    }
    std::sort(tokens.begin(), tokens.end());
  }
  std::vector<std::vector<uint32_t>> found = EntryTokens(step, kGroup);
  for (std::vector<uint32_t>& tokens : found) std::sort(tokens.begin(), tokens.end());
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace swell
