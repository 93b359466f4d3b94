// The meta index of the wave index against float64.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/index/head_rows.h"
#include "tests/support/each_target.h"

namespace swell {
namespace {

constexpr uint32_t kSeed = 4711;

int64_t TileElement(int64_t cluster, int64_t dim, int64_t head_dim) {
  return (cluster / kClusterTile * head_dim / 4 + dim / 4) * kClusterTile * 4 + cluster % kClusterTile * 4 + dim % 4;
}

// Mean and variance of one column over the tokens of a cluster.
struct Moments {
  double mean = 0;
  double variance = 0;

  Moments(const std::vector<float>& rows, int64_t head_dim, int64_t dim, std::span<const uint16_t> tokens) {
    for (const uint16_t token : tokens) mean += rows[token * head_dim + dim] / static_cast<double>(tokens.size());
    for (const uint16_t token : tokens) {
      variance += std::pow(rows[token * head_dim + dim] - mean, 2) / static_cast<double>(tokens.size());
    }
  }
};

double LargestMagnitude(const std::vector<float>& rows) {
  double largest = 0;
  for (const float x : rows) largest = std::max(largest, std::abs(static_cast<double>(x)));
  return largest;
}

// Every stored figure is within half a quantisation step of its float64 value, but for float32 rounding.
void ExpectMeta(const HeadRows& head, const SegmentIndex& index, const ClusterView& view) {
  const int64_t head_dim = head.shape.head_dim;
  const double key_rounding = 1e-6 * LargestMagnitude(head.keys.decoded);
  const double value_rounding = 1e-6 * LargestMagnitude(head.values.decoded);
  std::vector<uint16_t> all(head.tokens);
  for (int64_t token = 0; token < head.tokens; ++token) all[token] = static_cast<uint16_t>(token);
  for (int64_t i = 0; i < head_dim; ++i) {
    EXPECT_NEAR(view.center[i], Moments(head.keys.decoded, head_dim, i, all).mean, key_rounding);
  }
  const auto tokens_of = [&](int64_t first, int64_t last) {
    return index.order().subspan(view.first_rows[first], view.first_rows[last] - view.first_rows[first]);
  };
  std::vector<double> profile(head_dim, 0.0);
  double total = 0;
  for (int64_t cluster = 0; cluster < view.clusters; ++cluster) {
    SCOPED_TRACE(testing::Message() << "cluster " << cluster);
    const auto tokens = tokens_of(cluster, cluster + 1);
    const double scale = view.centroid_scales[cluster];
    const double value_scale = view.value_scales[cluster];
    if (tokens.size() == 1) {
      EXPECT_EQ(view.spreads[cluster], 0);
    }
    double energy = 0;
    double variance = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
      const Moments key(head.keys.decoded, head_dim, i, tokens);
      const Moments value(head.values.decoded, head_dim, i, tokens);
      energy += value.mean * value.mean + value.variance;
      variance += key.variance / static_cast<double>(head_dim);
      profile[i] += key.variance * static_cast<double>(tokens.size());
      total += key.variance * static_cast<double>(tokens.size());
      const double centroid = view.center[i] + scale * view.centroids[TileElement(cluster, i, head_dim)];
      EXPECT_NEAR(centroid, key.mean, 0.5 * scale + key_rounding);
      const double value_mean = value_scale * view.value_means[cluster * head_dim + i];
      EXPECT_NEAR(value_mean, value.mean, 0.5 * value_scale + value_rounding);
      EXPECT_GT(view.centroids[TileElement(cluster, i, head_dim)], -128);
    }
    EXPECT_NEAR(view.spreads[cluster], std::sqrt(variance), 4 * key_rounding + 1e-5 * std::sqrt(variance));
    EXPECT_NEAR(view.value_energies[cluster], energy, 1e-6 * energy);
  }
  for (int64_t i = 0; i < head_dim; ++i) {
    const double expected = total > 0 ? profile[i] * static_cast<double>(head_dim) / total : 1;
    EXPECT_NEAR(view.spread_profile[i], expected, 1e-4 * expected + 1e-4);
  }
  for (int64_t first = 0; first < view.clusters; first += kClusterTile) {
    const int64_t tile = first / kClusterTile;
    const auto tokens = tokens_of(first, std::min<int64_t>(first + kClusterTile, view.clusters));
    for (int64_t i = 0; i < head_dim; ++i) {
      const double mean = static_cast<double>(view.tile_scales[tile]) * view.tile_means[tile * head_dim + i];
      EXPECT_NEAR(mean, Moments(head.values.decoded, head_dim, i, tokens).mean,
                  0.5 * view.tile_scales[tile] + value_rounding);
    }
  }
  const int64_t padded = (view.clusters + kClusterTile - 1) / kClusterTile * kClusterTile;
  for (int64_t cluster = view.clusters; cluster < padded; ++cluster) {
    EXPECT_EQ(view.centroid_scales[cluster], 0);
    EXPECT_EQ(view.spreads[cluster], 0);
    for (int64_t i = 0; i < head_dim; ++i) EXPECT_EQ(view.centroids[TileElement(cluster, i, head_dim)], 0);
  }
}

void ExpectMeta(const HeadRows& head, const SegmentIndex& index) {
  ExpectMeta(head, index, index.clusters());
  ExpectMeta(head, index, index.super_clusters());
}

// No figure of the view, nor what readers multiply out of it, is NaN or Inf.
void ExpectFinite(const HeadRows& head, const SegmentIndex& index) {
  const ClusterView view = index.clusters();
  for (int64_t i = 0; i < head.shape.head_dim; ++i) {
    EXPECT_TRUE(std::isfinite(view.center[i]));
    EXPECT_TRUE(std::isfinite(view.spread_profile[i]));
  }
  for (int64_t cluster = 0; cluster < view.clusters; ++cluster) {
    EXPECT_TRUE(std::isfinite(view.centroid_scales[cluster] * 127));
    EXPECT_TRUE(std::isfinite(view.spreads[cluster]));
    EXPECT_TRUE(std::isfinite(view.value_scales[cluster] * 127));
    EXPECT_TRUE(std::isfinite(view.value_energies[cluster]));
    EXPECT_GE(view.spreads[cluster], 0);
  }
}

TEST(MetaIndexTest, EveryShapeAndDTypeOnEveryTarget) {
  ForEachTarget([](int64_t) {
    for (const int32_t head_dim : {16, 64, 80, 96, 128, 256}) {
      for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt8}) {
        SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", head_dim " << head_dim << ", dtype "
                                        << static_cast<int>(dtype));
        const HeadRows head = RandomHead(dtype, head_dim, 173, kSeed);
        ExpectMeta(head, *BuildIndex({}, head.shape, head.Whole()));
      }
    }
  });
}

