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
constexpr int kTiles = kManyRegisters && kParts == 1 ? 2 : 1;  // at most 2: see Score
constexpr int kScoreQueries = kManyRegisters ? (kParts == 1 ? 4 : 2) : HWY_MAX(1, 4 / kParts);

// A tile and where its scores go.
struct Tile {
  const ClusterView* view = nullptr;
  int64_t first = 0;               // cluster
  int64_t clusters = 0;            // without padding
  int64_t to = 0;                  // entry of the scores
  const float* centers = nullptr;  // [group]: q . center
};

HWY_INLINE FloatVec LoadSpread(const uint8_t* from) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<uint8_t, FloatTag> d8;
  return hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, from)));
}

// Writes the sums of the kParts vectors of a tile as logits and sigmas of one query head.
HWY_INLINE void StoreTile(const HeadShape& shape, const Tile& tile, float center_dot, const FloatVec* dots,
                          const FloatVec* variances, float* logits, float* sigmas) {
  const FloatTag d;
  const auto scale = hn::Set(d, shape.scale);
  for (int p = 0; p < kParts; ++p) {
    const int64_t j = p * hn::Lanes(d);
    if (j >= tile.clusters) return;
    const int64_t cluster = tile.first + j;
    const auto dot = hn::MulAdd(hn::LoadU(d, tile.view->centroid_scales + cluster), dots[p], hn::Set(d, center_dot));
    const auto variance = hn::Mul(hn::LoadU(d, tile.view->spread_scales + cluster), variances[p]);
    StoreUpTo(ClampLogit(hn::Mul(scale, dot)), logits + j, tile.clusters - j);
    StoreUpTo(ClampLogit(hn::Mul(scale, hn::Sqrt(variance))), sigmas + j, tile.clusters - j);
  }
}

// Logits and sigmas of kBlockTiles tiles, for kQueries heads from `head` on.
template <int kBlockTiles, int kQueries>
void ScoreBlock(const HeadShape& shape, const float* queries, const float* squares, const Tile* tiles, int64_t head,
                const ClusterScores& scores) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  const int64_t head_dim = shape.head_dim;
  const float* query = queries + head * head_dim;
  const float* square = squares + head * head_dim;
  const int8_t* centroids[kBlockTiles];
  const uint8_t* spreads[kBlockTiles];
  for (int tile = 0; tile < kBlockTiles; ++tile) {
    centroids[tile] = tiles[tile].view->centroids + tiles[tile].first * head_dim;
    spreads[tile] = tiles[tile].view->spreads + tiles[tile].first * head_dim;
  }
  FloatVec dots[kQueries][kBlockTiles * kParts], variances[kQueries][kBlockTiles * kParts];
  for (int q = 0; q < kQueries; ++q) {
    for (int v = 0; v < kBlockTiles * kParts; ++v) dots[q][v] = variances[q][v] = hn::Zero(d);
  }
  for (int64_t i = 0; i < head_dim; ++i) {
    for (int v = 0; v < kBlockTiles * kParts; ++v) {
      const int64_t at = i * kClusterTile + v % kParts * lanes;
      const auto centroid = Int8Rows::Load(d, centroids[v / kParts] + at);
      const auto spread = LoadSpread(spreads[v / kParts] + at);
      for (int q = 0; q < kQueries; ++q) {
        dots[q][v] = hn::MulAdd(hn::Set(d, query[q * head_dim + i]), centroid, dots[q][v]);
        variances[q][v] = hn::MulAdd(hn::Set(d, square[q * head_dim + i]), spread, variances[q][v]);
      }
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    for (int tile = 0; tile < kBlockTiles; ++tile) {
      const int64_t at = (head + q) * scores.stride + tiles[tile].to;
      StoreTile(shape, tiles[tile], tiles[tile].centers[head + q], dots[q] + tile * kParts,
                variances[q] + tile * kParts, scores.logits + at, scores.sigmas + at);
    }
  }
}

template <int kBlockTiles>
void ScoreHeads(const HeadShape& shape, const float* queries, const float* squares, const Tile* tiles,
                const ClusterScores& scores) {
  constexpr int kThree = HWY_MIN(3, kScoreQueries), kTwo = HWY_MIN(2, kScoreQueries);
  for (int64_t head = 0; head < shape.group; head += kScoreQueries) {
    switch (std::min<int64_t>(shape.group - head, kScoreQueries)) {
      case 1:
        ScoreBlock<kBlockTiles, 1>(shape, queries, squares, tiles, head, scores);
        break;
      case 2:
        ScoreBlock<kBlockTiles, kTwo>(shape, queries, squares, tiles, head, scores);
        break;
      case 3:
        ScoreBlock<kBlockTiles, kThree>(shape, queries, squares, tiles, head, scores);
        break;
      default:
        ScoreBlock<kBlockTiles, kScoreQueries>(shape, queries, squares, tiles, head, scores);
        break;
    }
  }
}

// products[g] = query head g . center
void DotCenter(const HeadShape& shape, const float* queries, const float* center, float* products) {
  const FloatTag d;
  for (int64_t g = 0; g < shape.group; ++g) {
    auto sum = hn::Zero(d);
    for (int64_t i = 0; i < shape.head_dim; i += hn::Lanes(d)) {
      sum = hn::MulAdd(hn::LoadU(d, queries + g * shape.head_dim + i), hn::LoadU(d, center + i), sum);
    }
    products[g] = Sum(sum);
  }
}

void Score(const HeadShape& shape, const float* queries, std::span<const ClusterRun> runs, ClusterScores scores) {
  alignas(64) float squares[kMaxGroup * kMaxHeadDim];
  for (int64_t i = 0; i < shape.group * shape.head_dim; ++i) squares[i] = queries[i] * queries[i];
  // Of the run that a tile is from, and of the run before it, from which a tile may still wait for a block.
  float centers[2][kMaxGroup];
  int which = 0;
  const float* center = nullptr;
  Tile waiting[kTiles];
  int tiles = 0;
  int64_t to = 0;
  for (const ClusterRun& run : runs) {
    for (int64_t j = 0; j < run.clusters; j += kClusterTile) {
      if (run.view->center != center) {
        center = run.view->center;
        which ^= 1;
        DotCenter(shape, queries, center, centers[which]);
      }
      const int64_t clusters = std::min<int64_t>(kClusterTile, run.clusters - j);
      waiting[tiles++] = {run.view, run.first + j, clusters, to, centers[which]};
      to += clusters;
      if (tiles < kTiles) continue;
      ScoreHeads<kTiles>(shape, queries, squares, waiting, scores);
      tiles = 0;
    }
  }
  if (tiles > 0) ScoreHeads<1>(shape, queries, squares, waiting, scores);
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {

HWY_EXPORT(Score);

void ScoreClusters(const HeadShape& shape, const float* queries, std::span<const ClusterRun> runs,
                   ClusterScores scores) {
  HWY_DYNAMIC_DISPATCH(Score)(shape, queries, runs, scores);
}

}  // namespace swell::attention
#endif  // HWY_ONCE
