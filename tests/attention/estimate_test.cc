// The estimation zone against the formulas of attention.h in float64.
#include "tests/attention/clusters.h"

namespace swell::attention {
namespace {

// State and errors of one query head, relative to exp(0).
struct NaiveEstimate {
  double sum = 0, mass = 0, energy = 0, weight = 0;
  std::vector<double> out, cross;
};

class EstimateTest : public TargetTest {
 protected:
  // Scores with logits around `center` nats; a third of the clusters of each zone.
  void Prepare(int32_t group, int64_t count, float spread, float center) {
    scores_ = ScoreBuffer(group, count + 2);
    for (float& logit : scores_.logits) logit = spread * random_.Normal() + center;
    for (float& sigma : scores_.sigmas) sigma = 1.5f * std::abs(random_.Normal());
    zones_.resize(count);
    for (Zone& zone : zones_) zone = static_cast<Zone>(random_.Below(3));
  }

  NaiveEstimate Naive(const Clusters& clusters, int64_t g, double log_mass, bool correct) const {
    NaiveEstimate result;
    result.out.assign(clusters.head_dim, 0);
    result.cross.assign(clusters.head_dim, 0);
    for (int64_t j = 0; j < clusters.count; ++j) {
      if (zones_[j] != Zone::kEstimated) continue;
      const double logit = scores_.logits[g * scores_.stride + j], sigma = scores_.sigmas[g * scores_.stride + j];
      const double size = clusters.Size(j);
      const double correction = correct ? std::exp(std::min(sigma * sigma / 2, 1.0)) : 1;
      const double w = size * std::exp(logit) * correction;
      const double c = w * w * (std::exp(std::min(sigma * sigma, 4.0)) - 1) / size;
      result.sum += w;
      result.mass += w;
      result.energy += c * clusters.value_energies[j];
      result.weight += c;
      const bool own = w * std::exp(-log_mass) > 0x1p-12;
      const int64_t tile = j / kClusterTile;
      for (int64_t i = 0; i < clusters.head_dim; ++i) {
        const double mean =
            own ? static_cast<double>(clusters.value_scales[j]) * clusters.value_means[j * clusters.head_dim + i]
                : static_cast<double>(clusters.tile_scales[tile]) * clusters.tile_means[tile * clusters.head_dim + i];
        result.out[i] += w * mean;
        result.cross[i] += c * mean;
      }
    }
    return result;
  }

  static double LogMass(const Clusters& clusters, const ScoreBuffer& scores, int64_t g) {
    double mass = 0;
    for (int64_t j = 0; j < clusters.count; ++j) {
      mass += clusters.Size(j) * std::exp(static_cast<double>(scores.logits[g * scores.stride + j]));
    }
    return std::log(mass);
  }

