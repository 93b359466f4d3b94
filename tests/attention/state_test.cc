// Partial states: merging in any order, finishing, error states and the predicted error.
#include "tests/attention/support.h"

namespace swell::attention {
namespace {

class StateTest : public TargetTest {
 protected:
  static constexpr int32_t kDim = 80;
  static constexpr HeadShape kShape = {kDim, 3, 0.1f, DType::kFloat32};

  // A state and errors whose maxima differ by tens of nats.
  void Fill(StateBuffer* state, ErrorBuffer* errors) {
    for (int g = 0; g < 3; ++g) {
      state->max[g] = 30 * random_.Normal();
      state->sum[g] = 1 + random_.Below(100);
      errors->energy[g] = 1 + random_.Below(5);
      errors->weight[g] = 1 + random_.Below(5);
      errors->mass[g] = 1 + random_.Below(5);
      for (int i = 0; i < kDim; ++i) {
        state->out[g * kDim + i] = random_.Normal();
        errors->cross[g * kDim + i] = random_.Normal();
      }
    }
  }
};

TEST_P(StateTest, MergeIsAssociativeAndCommutative) {
  for (int round = 0; round < 20; ++round) {
    StateBuffer a(3, kDim), b(3, kDim), c(3, kDim);
    ErrorBuffer unused(kShape);
    Fill(&a, &unused);
    Fill(&b, &unused);
    Fill(&c, &unused);
    StateBuffer left = a;
    MergeState(3, kDim, b.view(), left.view());
    MergeState(3, kDim, c.view(), left.view());
    StateBuffer right = c;
    MergeState(3, kDim, b.view(), right.view());
    StateBuffer total = a;
    MergeState(3, kDim, right.view(), total.view());
    std::vector<float> left_lse, total_lse;
    const std::vector<float> left_out = left.Finish(&left_lse), total_out = total.Finish(&total_lse);
    for (int g = 0; g < 3; ++g) ASSERT_NEAR(left_lse[g], total_lse[g], 1e-5 * std::max(1.0f, std::abs(left_lse[g])));
    for (int i = 0; i < 3 * kDim; ++i) ASSERT_NEAR(left_out[i], total_out[i], 1e-5);
    ASSERT_TRUE(left.GuardsHold());
  }
}

TEST_P(StateTest, EmptyStatesAreNeutral) {
  StateBuffer filled(3, kDim), empty(3, kDim);
  ErrorBuffer unused(kShape);
  Fill(&filled, &unused);
  StateBuffer result = filled;
  MergeState(3, kDim, empty.view(), result.view());
  EXPECT_TRUE(std::equal(result.out.begin(), result.out.begin() + 3 * kDim, filled.out.begin()));
  StateBuffer onto = empty;
  MergeState(3, kDim, filled.view(), onto.view());
  for (int i = 0; i < 3 * kDim; ++i) ASSERT_EQ(onto.out[i], filled.out[i]);
  for (int g = 0; g < 3; ++g) ASSERT_EQ(onto.max[g], filled.max[g]);
  MergeState(3, kDim, StateBuffer(3, kDim).view(), empty.view());
  std::vector<float> lse;
  for (float value : empty.Finish(&lse)) ASSERT_EQ(value, 0.0f);
  for (float value : lse) ASSERT_EQ(value, -kInf);
  StateBuffer no_lse(3, kDim);
  std::vector<float> output(3 * kDim, kNan);
  FinishState(3, kDim, no_lse.view(), output.data(), nullptr);
  EXPECT_EQ(output[0], 0.0f);
}

TEST_P(StateTest, ErrorsMergeInTheScaleOfTheMaximum) {
  StateBuffer a(3, kDim), b(3, kDim);
  ErrorBuffer errors_a(kShape), errors_b(kShape);
  Fill(&a, &errors_a);
  Fill(&b, &errors_b);
  // Near enough for the smaller one to count; once each is the larger one.
  b.max[0] = a.max[0] + 0.5f;
  b.max[1] = a.max[1] - 0.5f;
  b.max[2] = -kInf;  // no tokens there: neutral
  ErrorBuffer merged = errors_b;
  MergeErrors(kShape, a.max.data(), errors_a.view(), b.max.data(), merged.view());
  for (int g = 0; g < 3; ++g) {
    const double max = std::max(a.max[g], b.max[g]);
    const double fa = std::exp(a.max[g] - max), fb = std::exp(b.max[g] - max);
    ASSERT_NEAR(merged.mass[g], fa * errors_a.mass[g] + fb * errors_b.mass[g], 1e-5);
    ASSERT_NEAR(merged.energy[g], fa * fa * errors_a.energy[g] + fb * fb * errors_b.energy[g], 1e-5);
    ASSERT_NEAR(merged.weight[g], fa * fa * errors_a.weight[g] + fb * fb * errors_b.weight[g], 1e-5);
    for (int i = g * kDim; i < (g + 1) * kDim; ++i) {
      ASSERT_NEAR(merged.cross[i], fa * fa * errors_a.cross[i] + fb * fb * errors_b.cross[i], 1e-5);
    }
  }
  ErrorBuffer same = merged;
  const std::vector<float> nothing(3, -kInf);
  MergeErrors(kShape, nothing.data(), errors_a.view(), a.max.data(), same.view());
  EXPECT_EQ(same.mass, merged.mass);
  MergeErrors(kShape, nothing.data(), errors_a.view(), nothing.data(), same.view());
  EXPECT_EQ(same.energy, merged.energy);
}

TEST_P(StateTest, PredictedErrorFollowsTheFormula) {
  StateBuffer state(3, kDim);
  ErrorBuffer errors(kShape);
  Fill(&state, &errors);
  for (float& energy : errors.energy) energy += 1000;
  for (int i = 0; i < kDim; ++i) state.out[2 * kDim + i] = 0;
  std::vector<float> error(3, kNan), share(3, kNan);
  PredictError(kShape, state.view(), errors.view(), error.data(), share.data());
  for (int g = 0; g < 2; ++g) {
    double cross = 0, square = 0;
    for (int i = g * kDim; i < (g + 1) * kDim; ++i) {
      const double output = static_cast<double>(state.out[i]) / state.sum[g];
      cross += output * errors.cross[i];
      square += output * output;
    }
    const double sum = state.sum[g];
    const double e2 = (errors.energy[g] - 2 * cross + square * errors.weight[g]) / (sum * sum) / square;
    ASSERT_NEAR(error[g], std::sqrt(e2), 1e-4 * std::sqrt(e2));
    ASSERT_NEAR(share[g], std::min(1.0, errors.mass[g] / sum), 1e-6);
  }
  EXPECT_TRUE(std::isfinite(error[2]));
  EXPECT_GT(error[2], 1e6f);
}

TEST_P(StateTest, PredictedErrorOfNothingIsZero) {
  StateBuffer state(3, kDim);
  ErrorBuffer errors(kShape);
  std::vector<float> error(3, kNan), share(3, kNan);
  PredictError(kShape, state.view(), errors.view(), error.data(), share.data());
  EXPECT_EQ(error, std::vector<float>(3, 0.0f));
  EXPECT_EQ(share, std::vector<float>(3, 0.0f));
}

SWELL_EVERY_TARGET(StateTest);

}  // namespace
}  // namespace swell::attention
