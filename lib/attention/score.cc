// Scores of clusters: one lane is one cluster, every dimension of a tile is one vector of int8.
#include "lib/base/simd_targets.h"
#include "swell/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/attention/score.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {

// Vectors of a tile, and query heads that share its loads: 2 * queries * parts sums stay in registers.
constexpr int kParts = kClusterTile / hn::MaxLanes(FloatTag());
constexpr int kScoreQueries = HWY_MAX(1, (kManyRegisters ? 8 : 4) / kParts);

// What the kernel needs of the query heads.
struct QueryTable {
  alignas(64) float squares[kMaxGroup * kMaxHeadDim];  // q^2
  float centers[kMaxGroup];                            // q . center
};

void FillTable(const HeadShape& shape, const float* queries, const float* center, QueryTable* table) {
  const FloatTag d;
  for (int64_t g = 0; g < shape.group; ++g) {
    auto sum = hn::Zero(d);
    for (int64_t i = 0; i < shape.head_dim; i += hn::Lanes(d)) {
      const auto query = hn::LoadU(d, queries + g * shape.head_dim + i);
      hn::StoreU(hn::Mul(query, query), d, table->squares + g * shape.head_dim + i);
      sum = hn::MulAdd(query, hn::LoadU(d, center + i), sum);
    }
    table->centers[g] = Sum(sum);
  }
}

HWY_INLINE FloatVec LoadSpread(const uint8_t* from) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<uint8_t, FloatTag> d8;
  return hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, from)));
}

// Logits and sigmas of the tile from cluster `first` on, for kQueries heads from `head` on.
template <int kQueries>
void ScoreTile(const HeadShape& shape, const float* queries, const QueryTable& table, const ClusterView& view,
               int64_t first, int64_t head, const ClusterScores& scores) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  const int64_t head_dim = shape.head_dim;
  const float* query = queries + head * head_dim;
  const float* square = table.squares + head * head_dim;
  const int8_t* centroids = view.centroids + first * head_dim;
  const uint8_t* spreads = view.spreads + first * head_dim;
  FloatVec dots[kQueries][kParts], variances[kQueries][kParts];
  for (int q = 0; q < kQueries; ++q) {
    for (int p = 0; p < kParts; ++p) dots[q][p] = variances[q][p] = hn::Zero(d);
  }
  for (int64_t i = 0; i < head_dim; ++i) {
    for (int p = 0; p < kParts; ++p) {
      const auto centroid = Int8Rows::Load(d, centroids + i * kClusterTile + p * lanes);
      const auto spread = LoadSpread(spreads + i * kClusterTile + p * lanes);
      for (int q = 0; q < kQueries; ++q) {
        dots[q][p] = hn::MulAdd(hn::Set(d, query[q * head_dim + i]), centroid, dots[q][p]);
        variances[q][p] = hn::MulAdd(hn::Set(d, square[q * head_dim + i]), spread, variances[q][p]);
      }
    }
  }
  const auto scale = hn::Set(d, shape.scale);
  for (int q = 0; q < kQueries; ++q) {
    for (int p = 0; p < kParts; ++p) {
      const int64_t cluster = first + p * lanes;
      if (cluster >= view.clusters) break;
      const auto center = hn::Set(d, table.centers[head + q]);
      const auto dot = hn::MulAdd(hn::LoadU(d, view.centroid_scales + cluster), dots[q][p], center);
      const auto variance = hn::Mul(hn::LoadU(d, view.spread_scales + cluster), variances[q][p]);
      const int64_t at = (head + q) * scores.stride + cluster;
      StoreUpTo(ClampLogit(hn::Mul(scale, dot)), scores.logits + at, view.clusters - cluster);
      StoreUpTo(ClampLogit(hn::Mul(scale, hn::Sqrt(variance))), scores.sigmas + at, view.clusters - cluster);
    }
  }
}

void Score(const HeadShape& shape, const float* queries, const ClusterView& view, ClusterScores scores) {
  if (view.clusters == 0) return;
  QueryTable table;
  FillTable(shape, queries, view.center, &table);
  for (int64_t first = 0; first < view.clusters; first += kClusterTile) {
    int64_t head = 0;
    for (; head + kScoreQueries <= shape.group; head += kScoreQueries) {
      ScoreTile<kScoreQueries>(shape, queries, table, view, first, head, scores);
    }
    for (; head < shape.group; ++head) ScoreTile<1>(shape, queries, table, view, first, head, scores);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {

HWY_EXPORT(Score);

void ScoreClusters(const HeadShape& shape, const float* queries, const ClusterView& view, ClusterScores scores) {
  HWY_DYNAMIC_DISPATCH(Score)(shape, queries, view, scores);
}

}  // namespace swell::attention
#endif  // HWY_ONCE
