// Scores of clusters: one lane is one cluster; four dimensions of a tile are one vector of bytes.
#include "lib/attention/byte_dots.h"
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

// A block is kTiles tiles of kParts vectors for kScoreQueries query heads; their sums must stay in registers.
constexpr int kParts = kClusterTile / hn::MaxLanes(FloatTag());
constexpr int kTiles = kManyRegisters && kParts == 1 ? kDotTiles : 1;
constexpr int kScoreQueries = kManyRegisters ? kDotQueries : HWY_MAX(1, 8 / kParts);

// What the scores of one view's clusters have in common.
struct ViewTerms {
  float centers[kMaxGroup];  // q . center
  float widths[kMaxGroup];   // sqrt(sum q^2 profile)
};

void FillTerms(const HeadShape& shape, const float* queries, const ClusterView& view, ViewTerms* terms) {
  const FloatTag d;
  for (int64_t g = 0; g < shape.group; ++g) {
    auto center = hn::Zero(d), width = hn::Zero(d);
    for (int64_t i = 0; i < shape.head_dim; i += hn::Lanes(d)) {
      const auto query = hn::LoadU(d, queries + g * shape.head_dim + i);
      center = hn::MulAdd(query, hn::LoadU(d, view.center + i), center);
      width = hn::MulAdd(hn::Mul(query, query), hn::LoadU(d, view.spread_profile + i), width);
    }
    terms->centers[g] = Sum(center);
    terms->widths[g] = std::sqrt(Sum(width));
  }
}

// A tile and where its scores go.
struct Tile {
  const ClusterView* view = nullptr;
  int64_t first = 0;     // cluster
  int64_t clusters = 0;  // without padding
  int64_t to = 0;        // entry of the scores
  const ViewTerms* terms = nullptr;
};

// Writes the products of one query head with part `part` of a tile's centroids as logits, and the sigmas.
HWY_INLINE void StoreScores(const HeadShape& shape, const Tile& tile, int part, int64_t head, FloatVec products,
                            const ClusterScores& scores) {
  const FloatTag d;
  const int64_t j = part * hn::Lanes(d);
  if (j >= tile.clusters) return;
  const auto scale = hn::Set(d, shape.scale);
  const int64_t at = head * scores.stride + tile.to + j;
  const auto center = hn::Set(d, tile.terms->centers[head]);
  const auto dot = hn::MulAdd(hn::LoadU(d, tile.view->centroid_scales + tile.first + j), products, center);
  const auto width = hn::Set(d, tile.terms->widths[head]);
  const auto sigma = hn::Mul(hn::LoadU(d, tile.view->spreads + tile.first + j), width);
  StoreUpTo(ClampLogit(hn::Mul(scale, dot)), scores.logits + at, tile.clusters - j);
  StoreUpTo(ClampLogit(hn::Mul(scale, sigma)), scores.sigmas + at, tile.clusters - j);
}

// Byte kByte of every 32-bit lane, as float.
template <int kByte>
HWY_INLINE FloatVec ByteOf(hn::Vec<hn::RebindToSigned<FloatTag>> quads) {
  return hn::ConvertTo(FloatTag(), hn::ShiftRight<24>(hn::ShiftLeft<24 - 8 * kByte>(quads)));
}

// Scores of one tile for kQueries heads from `head` on, in floats.
template <int kQueries>
void ScoreFloats(const HeadShape& shape, const float* queries, const Tile& tile, int64_t head,
                 const ClusterScores& scores) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const int64_t lanes = hn::Lanes(d);
  const int64_t head_dim = shape.head_dim;
  const float* query = queries + head * head_dim;
  const auto* quads = reinterpret_cast<const int32_t*>(tile.view->centroids + tile.first * head_dim);
  for (int part = 0; part < kParts; ++part) {
    FloatVec products[kQueries];
    for (auto& product : products) product = hn::Zero(d);
    for (int64_t i = 0; i < head_dim; i += kQuad) {
      const auto bytes = hn::LoadU(di, quads + i / kQuad * kClusterTile + part * lanes);
      const FloatVec centroids[kQuad] = {ByteOf<0>(bytes), ByteOf<1>(bytes), ByteOf<2>(bytes), ByteOf<3>(bytes)};
      for (int q = 0; q < kQueries; ++q) {
        for (int b = 0; b < kQuad; ++b) {
          products[q] = hn::MulAdd(hn::Set(d, query[q * head_dim + i + b]), centroids[b], products[q]);
        }
      }
    }
    for (int q = 0; q < kQueries; ++q) StoreScores(shape, tile, part, head + q, products[q], scores);
  }
}