  ScoreBuffer scores_{0, 0};
  std::vector<Zone> zones_;
};

// Within `tolerance` relative to the norm.
void ExpectClose(const float* actual, double scale, const std::vector<double>& expected, double tolerance) {
  double norm = 0, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    norm += expected[i] * expected[i];
    difference += (scale * actual[i] - expected[i]) * (scale * actual[i] - expected[i]);
  }
  ASSERT_LE(std::sqrt(difference), tolerance * std::sqrt(norm) + 1e-30);
}

TEST_P(EstimateTest, FollowsTheFormulas) {
  for (int32_t head_dim : kHeadDims) {
    for (int32_t group : {1, 3, 4, 16}) {
      for (int64_t count : {1, 63, 65, 200}) {
        for (bool correct : {false, true}) {
          SCOPED_TRACE(testing::Message() << head_dim << " x " << group << ", " << count << " clusters");
          const HeadShape shape = {head_dim, group, 0.1f, DType::kFloat16};
          const Clusters clusters(shape, count, &random_);
          Prepare(group, count, 6, 1);
          std::vector<float> log_mass(group);
          for (int64_t g = 0; g < group; ++g) log_mass[g] = LogMass(clusters, scores_, g);
          StateBuffer state(group, head_dim);
          ErrorBuffer errors(shape);
          const ClusterView view = clusters.view();
          EstimateClusters(shape, CutRuns(view, &random_), scores_.view(), zones_.data(), log_mass.data(), correct,
                           state.view(), errors.view());
          ASSERT_TRUE(state.GuardsHold());
          for (int64_t g = 0; g < group; ++g) {
            const NaiveEstimate naive = Naive(clusters, g, log_mass[g], correct);
            if (naive.sum == 0) {
              ASSERT_EQ(state.sum[g], 0.0f);
              continue;
            }
            const double scale = std::exp(static_cast<double>(state.max[g]));
            ASSERT_NEAR(state.sum[g] * scale / naive.sum, 1, 1e-5);
            ASSERT_NEAR(errors.mass[g] * scale / naive.mass, 1, 1e-5);
            ASSERT_NEAR(errors.energy[g] * scale * scale / naive.energy, 1, 1e-4);
            ASSERT_NEAR(errors.weight[g] * scale * scale / naive.weight, 1, 1e-4);
            // Clusters right at the limit of 2^-20 may fall on either side.
            ExpectClose(state.out.data() + g * head_dim, scale, naive.out, 2e-5);
            ExpectClose(errors.cross.data() + g * head_dim, scale * scale, naive.cross, 1e-4);
          }
        }
      }
    }
  }
}

// An earlier exact state, once far above and once far below the estimated clusters.
TEST_P(EstimateTest, AddsToAnExactState) {
  const HeadShape shape = {64, 3, 0.1f, DType::kFloat16};
  const Clusters clusters(shape, 100, &random_);
  for (float exact_max : {-30.0f, 0.0f, 30.0f}) {
    Prepare(3, 100, 2, 0);
    std::vector<float> log_mass(3);
    for (int64_t g = 0; g < 3; ++g) log_mass[g] = LogMass(clusters, scores_, g);
    StateBuffer state(3, 64);
    ErrorBuffer errors(shape);
    for (int64_t g = 0; g < 3; ++g) {
      state.max[g] = exact_max;
      state.sum[g] = 2;
      errors.energy[g] = errors.weight[g] = errors.mass[g] = 1;
      for (int64_t i = 0; i < 64; ++i) state.out[g * 64 + i] = errors.cross[g * 64 + i] = 1;
    }
    const ClusterView view = clusters.view();
    EstimateClusters(shape, CutRuns(view, &random_), scores_.view(), zones_.data(), log_mass.data(), true, state.view(),
                     errors.view());
    const double before = std::exp(static_cast<double>(exact_max));
    for (int64_t g = 0; g < 3; ++g) {
      NaiveEstimate naive = Naive(clusters, g, log_mass[g], true);
      for (double& value : naive.out) value += before;
      for (double& value : naive.cross) value += before * before;
      const double scale = std::exp(static_cast<double>(state.max[g]));
      ASSERT_GE(state.max[g], exact_max);
      ASSERT_NEAR(state.sum[g] * scale / (naive.sum + 2 * before), 1, 1e-5);
      ASSERT_NEAR(errors.mass[g] * scale / (naive.mass + before), 1, 1e-5);
      ASSERT_NEAR(errors.energy[g] * scale * scale / (naive.energy + before * before), 1, 1e-4);
      ASSERT_NEAR(errors.weight[g] * scale * scale / (naive.weight + before * before), 1, 1e-4);
      ExpectClose(state.out.data() + g * 64, scale, naive.out, 2e-5);
      ExpectClose(errors.cross.data() + g * 64, scale * scale, naive.cross, 1e-4);
    }
  }
}

TEST_P(EstimateTest, NothingEstimatedChangesNothing) {
  const HeadShape shape = {64, 3, 0.1f, DType::kFloat16};
  const Clusters clusters(shape, 40, &random_);
  Prepare(3, 40, 2, 0);
  std::fill(zones_.begin(), zones_.end(), Zone::kRetrieved);
  const std::vector<float> log_mass(3, 1.0f);
  StateBuffer state(3, 64);
  ErrorBuffer errors(shape);
  for (const ClusterView& view : {clusters.view(), ClusterView()}) {
    const std::vector<ClusterRun> runs = CutRuns(view, &random_);
    EstimateClusters(shape, runs, scores_.view(), zones_.data(), log_mass.data(), true, state.view(), errors.view());
    EXPECT_EQ(state.max[0], -kInf);
    EXPECT_EQ(state.sum[1], 0.0f);
    EXPECT_EQ(errors.mass[2], 0.0f);
  }
}

TEST_P(EstimateTest, ExtremeScoresGiveNoNan) {
  const HeadShape shape = {64, 1, 0.1f, DType::kFloat16};
  const Clusters clusters(shape, 4, &random_);
  const float most = std::numeric_limits<float>::max();
  for (const std::vector<float>& logits : std::vector<std::vector<float>>{
           {-kInf, -kInf, -kInf, -kInf}, {most, -most, 0, -kInf}, {-most, -most, -most, -most}}) {
    scores_ = ScoreBuffer(1, 4);
    scores_.logits = logits;
    scores_.sigmas = {0, most, 1e20f, 1};
    zones_.assign(4, Zone::kEstimated);
    for (float log_mass : {-kInf, 0.0f, most}) {
      StateBuffer state(1, 64);
      ErrorBuffer errors(shape);
      const ClusterView view = clusters.view();
      EstimateClusters(shape, CutRuns(view, &random_), scores_.view(), zones_.data(), &log_mass, true, state.view(),
                       errors.view());
      for (float value : state.Finish()) ASSERT_TRUE(std::isfinite(value));
      float error = kNan, share = kNan;
      PredictError(shape, state.view(), errors.view(), &error, &share);
      ASSERT_TRUE(std::isfinite(error) && std::isfinite(share));
    }
  }
}

SWELL_EVERY_TARGET(EstimateTest);

}  // namespace
}  // namespace swell::attention
