// Scores of clusters: one lane is one cluster; four dimensions of a tile are one vector of bytes.
#include <utility>

#include "lib/attention/byte_dots.h"
#include "lib/attention/tiles_ahead.h"
#include "lib/base/simd_targets.h"
#include "swell/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/attention/score.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/attention/rows-inl.h"

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
  float widths[kMaxGroup];   // of ClusterScores
};

// Of query heads head .. head + kHeads - 1; kHeads <= 4.
template <int kHeads>
void FillTermsOf(const HeadShape& shape, const float* queries, const ClusterView& view, int64_t head,
                 ViewTerms* terms) {
  const FloatTag d;
  FloatVec centers[4], variances[4];
  for (int g = 0; g < 4; ++g) centers[g] = variances[g] = hn::Zero(d);
  for (int64_t i = 0; i < shape.head_dim; i += hn::Lanes(d)) {
    const auto center = hn::LoadU(d, view.center + i), profile = hn::LoadU(d, view.spread_profile + i);
    for (int g = 0; g < kHeads; ++g) {
      const auto query = hn::LoadU(d, queries + (head + g) * shape.head_dim + i);
      centers[g] = hn::MulAdd(query, center, centers[g]);
      variances[g] = hn::MulAdd(hn::Mul(query, query), profile, variances[g]);
    }
  }
  float center_sums[4], variance_sums[4];
  StoreSums(centers[0], centers[1], centers[2], centers[3], center_sums);
  StoreSums(variances[0], variances[1], variances[2], variances[3], variance_sums);
  for (int g = 0; g < kHeads; ++g) {
    terms->centers[head + g] = center_sums[g];
    terms->widths[head + g] = std::min(shape.scale * std::sqrt(variance_sums[g]), kLargest);
  }
}

void FillTerms(const HeadShape& shape, const float* queries, const ClusterView& view, ViewTerms* terms) {
  int64_t head = 0;
  for (; head + 4 <= shape.group; head += 4) FillTermsOf<4>(shape, queries, view, head, terms);
  if (shape.group - head >= 2) {
    FillTermsOf<2>(shape, queries, view, head, terms);
    head += 2;
  }
  if (head < shape.group) FillTermsOf<1>(shape, queries, view, head, terms);
}

// A tile and where its scores go.
struct Tile {
  const ClusterView* view = nullptr;
  int64_t first = 0;              // cluster
  int64_t clusters = 0;           // without padding
  int64_t to = 0;                 // entry of the scores
  const int8_t* ahead = nullptr;  // centroids of the tile kTilesAhead later
  float centers[kMaxGroup];       // ViewTerms' of its view; tiles of several views wait together

  const int8_t* Centroids(int64_t head_dim) const { return view->centroids + first * head_dim; }
};

// Tiles between the one that is read and the one that is asked for. The hardware follows a stream of 4 KiB at most and
// forgets it at the end of a view.
constexpr int kTilesAhead = 4;

// Writes the products of one query head with part `part` of a tile's centroids as logits.
HWY_INLINE void StoreLogits(const HeadShape& shape, const Tile& tile, int part, int64_t head, FloatVec products,
                            const ClusterScores& scores) {
  const FloatTag d;
  const int64_t j = part * hn::Lanes(d);
  const auto center = hn::Set(d, tile.centers[head]);
  const auto dot = hn::MulAdd(hn::LoadU(d, tile.view->centroid_scales + tile.first + j), products, center);
  const auto logit = ClampLogit(hn::Mul(hn::Set(d, shape.scale), dot));
  const auto valid = hn::FirstN(d, std::max<int64_t>(tile.clusters - j, 0));
  hn::StoreU(hn::IfThenElse(valid, logit, hn::Set(d, -kInfinity)), d,
             scores.logits + head * scores.stride + tile.to + j);
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
  const auto* quads = reinterpret_cast<const int32_t*>(tile.Centroids(head_dim));
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
    for (int q = 0; q < kQueries; ++q) StoreLogits(shape, tile, part, head + q, products[q], scores);
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
  const int8_t* ahead[kDotTiles] = {};
  for (int32_t t = 0; t < n_tiles; ++t) {
    centroids[t] = tiles[t].Centroids(shape.head_dim);
    ahead[t] = tiles[t].ahead;
  }
  alignas(64) int32_t dots[kDotQueries][kDotTiles][kClusterTile];
  for (int32_t head = 0; head < shape.group; head += kDotQueries) {
    const int32_t n_queries = std::min(shape.group - head, kDotQueries);
    DotBytes(queries, head, n_queries, centroids, ahead, n_tiles, dots);
    for (int32_t q = 0; q < n_queries; ++q) {
      const auto step = hn::Set(d, queries.steps[head + q]);
      for (int32_t t = 0; t < n_tiles; ++t) {
        for (int part = 0; part < kParts; ++part) {
          const auto dot = hn::ConvertTo(d, hn::Load(di, dots[q][t] + part * hn::Lanes(d)));
          StoreLogits(shape, tiles[t], part, head + q, hn::Mul(step, dot), scores);
        }
      }
    }
  }
}

// Writes the widths of `runs` and calls score(tiles, count) for blocks of up to kTiles tiles of them.
template <typename ScoreTiles>
void ForEachBlock(const HeadShape& shape, const float* queries, std::span<const ClusterRun> runs,
                  const ClusterScores& scores, const ScoreTiles& score) {
  const ClusterView* view = nullptr;
  ViewTerms terms;
  Tile waiting[kTiles];
  int tiles = 0;
  const auto flush = [&] {
    if (tiles > 0) score(waiting, tiles);
    tiles = 0;
  };
  const ClusterView* asked = nullptr;
  TilesAhead ahead(runs, [&](const ClusterRun& tile) {
    AskFor(tile.view->centroid_scales + tile.first, kClusterTile);
    if (std::exchange(asked, tile.view) == tile.view) return;
    AskFor(tile.view->center, shape.head_dim);
    AskFor(tile.view->spread_profile, shape.head_dim);
  });
  TileCursor cursor(runs, kTilesAhead);
  int64_t to = 0;
  float* widths = scores.widths;
  for (const ClusterRun& run : runs) {
    if (run.view != view) {
      view = run.view;
      FillTerms(shape, queries, *view, &terms);
    }
    widths = std::copy_n(terms.widths, shape.group, widths);
    for (int64_t j = 0; j < run.clusters; j += kClusterTile, to += kClusterTile) {
      ahead.Advance();
      const int64_t clusters = std::min<int64_t>(kClusterTile, run.clusters - j);
      const ClusterRun& later = cursor.Next();
      Tile& tile = waiting[tiles++];
      tile = {view, run.first + j, clusters, to, later.view->centroids + later.first * shape.head_dim, {}};
      std::copy_n(terms.centers, shape.group, tile.centers);
      if (tiles == kTiles) flush();
    }
  }
  flush();
}

void Score(const HeadShape& shape, const float* queries, std::span<const ClusterRun> runs, ClusterScores scores) {
#if HWY_TARGET == HWY_AVX3
  if (HasByteDots()) {
    const QuantizedQueries quantized(shape.group, shape.head_dim, queries);
    ForEachBlock(shape, queries, runs, scores, [&](const Tile* tiles, int32_t count) HWY_ATTR {
      ScoreTilesInBytes(shape, quantized, tiles, count, scores);
    });
    return;
  }
#endif
  ForEachBlock(shape, queries, runs, scores, [&](const Tile* tiles, int32_t count) HWY_ATTR {
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
