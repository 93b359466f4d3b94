// Exact decode attention and row scores against float64.
#include "tests/attention/support.h"

namespace swell::attention {
namespace {

class ExactTest : public TargetTest {
 protected:
  void Check(const HeadShape& shape, int64_t tokens, bool short_runs) {
    const Rows rows(shape, SplitTokens(tokens, short_runs, &random_), &random_);
    const std::vector<float> queries = random_.Normals(shape.group * shape.head_dim);
    StateBuffer state(shape.group, shape.head_dim);
    AttendRuns(shape, queries.data(), rows.runs, state.view());
    ASSERT_TRUE(state.GuardsHold());
    std::vector<float> lse;
    const std::vector<float> output = state.Finish(&lse);
    for (int32_t g = 0; g < shape.group; ++g) {
      const float* query = queries.data() + g * shape.head_dim;
      const float* actual = output.data() + g * shape.head_dim;
      const Reference decoded = Attention(shape, query, rows.keys(true), rows.values(true));
      ASSERT_LT(RelativeError(actual, decoded.output), 1e-5) << "head " << g;
      ASSERT_NEAR(lse[g], decoded.lse, 1e-5 * std::max(1.0, std::abs(decoded.lse)));
      if (shape.storage == DType::kFloat32) continue;
      const Reference original = Attention(shape, query, rows.keys(false), rows.values(false));
      ASSERT_LT(RelativeError(actual, original.output), StorageTolerance(shape.storage)) << "head " << g;
    }
  }
};

TEST_P(ExactTest, EveryShapeAndLength) {
  for (DType dtype : kDTypes) {
    for (int32_t head_dim : kHeadDims) {
      for (int32_t group : kGroups) {
        // The long length in one group only: the tails are what the groups differ in.
        std::vector<int64_t> lengths = {1, 2, 15, 17, 63, 64, 65};
        if (group == 3) lengths.push_back(1000);
        for (int64_t tokens : lengths) {
          SCOPED_TRACE(testing::Message() << "dtype " << static_cast<int>(dtype) << " head_dim " << head_dim
                                          << " group " << group << " tokens " << tokens);
          const HeadShape shape = {head_dim, group, 1 / std::sqrt(static_cast<float>(head_dim)), dtype};
          Check(shape, tokens, random_.Below(2) == 1);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(ExactTest, LongSequences) {
  const int64_t tokens = IsSlow() ? 20000 : 200000;
  Check({64, 2, 0.125f, DType::kFloat32}, tokens, false);
  Check({64, 1, 0.125f, DType::kFloat16}, tokens, true);
}

TEST_P(ExactTest, RunsInPiecesGiveTheSameAsAtOnce) {
  const HeadShape shape = {80, 7, 0.11f, DType::kBFloat16};
  const Rows rows(shape, SplitTokens(500, true, &random_), &random_);
  const std::vector<float> queries = random_.Normals(shape.group * shape.head_dim);
  StateBuffer at_once(shape.group, shape.head_dim), piecewise(shape.group, shape.head_dim);
  AttendRuns(shape, queries.data(), rows.runs, at_once.view());
  for (const KvRun& run : rows.runs) AttendRuns(shape, queries.data(), {&run, 1}, piecewise.view());
  const std::vector<float> expected = at_once.Finish(), actual = piecewise.Finish();
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-5);
}

TEST_P(ExactTest, NoRunsLeaveTheStateAlone) {
  const HeadShape shape = {32, 2, 1, DType::kFloat32};
  const std::vector<float> queries(64, 1.0f);
  StateBuffer state(2, 32);
  AttendRuns(shape, queries.data(), {}, state.view());
  const KvRun empty;
  AttendRuns(shape, queries.data(), {&empty, 1}, state.view());
  EXPECT_EQ(state.max[0], -kInf);
  EXPECT_EQ(state.sum[1], 0.0f);
}

// Logits far outside the range of exp, and some that overflow float32.
TEST_P(ExactTest, HugeLogitsGiveNoNan) {
  for (float magnitude : {1e4f, 1e18f, 1e25f}) {
    const HeadShape shape = {64, 3, 1, DType::kFloat32};
    const Rows rows(shape, {100}, &random_, magnitude);
    const std::vector<float> queries = random_.Normals(shape.group * shape.head_dim, magnitude);
    StateBuffer state(shape.group, shape.head_dim);
    AttendRuns(shape, queries.data(), rows.runs, state.view());
    for (float value : state.Finish()) ASSERT_TRUE(std::isfinite(value)) << magnitude;
  }
}

TEST_P(ExactTest, ScoresOfRows) {
  for (DType dtype : kDTypes) {
    for (int32_t head_dim : {16, 80, 128}) {
      for (int64_t tokens : {1, 63, 66, 200}) {
        const HeadShape shape = {head_dim, 5, 0.3f, dtype};
        const Rows rows(shape, {tokens}, &random_);
        const std::vector<float> queries = random_.Normals(shape.group * head_dim);
        const int64_t stride = tokens + 3;
        std::vector<float> logits(shape.group * stride, kNan);
        KvRun run = rows.runs[0];
        run.values = nullptr;  // search reads keys alone
        run.value_scales = nullptr;
        ScoreRows(shape, queries.data(), run, logits.data(), stride);
        for (int64_t g = 0; g < shape.group; ++g) {
          for (int64_t t = 0; t < stride; ++t) {
            const float logit = logits[g * stride + t];
            if (t >= tokens) {
              ASSERT_TRUE(std::isnan(logit));
              continue;
            }
            double dot = 0;
            for (int64_t i = 0; i < head_dim; ++i) {
              dot += static_cast<double>(queries[g * head_dim + i]) * rows.keys(true)[t * head_dim + i];
            }
            ASSERT_NEAR(logit, shape.scale * dot, 2e-5);
          }
        }
      }
    }
  }
}

SWELL_EVERY_TARGET(ExactTest);

}  // namespace
}  // namespace swell::attention