TEST(MetaIndexTest, OneToken) {
  const HeadRows head = RandomHead(DType::kFloat32, 64, 1, kSeed);
  const auto index = BuildIndex({}, head.shape, head.Whole());
  EXPECT_EQ(index->clusters().clusters, 1);
  ExpectMeta(head, *index);
}

TEST(MetaIndexTest, IdenticalKeysAreOneClusterWithoutSpread) {
  const std::vector<float> rows(100 * 64, 3.14F);
  const HeadRows head(DType::kFloat32, 64, rows, rows);
  const auto index = BuildIndex({}, head.shape, head.Whole());
  ASSERT_EQ(index->clusters().clusters, 1);
  EXPECT_EQ(index->clusters().spreads[0], 0);
  ExpectMeta(head, *index);
}

TEST(MetaIndexTest, ZeroVectors) {
  const std::vector<float> rows(50 * 16, 0.0F);
  for (const DType dtype : {DType::kFloat32, DType::kInt8}) {
    const HeadRows head(dtype, 16, rows, rows);
    const auto index = BuildIndex({}, head.shape, head.Whole());
    ASSERT_EQ(index->clusters().clusters, 1);
    ExpectMeta(head, *index);
    ExpectFinite(head, *index);
  }
}

// Keys of any magnitude cluster alike: only the scale differs.
TEST(MetaIndexTest, EveryMagnitude) {
  const std::vector<float> rows = RandomRows(200, 64, 20, kSeed);
  const HeadRows plain(DType::kFloat32, 64, rows, rows);
  const auto expected = BuildIndex({}, plain.shape, plain.Whole());
  for (const int exponent : {-60, -30, -10, 10, 50, 100}) {
    SCOPED_TRACE(testing::Message() << "2^" << exponent << ", seed " << kSeed);
    std::vector<float> scaled = rows;
    for (float& x : scaled) x = std::ldexp(x, exponent);
    const HeadRows head(DType::kFloat32, 64, scaled, scaled);
    const auto index = BuildIndex({}, head.shape, head.Whole());
    ExpectFinite(head, *index);
    ASSERT_EQ(index->order().size(), expected->order().size());
    EXPECT_TRUE(std::equal(index->order().begin(), index->order().end(), expected->order().begin()));
    if (std::abs(exponent) < 60) ExpectMeta(head, *index);
  }
}

