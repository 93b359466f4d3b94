// The estimation zone against the formulas of attention.h in float64.
#include "lib/attention/byte_dots.h"
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
  // Scores of `clusters` in runs of a few tiles, with logits around `center` nats; a third of the clusters of each
  // zone, padding of any.
  void Prepare(const Clusters& clusters, int32_t group, float spread, float center) {
    view_ = clusters.view();
    runs_ = CutRuns(view_, &random_);
    scores_ = ScoreBuffer(group, runs_, 2);
    std::fill(scores_.logits.begin(), scores_.logits.end(), -kInf);
    for (float& width : scores_.widths) width = 3 * std::abs(random_.Normal());
    zones_.resize(EntriesOf(runs_));
    for (Zone& zone : zones_) zone = static_cast<Zone>(random_.Below(3));
    log_mass_.clear();
    for (int64_t g = 0; g < group; ++g) {
      double mass = 0;
      ForEachCluster(runs_, [&](int64_t, int64_t j, int64_t entry) {
        scores_.logit(g, entry) = spread * random_.Normal() + center;
        mass += clusters.Size(j) * std::exp(static_cast<double>(scores_.logit(g, entry)));
      });
      log_mass_.push_back(std::log(mass));
    }
  }

  NaiveEstimate Naive(const Clusters& clusters, int64_t g, bool correct) {
    NaiveEstimate result;
    result.out.assign(clusters.head_dim, 0);
    result.cross.assign(clusters.head_dim, 0);
    double other_weight = 0;
    ForEachCluster(runs_, [&](int64_t run, int64_t j, int64_t entry) {
      if (zones_[entry] != Zone::kEstimated) return;
      const double sigma = static_cast<double>(scores_.width(run, g)) * clusters.spreads[j];
      const double size = clusters.Size(j);
      const double correction = correct ? std::exp(std::min(sigma * sigma / 2, 1.0)) : 1;
      const double w = size * std::exp(static_cast<double>(scores_.logit(g, entry))) * correction;
      const double c = w * w * (std::exp(std::min(sigma * sigma, 2.0)) - 1) / size;
      result.sum += w;
      result.mass += w;
      result.energy += c * clusters.value_energies[j];
      result.weight += c;
      const double share = w * std::exp(-static_cast<double>(log_mass_[g]));
      if (share <= 0x1p-8) other_weight += c;
      const int64_t tile = j / kClusterTile;
      for (int64_t i = 0; i < clusters.head_dim; ++i) {
        const double own =
            static_cast<double>(clusters.value_scales[j]) * clusters.value_means[j * clusters.head_dim + i];
        const double of_tile =
            static_cast<double>(clusters.tile_scales[tile]) * clusters.tile_means[tile * clusters.head_dim + i];
        result.out[i] += w * (share > 0x1p-12 ? own : of_tile);
        if (share > 0x1p-8) result.cross[i] += c * own;
      }
    });
    for (int64_t i = 0; i < clusters.head_dim && result.mass > 0; ++i) {
      result.cross[i] += other_weight * result.out[i] / result.mass;
    }
    return result;
  }

  // Of the sum of values. Where the target multiplies bytes their weights count in 16 bits, each within 2^-17 of the
  // largest of up to 64, so that 64 equal ones, rounded at random, are off by a few times that.
  double SumTolerance() const { return GetParam() == HWY_AVX3 && HasByteDots() ? 5e-5 : 2e-5; }

  ClusterView view_;
  std::vector<ClusterRun> runs_;
  ScoreBuffer scores_{0, {}};
  std::vector<Zone> zones_;
  std::vector<float> log_mass_;
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
          Prepare(clusters, group, 6, 1);
          StateBuffer state(group, head_dim);
          ErrorBuffer errors(shape);
          EstimateClusters(shape, runs_, scores_.view(), zones_.data(), log_mass_.data(), correct, state.view(),
                           errors.view());
          ASSERT_TRUE(state.GuardsHold());
          for (int64_t g = 0; g < group; ++g) {
            const NaiveEstimate naive = Naive(clusters, g, correct);
            if (naive.sum == 0) {
              ASSERT_EQ(state.sum[g], 0.0f);
              continue;
            }
            const double scale = std::exp(static_cast<double>(state.max[g]));
            ASSERT_NEAR(state.sum[g] * scale / naive.sum, 1, 1e-5);
            ASSERT_NEAR(errors.mass[g] * scale / naive.mass, 1, 1e-5);
            ASSERT_NEAR(errors.energy[g] * scale * scale / naive.energy, 1, 1e-4);
            ASSERT_NEAR(errors.weight[g] * scale * scale / naive.weight, 1, 1e-4);
            // Clusters right at a limit of the share may fall on either side.
            ExpectClose(state.out.data() + g * head_dim, scale, naive.out, SumTolerance());
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
    Prepare(clusters, 3, 2, 0);
    StateBuffer state(3, 64);
    ErrorBuffer errors(shape);
    for (int64_t g = 0; g < 3; ++g) {
      state.max[g] = exact_max;
      state.sum[g] = 2;
      errors.energy[g] = errors.weight[g] = errors.mass[g] = 1;
      for (int64_t i = 0; i < 64; ++i) state.out[g * 64 + i] = errors.cross[g * 64 + i] = 1;
    }
    EstimateClusters(shape, runs_, scores_.view(), zones_.data(), log_mass_.data(), true, state.view(), errors.view());
    const double before = std::exp(static_cast<double>(exact_max));
    for (int64_t g = 0; g < 3; ++g) {
      NaiveEstimate naive = Naive(clusters, g, true);
      for (double& value : naive.out) value += before;
      for (double& value : naive.cross) value += before * before;
      const double scale = std::exp(static_cast<double>(state.max[g]));
      ASSERT_GE(state.max[g], exact_max);
      ASSERT_NEAR(state.sum[g] * scale / (naive.sum + 2 * before), 1, 1e-5);
      ASSERT_NEAR(errors.mass[g] * scale / (naive.mass + before), 1, 1e-5);
      ASSERT_NEAR(errors.energy[g] * scale * scale / (naive.energy + before * before), 1, 1e-4);
      ASSERT_NEAR(errors.weight[g] * scale * scale / (naive.weight + before * before), 1, 1e-4);
      ExpectClose(state.out.data() + g * 64, scale, naive.out, SumTolerance());
      ExpectClose(errors.cross.data() + g * 64, scale * scale, naive.cross, 1e-4);
    }
  }
}

