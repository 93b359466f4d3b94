// Scores and ranking of clusters against float64.
#include "tests/attention/clusters.h"

namespace swell::attention {
namespace {

class ClusterTest : public TargetTest {
 protected:
  // views[i] is of segments[i].
  static void ExpectScores(const HeadShape& shape, const std::vector<float>& queries,
                           std::span<const Clusters> segments, std::span<const ClusterView> views,
                           std::span<const ClusterRun> runs, ScoreBuffer& scores) {
    std::vector<bool> written(EntriesOf(runs));
    ForEachCluster(runs, [&](int64_t run, int64_t j, int64_t entry) {
      const Clusters& clusters = segments[runs[run].view - views.data()];
      written[entry] = true;
      for (int64_t g = 0; g < shape.group; ++g) {
        const float* query = queries.data() + g * shape.head_dim;
        const double logit = clusters.Logit(shape, query, j), sigma = clusters.Sigma(shape, query, j);
        const double rounding = clusters.LogitRounding(shape, query, j) + 1e-5 * std::max(1.0, std::abs(logit));
        ASSERT_NEAR(scores.logit(g, entry), logit, rounding) << entry;
        ASSERT_NEAR(scores.width(run, g) * clusters.spreads[j], sigma, 1e-5 * std::max(1.0, sigma)) << entry;
      }
    });
    for (size_t entry = 0; entry < written.size(); ++entry) {
      for (int64_t g = 0; g < shape.group && !written[entry]; ++g) ASSERT_EQ(scores.logit(g, entry), -kInf);
    }
  }
};

TEST_P(ClusterTest, ScoresEveryShape) {
  for (int32_t head_dim : kHeadDims) {
    for (int32_t group : kGroups) {
      for (int64_t count : {1, 15, 16, 17, 70}) {
        SCOPED_TRACE(testing::Message() << head_dim << " x " << group << ", " << count << " clusters");
        const HeadShape shape = {head_dim, group, 0.12f, DType::kFloat16};
        const Clusters clusters(shape, count, &random_);
        const std::vector<float> queries = random_.Normals(group * head_dim);
        const ClusterView view = clusters.view();
        const std::vector<ClusterRun> runs = CutRuns(view, &random_);
        ScoreBuffer scores(group, runs, random_.Below(3));
        ScoreClusters(shape, queries.data(), runs, scores.view());
        ExpectScores(shape, queries, {&clusters, 1}, {&view, 1}, runs, scores);
        for (int64_t g = 0; g < group; ++g) {
          for (int64_t j = EntriesOf(runs); j < scores.stride; ++j) ASSERT_TRUE(std::isnan(scores.logit(g, j)));
        }
      }
    }
  }
}

// Opened tiles come from many segments, each with a centre of its own.
TEST_P(ClusterTest, RunsOfSeveralSegments) {
  const HeadShape shape = {80, 5, 0.1f, DType::kFloat16};
  const std::vector<float> queries = random_.Normals(5 * 80);
  std::vector<Clusters> segments;
  for (const int64_t count : {40, 16, 7}) segments.emplace_back(shape, count, &random_);
  const ClusterView views[] = {segments[0].view(), segments[1].view(), segments[2].view()};
  const std::vector<ClusterRun> runs = {{&views[0], 16, 16}, {&views[1], 0, 16}, {&views[0], 32, 8}, {&views[2], 0, 7},
                                        {&views[1], 0, 16},  {&views[1], 0, 0},  {&views[0], 0, 40}};
  ScoreBuffer scores(5, runs);
  ScoreClusters(shape, queries.data(), runs, scores.view());
  ExpectScores(shape, queries, segments, views, runs, scores);
}

TEST_P(ClusterTest, NoClustersWriteNothing) {
  const HeadShape shape = {64, 2, 0.1f, DType::kFloat16};
  const std::vector<float> queries(128, 1.0f);
  ScoreBuffer scores(2, {}, 4);
  ScoreClusters(shape, queries.data(), {}, scores.view());
  for (float logit : scores.logits) ASSERT_TRUE(std::isnan(logit));
  float log_mass[2] = {0, 0};
  RankClusters(2, {}, scores.view(), Ranking::kOptimistic, 1, nullptr, nullptr, nullptr, log_mass);
  EXPECT_EQ(log_mass[0], -kInf);
  EXPECT_EQ(log_mass[1], -kInf);
}

TEST_P(ClusterTest, RanksAsTheFormulasSay) {
  for (Ranking ranking : {Ranking::kOptimistic, Ranking::kMass, Ranking::kShare}) {
    for (int32_t group : {1, 3, 16}) {
      for (int64_t count : {1, 15, 16, 33, 500}) {
        for (float kappa : {0.0f, 1.0f}) {
          SCOPED_TRACE(testing::Message() << group << " heads, " << count << " clusters, kappa " << kappa);
          const Clusters clusters({16, group, 0.1f, DType::kFloat16}, count, &random_);
          const ClusterView view = clusters.view();
          const std::vector<ClusterRun> runs = CutRuns(view, &random_);
          ScoreBuffer scores(group, runs);
          std::fill(scores.logits.begin(), scores.logits.end(), -kInf);
          for (float& width : scores.widths) width = std::abs(random_.Normal());
          ForEachCluster(runs, [&](int64_t, int64_t, int64_t entry) {
            for (int64_t g = 0; g < group; ++g) scores.logit(g, entry) = 4 * random_.Normal() + 50;
          });
          const int64_t entries = EntriesOf(runs);
          std::vector<double> expected(entries, ranking == Ranking::kMass ? 0.0 : -kInf);
          std::vector<float> importance(entries + 1, kNan), log_mass(group, kNan);
          std::vector<uint32_t> sizes(entries + 1, 12345), expected_sizes(entries, 0);
          std::vector<float> log_steady(group);
          for (float& steady : log_steady) steady = random_.Below(4) == 0 ? -kInf : 8 * random_.Normal() + 50;
          RankClusters(group, runs, scores.view(), ranking, kappa, log_steady.data(), importance.data(), sizes.data(),
                       log_mass.data());
          for (int64_t g = 0; g < group; ++g) {
            double total = 0, mass = 0;
            const auto rank = [&](int64_t run, int64_t j, int64_t entry) {
              const double optimism = ranking == Ranking::kMass ? 0 : kappa * scores.width(run, g);
              return std::exp(scores.logit(g, entry) + optimism * clusters.spreads[j]);
            };
            ForEachCluster(runs, [&](int64_t run, int64_t j, int64_t entry) {
              total += rank(run, j, entry);
              mass += clusters.Size(j) * std::exp(static_cast<double>(scores.logit(g, entry)));
              expected_sizes[entry] = static_cast<uint32_t>(clusters.Size(j));
            });
            ASSERT_NEAR(log_mass[g], std::log(mass), 1e-5 * std::log(mass));
            if (ranking == Ranking::kShare) total = mass + std::exp(static_cast<double>(log_steady[g]));
            ForEachCluster(runs, [&](int64_t run, int64_t j, int64_t entry) {
              const double share = rank(run, j, entry) / total;
              expected[entry] = ranking == Ranking::kMass ? expected[entry] + share / group
                                                          : std::max(expected[entry], std::log(share));
            });
          }
          ASSERT_TRUE(std::isnan(importance[entries]));
          ASSERT_EQ(sizes[entries], 12345u);
          for (int64_t j = 0; j < entries; ++j) {
            ASSERT_EQ(sizes[j], expected_sizes[j]);
            if (sizes[j] == 0) {
              ASSERT_EQ(importance[j], -kInf) << "padding";
            } else if (ranking == Ranking::kMass) {
              ASSERT_NEAR(importance[j], expected[j], 1e-4 * expected[j] + 1e-36);
            } else {
              ASSERT_NEAR(importance[j], expected[j], 1e-4);
            }
          }
        }
      }
    }
  }
}

TEST_P(ClusterTest, RankingSurvivesExtremeScores) {
  const float most = std::numeric_limits<float>::max();
  Clusters clusters({16, 1, 0.1f, DType::kFloat16}, 4, &random_);
  clusters.spreads = {0, most, most, 1};
  clusters.spreads.resize(kClusterTile, kNan);
  const ClusterView view = clusters.view();
  const std::vector<ClusterRun> runs = {{&view, 0, 4}};
  const std::vector<std::vector<float>> cases = {
      {-kInf, -kInf, -kInf, -kInf}, {most, most, -most, -kInf}, {-most, -most, -most, -most}, {1000, -1000, 0, 5}};
  for (const std::vector<float>& logits : cases) {
    ScoreBuffer scores(1, runs);
    std::fill(scores.logits.begin(), scores.logits.end(), -kInf);
    std::copy(logits.begin(), logits.end(), scores.logits.begin());
    for (const float width : {0.0f, 1.0f, most}) {
      scores.width(0, 0) = width;
      for (Ranking ranking : {Ranking::kOptimistic, Ranking::kMass, Ranking::kShare}) {
        std::vector<float> importance(kClusterTile, kNan);
        std::vector<uint32_t> sizes(kClusterTile);
        float log_mass = kNan;
        for (const float log_steady : {-kInf, 0.0f, most}) {
          RankClusters(1, runs, scores.view(), ranking, 1, &log_steady, importance.data(), sizes.data(), &log_mass);
          EXPECT_FALSE(std::isnan(log_mass));
          for (size_t j = 0; j < 4; ++j) {
            const float value = importance[j];
            EXPECT_FALSE(std::isnan(value));
            EXPECT_TRUE(ranking != Ranking::kMass || (value >= 0 && value <= 1)) << value;
            EXPECT_TRUE(ranking != Ranking::kOptimistic || value <= 0) << value;
          }
          for (size_t j = 4; j < importance.size(); ++j) EXPECT_EQ(importance[j], -kInf);
        }
      }
    }
  }
}

SWELL_EVERY_TARGET(ClusterTest);

}  // namespace
}  // namespace swell::attention
