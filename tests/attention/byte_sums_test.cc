// Weighted sums of rows of bytes against float64.
#include "lib/attention/byte_sums.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lib/attention/byte_dots.h"
#include "lib/attention/row_tile.h"
#include "tests/attention/support.h"

namespace swell::attention {
namespace {

class ByteSumsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::cout << "seed " << kSeed << "\n";
    if (!HasByteDots()) GTEST_SKIP() << "this processor does not multiply bytes";
  }

  // Rows of which those behind `count` are poison, `weights` around `level`, of which some are zero.
  void Prepare(int64_t count, int64_t group, int64_t head_dim, float level) {
    bytes_.resize(count * head_dim);
    for (int8_t& byte : bytes_) byte = static_cast<int8_t>(static_cast<int64_t>(random_.Below(256)) - 128);
    rows_.assign(kTileTokens, nullptr);
    for (int64_t t = 0; t < count; ++t) rows_[t] = bytes_.data() + t * head_dim;
    weights_.assign(group * kTileTokens, kNan);
    for (int64_t g = 0; g < group; ++g) {
      for (int64_t t = 0; t < count; ++t) {
        weights_[g * kTileTokens + t] = random_.Below(4) == 0 ? 0 : level * std::exp(2 * random_.Normal());
      }
    }
    sums_.assign(group * head_dim + 1, 1);
  }

  void ExpectSums(int64_t count, int64_t group, int64_t head_dim) {
    for (int64_t g = 0; g < group; ++g) {
      const float* weights = weights_.data() + g * kTileTokens;
      const double within = 128.0 * count * *std::max_element(weights, weights + count) / (1 << 17);
      for (int64_t i = 0; i < head_dim; ++i) {
        double expected = 1;
        for (int64_t t = 0; t < count; ++t) expected += static_cast<double>(weights[t]) * bytes_[t * head_dim + i];
        ASSERT_NEAR(sums_[g * head_dim + i], expected, within + 1e-6 * std::abs(expected)) << g << ", " << i;
      }
    }
    ASSERT_EQ(sums_.back(), 1) << "beyond the sums";
  }

  Random random_{kSeed};
  std::vector<int8_t> bytes_;
  std::vector<const void*> rows_;
  std::vector<float> weights_, sums_;
};

TEST_F(ByteSumsTest, FollowFloat64) {
  for (const int64_t head_dim : {16, 48, 64, 80, 128, 256}) {
    for (const int64_t group : {1, 2, 3, 4, 7, 16}) {
      for (const int64_t count : {1, 3, 4, 17, 64}) {
        SCOPED_TRACE(testing::Message() << head_dim << " x " << group << ", " << count << " rows");
        Prepare(count, group, head_dim, 1.0F);
        SumByteRows(rows_.data(), count, weights_.data(), group, head_dim, sums_.data());
        ExpectSums(count, group, head_dim);
      }
    }
  }
}

// Weights whose reciprocals would not be finite, and none at all, add nothing; large ones stay finite.
TEST_F(ByteSumsTest, AnyMagnitude) {
  for (const float level : {0.0F, 1e-42F, 1e-30F, 1e25F}) {
    Prepare(20, 3, 64, level);
    SumByteRows(rows_.data(), 20, weights_.data(), 3, 64, sums_.data());
    ExpectSums(20, 3, 64);
  }
}

}  // namespace
}  // namespace swell::attention
