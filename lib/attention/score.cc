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

// A block is kTiles tiles of kParts vectors for kScoreQueries query heads; two sums each must stay in registers.
constexpr int kParts = kClusterTile / hn::MaxLanes(FloatTag());
constexpr int kTiles = kManyRegisters && kParts == 1 ? 2 : 1;
constexpr int kScoreQueries = kManyRegisters ? (kParts == 1 ? 4 : 2) : HWY_MAX(1, 4 / kParts);

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

// Writes the sums of the kParts vectors of the tile from cluster `first` on as logits and sigmas of one query head.
HWY_INLINE void StoreTile(const HeadShape& shape, const ClusterView& view, int64_t first, float center_dot,
                          const FloatVec* dots, const FloatVec* variances, float* logits, float* sigmas) {
  const FloatTag d;
  const auto scale = hn::Set(d, shape.scale);
  for (int p = 0; p < kParts; ++p) {
    const int64_t cluster = first + p * hn::Lanes(d);
    if (cluster >= view.clusters) return;
    const auto dot = hn::MulAdd(hn::LoadU(d, view.centroid_scales + cluster), dots[p], hn::Set(d, center_dot));
    const auto variance = hn::Mul(hn::LoadU(d, view.spread_scales + cluster), variances[p]);
    StoreUpTo(ClampLogit(hn::Mul(scale, dot)), logits + cluster, view.clusters - cluster);
    StoreUpTo(ClampLogit(hn::Mul(scale, hn::Sqrt(variance))), sigmas + cluster, view.clusters - cluster);
  }
}

// Logits and sigmas of kBlockTiles tiles from cluster `first` on, for kQueries heads from `head` on.
template <int kBlockTiles, int kQueries>
void ScoreBlock(const HeadShape& shape, const float* queries, const QueryTable& table, const ClusterView& view,
                int64_t first, int64_t head, const ClusterScores& scores) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  const int64_t head_dim = shape.head_dim;
  const int64_t tile_bytes = head_dim * kClusterTile;
  const float* query = queries + head * head_dim;
  const float* square = table.squares + head * head_dim;
  const int8_t* centroids = view.centroids + first * head_dim;
  const uint8_t* spreads = view.spreads + first * head_dim;
  FloatVec dots[kQueries][kBlockTiles * kParts], variances[kQueries][kBlockTiles * kParts];
  for (int q = 0; q < kQueries; ++q) {
    for (int v = 0; v < kBlockTiles * kParts; ++v) dots[q][v] = variances[q][v] = hn::Zero(d);
  }
  for (int64_t i = 0; i < head_dim; ++i) {
    for (int v = 0; v < kBlockTiles * kParts; ++v) {
      const int64_t at = v / kParts * tile_bytes + i * kClusterTile + v % kParts * lanes;
      const auto centroid = Int8Rows::Load(d, centroids + at);
      const auto spread = LoadSpread(spreads + at);
      for (int q = 0; q < kQueries; ++q) {
        dots[q][v] = hn::MulAdd(hn::Set(d, query[q * head_dim + i]), centroid, dots[q][v]);
        variances[q][v] = hn::MulAdd(hn::Set(d, square[q * head_dim + i]), spread, variances[q][v]);
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    const int64_t at = (head + q) * scores.stride;
    for (int tile = 0; tile < kBlockTiles; ++tile) {
      StoreTile(shape, view, first + tile * kClusterTile, table.centers[head + q], dots[q] + tile * kParts,
                variances[q] + tile * kParts, scores.logits + at, scores.sigmas + at);
    }
  }
}

template <int kBlockTiles>
void ScoreHeads(const HeadShape& shape, const float* queries, const QueryTable& table, const ClusterView& view,
                int64_t first, const ClusterScores& scores) {
  constexpr int kThree = HWY_MIN(3, kScoreQueries), kTwo = HWY_MIN(2, kScoreQueries);
  for (int64_t head = 0; head < shape.group; head += kScoreQueries) {
    switch (std::min<int64_t>(shape.group - head, kScoreQueries)) {
      case 1:
        ScoreBlock<kBlockTiles, 1>(shape, queries, table, view, first, head, scores);
        break;
      case 2:
        ScoreBlock<kBlockTiles, kTwo>(shape, queries, table, view, first, head, scores);
        break;
      case 3:
        ScoreBlock<kBlockTiles, kThree>(shape, queries, table, view, first, head, scores);
        break;
      default:
        ScoreBlock<kBlockTiles, kScoreQueries>(shape, queries, table, view, first, head, scores);
        break;
    }
  }
}

void Score(const HeadShape& shape, const float* queries, const ClusterView& view, ClusterScores scores) {
  if (view.clusters == 0) return;
  QueryTable table;
  FillTable(shape, queries, view.center, &table);
  int64_t first = 0;
  for (; first + (kTiles - 1) * kClusterTile < view.clusters; first += kTiles * kClusterTile) {
    ScoreHeads<kTiles>(shape, queries, table, view, first, scores);
  }
  if (first < view.clusters) ScoreHeads<1>(shape, queries, table, view, first, scores);
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