void ScoreTileInFloats(const HeadShape& shape, const float* queries, const Tile& tile, const ClusterScores& scores) {
  int64_t head = 0;
  for (; head + kScoreQueries <= shape.group; head += kScoreQueries) {
    ScoreFloats<kScoreQueries>(shape, queries, tile, head, scores);
  }
  for (; head < shape.group; ++head) ScoreFloats<1>(shape, queries, tile, head, scores);
}

void ScoreTilesInBytes(const HeadShape& shape, const QuantizedQueries& queries, const Tile* tiles, int32_t n_tiles,
                       const ClusterScores& scores) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const int8_t* centroids[kDotTiles] = {};
  for (int32_t t = 0; t < n_tiles; ++t) centroids[t] = tiles[t].view->centroids + tiles[t].first * shape.head_dim;
  alignas(64) int32_t dots[kDotQueries][kDotTiles][kClusterTile];
  for (int32_t head = 0; head < shape.group; head += kDotQueries) {
    const int32_t n_queries = std::min(shape.group - head, kDotQueries);
    DotBytes(queries, head, n_queries, centroids, n_tiles, dots);
    for (int32_t q = 0; q < n_queries; ++q) {
      const auto step = hn::Set(d, queries.steps[head + q]);
      for (int32_t t = 0; t < n_tiles; ++t) {
        for (int part = 0; part < kParts; ++part) {
          const auto dot = hn::ConvertTo(d, hn::Load(di, dots[q][t] + part * hn::Lanes(d)));
          StoreScores(shape, tiles[t], part, head + q, hn::Mul(step, dot), scores);
        }
      }
    }
  }
}

// Calls score(tiles, count) for blocks of up to kTiles tiles of `runs`.
template <typename ScoreTiles>
void ForEachBlock(const HeadShape& shape, const float* queries, std::span<const ClusterRun> runs,
                  const ScoreTiles& score) {
  // Of the view that a tile is from, and of the one before it, from which a tile may still wait.
  static_assert(kTiles <= 2);
  ViewTerms terms[2];
  int which = 0;
  const ClusterView* view = nullptr;
  Tile waiting[kTiles];
  int tiles = 0;
  int64_t to = 0;
  for (const ClusterRun& run : runs) {
    for (int64_t j = 0; j < run.clusters; j += kClusterTile) {
      if (run.view != view) {
        view = run.view;
        which ^= 1;
        FillTerms(shape, queries, *view, &terms[which]);
      }
      const int64_t clusters = std::min<int64_t>(kClusterTile, run.clusters - j);
      waiting[tiles++] = {run.view, run.first + j, clusters, to, &terms[which]};
      to += clusters;
      if (tiles < kTiles) continue;
      score(waiting, tiles);
      tiles = 0;
    }
  }
  if (tiles > 0) score(waiting, tiles);
}

void Score(const HeadShape& shape, const float* queries, std::span<const ClusterRun> runs, ClusterScores scores) {
#if HWY_TARGET == HWY_AVX3
  if (HasByteDots()) {
    const QuantizedQueries quantized(shape.group, shape.head_dim, queries);
    ForEachBlock(shape, queries, runs, [&](const Tile* tiles, int32_t count) HWY_ATTR {
      ScoreTilesInBytes(shape, quantized, tiles, count, scores);
    });
    return;
  }
#endif
  ForEachBlock(shape, queries, runs, [&](const Tile* tiles, int32_t count) HWY_ATTR {
    for (int32_t t = 0; t < count; ++t) ScoreTileInFloats(shape, queries, tiles[t], scores);
  });
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