TEST_P(EstimateTest, NothingEstimatedChangesNothing) {
  const HeadShape shape = {64, 3, 0.1f, DType::kFloat16};
  const Clusters clusters(shape, 40, &random_);
  Prepare(clusters, 3, 2, 0);
  std::fill(zones_.begin(), zones_.end(), Zone::kRetrieved);
  StateBuffer state(3, 64);
  ErrorBuffer errors(shape);
  for (const std::vector<ClusterRun>& runs : {runs_, {}, {{&view_, 0, 0}}}) {
    EstimateClusters(shape, runs, scores_.view(), zones_.data(), log_mass_.data(), true, state.view(), errors.view());
    EXPECT_EQ(state.max[0], -kInf);
    EXPECT_EQ(state.sum[1], 0.0f);
    EXPECT_EQ(errors.mass[2], 0.0f);
  }
}

TEST_P(EstimateTest, ExtremeScoresGiveNoNan) {
  const HeadShape shape = {64, 1, 0.1f, DType::kFloat16};
  Clusters clusters(shape, 4, &random_);
  const float most = std::numeric_limits<float>::max();
  clusters.spreads = {0, most, 1e20f, 1};
  clusters.spreads.resize(kClusterTile, kNan);
  for (const std::vector<float>& logits : std::vector<std::vector<float>>{
           {-kInf, -kInf, -kInf, -kInf}, {most, -most, 0, -kInf}, {-most, -most, -most, -most}}) {
    Prepare(clusters, 1, 1, 0);
    std::copy(logits.begin(), logits.end(), scores_.logits.begin());
    std::fill(zones_.begin(), zones_.end(), Zone::kEstimated);
    for (float width : {0.0f, 1.0f, most}) {
      scores_.width(0, 0) = width;
      for (float log_mass : {-kInf, 0.0f, most}) {
        StateBuffer state(1, 64);
        ErrorBuffer errors(shape);
        EstimateClusters(shape, runs_, scores_.view(), zones_.data(), &log_mass, true, state.view(), errors.view());
        for (float value : state.Finish()) ASSERT_TRUE(std::isfinite(value));
        float error = kNan, share = kNan;
        PredictError(shape, state.view(), errors.view(), &error, &share);
        ASSERT_TRUE(std::isfinite(error) && std::isfinite(share));
      }
    }
  }
}

SWELL_EVERY_TARGET(EstimateTest);

}  // namespace
}  // namespace swell::attention