TEST(MetaIndexTest, LargestNumbersStayFinite) {
  std::mt19937 random(kSeed);
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    const float largest = dtype == DType::kFloat32   ? std::numeric_limits<float>::max()
                          : dtype == DType::kFloat16 ? 65504.0F
                                                     : 3.3895314e38F;
    std::vector<float> rows(64 * 32);
    for (float& x : rows) x = random() % 2 == 0 ? largest : -largest;
    std::fill_n(rows.begin(), 32 * 32, -largest);
    const HeadRows head(dtype, 32, rows, rows);
    const auto index = BuildIndex({}, head.shape, head.Whole());
    ExpectFinite(head, *index);
    if (dtype == DType::kFloat16) ExpectMeta(head, *index);
  }
}

// A single outlier is free to be a cluster of its own.
TEST(MetaIndexTest, OutlierIsAlone) {
  std::vector<float> rows = RandomRows(400, 64, 0, kSeed);
  for (int64_t i = 0; i < 64; ++i) rows[4 * 64 + i] = 30;  // one of the tokens that k-means begins with
  const HeadRows head(DType::kFloat16, 64, rows, rows);
  const auto index = BuildIndex({}, head.shape, head.Whole());
  const ClusterView view = index->clusters();
  int64_t size = 0;
  for (int64_t cluster = 0; cluster < view.clusters; ++cluster) {
    for (uint32_t row = view.first_rows[cluster]; row < view.first_rows[cluster + 1]; ++row) {
      if (index->order()[row] == 4) size = view.first_rows[cluster + 1] - view.first_rows[cluster];
    }
  }
  EXPECT_EQ(size, 1);
}

TEST(MetaIndexTest, NonFiniteRowsAreRefused) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const bool in_keys : {true, false}) {
      const std::vector<float> rows = RandomRows(100, 32, 0, kSeed);
      HeadRows head(DType::kFloat32, 32, rows, rows);
      std::vector<uint32_t>& bytes = in_keys ? head.keys.bytes : head.values.bytes;
      std::memcpy(&bytes[57 * 32 + 3], &bad, sizeof(bad));
      const std::vector<KvRun> runs = head.Whole();
      const Status status = MakeBuilder({})->Build(head.shape, runs).status();
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_EQ(status.detail(), StatusDetail::kNonFinite);
      EXPECT_NE(status.message().find(in_keys ? "keys" : "values"), std::string::npos) << status.message();
    }
  }
}

TEST(MetaIndexTest, LongestSegment) {
  const std::vector<float> rows = RandomRows(kMaxSegmentTokens, 16, 100, kSeed);
  const HeadRows head(DType::kFloat16, 16, rows, rows);
  const IndexOptions options{IndexKind::kWave, 4096, 1};
  const auto index = BuildIndex(options, head.shape, head.Whole());
  EXPECT_LE(index->bytes(), MakeBuilder(options)->MaxBytes(head.shape, head.tokens));
  ExpectMeta(head, *index);
}

}  // namespace
}  // namespace swell
