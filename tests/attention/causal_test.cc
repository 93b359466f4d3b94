// Blocked causal attention against float64: masks, permuted rows, strides, long and short prompts.
#include <numeric>

#include "tests/attention/support.h"

namespace swell::attention {
namespace {

struct CausalCase {
  int64_t tokens;
  int64_t n_queries;
  int64_t first_position;
  int64_t padding;  // floats between the queries of two positions
  bool short_runs;
  bool permuted;
};

class CausalTest : public TargetTest {
 protected:
  void Check(const HeadShape& shape, const CausalCase& c) {
    Rows rows(shape, SplitTokens(c.tokens, c.short_runs, &random_), &random_);
    const std::vector<std::vector<uint16_t>> offsets = Permute(&rows, c.permuted);
    std::vector<int64_t> positions;
    for (const KvRun& run : rows.runs) {
      for (int64_t r = 0; r < run.tokens; ++r)
        positions.push_back(run.first_token + (run.offsets ? run.offsets[r] : r));
    }
    const int64_t row_floats = shape.group * shape.head_dim;
    const int64_t stride = row_floats + c.padding;
    std::vector<float> queries(c.n_queries * stride, kNan);
    for (int64_t i = 0; i < c.n_queries; ++i) {
      for (int64_t j = 0; j < row_floats; ++j) queries[i * stride + j] = random_.Normal();
    }
    StateBuffer state(c.n_queries * shape.group, shape.head_dim);
    AttendCausal(shape, queries.data(), c.n_queries, stride, c.first_position, rows.runs, state.view());
    ASSERT_TRUE(state.GuardsHold());
    std::vector<float> lse;
    const std::vector<float> output = state.Finish(&lse);
    for (int64_t i = 0; i < c.n_queries; ++i) {
      const auto visible = [&](int64_t t) { return positions[t] <= c.first_position + i; };
      for (int64_t g = 0; g < shape.group; ++g) {
        const Reference reference = Attention(shape, queries.data() + i * stride + g * shape.head_dim, rows.keys(true),
                                              rows.values(true), visible);
        const int64_t row = i * shape.group + g;
        ASSERT_LT(RelativeError(output.data() + row * shape.head_dim, reference.output), 1e-5) << i << " " << g;
        if (std::isinf(reference.lse)) {
          ASSERT_EQ(lse[row], -kInf);
        } else {
          ASSERT_NEAR(lse[row], reference.lse, 1e-5 * std::max(1.0, std::abs(reference.lse)));
        }
      }
    }
  }

 private:
  // Gives every run a random order of its tokens.
  std::vector<std::vector<uint16_t>> Permute(Rows* rows, bool permuted) {
    std::vector<std::vector<uint16_t>> offsets;
    if (!permuted) return offsets;
    for (KvRun& run : rows->runs) {
      std::vector<uint16_t>& order = offsets.emplace_back(run.tokens);
      std::iota(order.begin(), order.end(), 0);
      for (int64_t i = run.tokens - 1; i > 0; --i) std::swap(order[i], order[random_.Below(i + 1)]);
      run.offsets = order.data();
    }
    return offsets;
  }
};

TEST_P(CausalTest, EveryShape) {
  for (DType dtype : kDTypes) {
    for (int32_t head_dim : kHeadDims) {
      for (int32_t group : kGroups) {
        SCOPED_TRACE(testing::Message() << "dtype " << static_cast<int>(dtype) << " head_dim " << head_dim << " group "
                                        << group);
        const HeadShape shape = {head_dim, group, 1 / std::sqrt(static_cast<float>(head_dim)), dtype};
        Check(shape, {70, 5, 65, random_.Below(2) * 3, random_.Below(2) == 1, random_.Below(2) == 1});
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(CausalTest, EveryLength) {
  const HeadShape shape = {64, 3, 0.125f, DType::kFloat16};
  for (int64_t tokens : {1, 2, 15, 17, 63, 64, 65, 129, 300}) {
    for (int64_t n_queries : {1, 2, 7, 33}) {
      // All visible; the last n_queries tokens are the queries' own; some queries see nothing; nothing is visible.
      for (int64_t first : {tokens + 5, std::max<int64_t>(tokens - n_queries, 0), -n_queries / 2, -2 * n_queries - 1}) {
        for (bool permuted : {false, true}) {
          SCOPED_TRACE(testing::Message() << tokens << " tokens, " << n_queries << " queries from " << first);
          Check(shape, {tokens, n_queries, first, 0, random_.Below(2) == 1, permuted});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(CausalTest, PromptInOnePiece) { Check({128, 2, 0.09f, DType::kFloat32}, {260, 260, 0, 0, false, false}); }

TEST_P(CausalTest, AddsToAnEarlierState) {
  const HeadShape shape = {64, 2, 0.125f, DType::kFloat32};
  const Rows rows(shape, {100, 50}, &random_);
  const std::vector<float> queries = random_.Normals(10 * shape.group * shape.head_dim);
  const int64_t stride = shape.group * shape.head_dim;
  StateBuffer at_once(20, 64), piecewise(20, 64);
  AttendCausal(shape, queries.data(), 10, stride, 140, rows.runs, at_once.view());
  for (const KvRun& run : rows.runs) {
    AttendCausal(shape, queries.data(), 10, stride, 140, {&run, 1}, piecewise.view());
  }
  const std::vector<float> expected = at_once.Finish(), actual = piecewise.Finish();
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-5);
}

TEST_P(CausalTest, HugeLogitsGiveNoNan) {
  for (float magnitude : {1e4f, 1e18f, 1e25f}) {
    const HeadShape shape = {64, 3, 1, DType::kFloat32};
    const Rows rows(shape, {100}, &random_, magnitude);
    const std::vector<float> queries = random_.Normals(4 * shape.group * shape.head_dim, magnitude);
    StateBuffer state(4 * shape.group, shape.head_dim);
    AttendCausal(shape, queries.data(), 4, shape.group * shape.head_dim, 50, rows.runs, state.view());
    for (float value : state.Finish()) ASSERT_TRUE(std::isfinite(value)) << magnitude;
  }
}

SWELL_EVERY_TARGET(CausalTest);

}  // namespace
}  // namespace swell::attention
