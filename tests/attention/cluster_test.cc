// Scores and ranking of clusters against float64.
#include "tests/attention/clusters.h"

namespace swell::attention {
namespace {

class ClusterTest : public TargetTest {};

TEST_P(ClusterTest, ScoresEveryShape) {
  for (int32_t head_dim : kHeadDims) {
    for (int32_t group : kGroups) {
      for (int64_t count : {1, 15, 16, 17, 70}) {
        SCOPED_TRACE(testing::Message() << head_dim << " x " << group << ", " << count << " clusters");
        const HeadShape shape = {head_dim, group, 0.12f, DType::kFloat16};
        const Clusters clusters(shape, count, &random_);
        const std::vector<float> queries = random_.Normals(group * head_dim);
        // The last row of the buffer ends with the last cluster.
        ScoreBuffer scores(group, count + random_.Below(3));
        const ClusterView view = clusters.view();
        ScoreClusters(shape, queries.data(), CutRuns(view, &random_), scores.view());
        for (int64_t g = 0; g < group; ++g) {
          const float* query = queries.data() + g * head_dim;
          for (int64_t j = 0; j < count; ++j) {
            const double logit = clusters.Logit(shape, query, j), sigma = clusters.Sigma(shape, query, j);
            const double rounding = clusters.LogitRounding(shape, query, j) + 1e-5 * std::max(1.0, std::abs(logit));
            ASSERT_NEAR(scores.logits[g * scores.stride + j], logit, rounding);
            ASSERT_NEAR(scores.sigmas[g * scores.stride + j], sigma, 1e-5 * std::max(1.0, sigma));
          }
          for (int64_t j = count; j < scores.stride; ++j) ASSERT_TRUE(std::isnan(scores.logits[g * scores.stride + j]));
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
  ScoreBuffer scores(5, 103);
  ScoreClusters(shape, queries.data(), runs, scores.view());
  int64_t entry = 0;
  for (const ClusterRun& run : runs) {
    const Clusters& clusters = segments[run.view - views];
    for (int64_t j = run.first; j < run.first + run.clusters; ++j, ++entry) {
      for (int64_t g = 0; g < 5; ++g) {
        const float* query = queries.data() + g * 80;
        const double logit = clusters.Logit(shape, query, j);
        const double rounding = clusters.LogitRounding(shape, query, j) + 1e-5 * std::max(1.0, std::abs(logit));
        ASSERT_NEAR(scores.logits[g * 103 + entry], logit, rounding) << entry;
        ASSERT_NEAR(scores.sigmas[g * 103 + entry], clusters.Sigma(shape, query, j), 1e-4) << entry;
      }
    }
  }
  ASSERT_EQ(entry, 103);
}

TEST_P(ClusterTest, NoClustersWriteNothing) {
  const HeadShape shape = {64, 2, 0.1f, DType::kFloat16};
  const std::vector<float> queries(128, 1.0f);
  ScoreBuffer scores(2, 4);
  ScoreClusters(shape, queries.data(), {}, scores.view());
  for (float logit : scores.logits) ASSERT_TRUE(std::isnan(logit));
  float log_mass[2] = {0, 0};
  RankClusters(2, 0, scores.view(), nullptr, Ranking::kOptimistic, 1, nullptr, log_mass);
  EXPECT_EQ(log_mass[0], -kInf);
  EXPECT_EQ(log_mass[1], -kInf);
}

TEST_P(ClusterTest, RanksAsTheFormulasSay) {
  for (Ranking ranking : {Ranking::kOptimistic, Ranking::kMass}) {
    for (int32_t group : {1, 3, 16}) {
      for (int64_t count : {1, 15, 16, 33, 500}) {
        for (float kappa : {0.0f, 1.0f}) {
          ScoreBuffer scores(group, count);
          std::vector<uint32_t> sizes(count);
          for (float& logit : scores.logits) logit = 4 * random_.Normal() + 50;
          for (float& sigma : scores.sigmas) sigma = std::abs(random_.Normal());
          for (uint32_t& size : sizes) size = 1 + random_.Below(30);
          std::vector<double> expected(count, 0.0);
          std::vector<float> importance(count + 1, kNan), log_mass(group, kNan);
          RankClusters(group, count, scores.view(), sizes.data(), ranking, kappa, importance.data(), log_mass.data());
          for (int64_t g = 0; g < group; ++g) {
            double total = 0, mass = 0;
            const auto rank = [&](int64_t j) {
              const double kappa_used = ranking == Ranking::kOptimistic ? kappa : 0;
              return std::exp(scores.logits[g * count + j] + kappa_used * scores.sigmas[g * count + j]);
            };
            for (int64_t j = 0; j < count; ++j) {
              total += rank(j);
              mass += sizes[j] * std::exp(static_cast<double>(scores.logits[g * count + j]));
            }
            ASSERT_NEAR(log_mass[g], std::log(mass), 1e-5 * std::log(mass));
            for (int64_t j = 0; j < count; ++j) {
              const double share = rank(j) / total;
              expected[j] =
                  ranking == Ranking::kOptimistic ? std::max(expected[j], share) : expected[j] + share / group;
            }
          }
          ASSERT_TRUE(std::isnan(importance[count]));
          for (int64_t j = 0; j < count; ++j) {
            if (ranking == Ranking::kMass) {
              ASSERT_NEAR(importance[j], expected[j], 1e-4 * expected[j] + 1e-36);
            } else {
              ASSERT_NEAR(importance[j], std::log(expected[j]), 1e-4);
            }
          }
        }
      }
    }
  }
}

TEST_P(ClusterTest, RankingSurvivesExtremeScores) {
  const float most = std::numeric_limits<float>::max();
  const std::vector<uint32_t> sizes = {1, 2, 3, 4};
  const std::vector<std::vector<float>> cases = {
      {-kInf, -kInf, -kInf, -kInf}, {most, most, -most, -kInf}, {-most, -most, -most, -most}, {1000, -1000, 0, 5}};
  for (const std::vector<float>& logits : cases) {
    ScoreBuffer scores(1, 4);
    scores.logits = logits;
    scores.sigmas = {0, most, most, 1};
    for (Ranking ranking : {Ranking::kOptimistic, Ranking::kMass}) {
      std::vector<float> importance(4, kNan);
      float log_mass = kNan;
      RankClusters(1, 4, scores.view(), sizes.data(), ranking, 1, importance.data(), &log_mass);
      EXPECT_FALSE(std::isnan(log_mass));
      for (float value : importance) {
        EXPECT_TRUE(ranking == Ranking::kMass ? value >= 0 && value <= 1 : value <= 0) << value;
      }
    }
  }
}

SWELL_EVERY_TARGET(ClusterTest);

}  // namespace
}  // namespace swell::attention
